"""An initramfs: a cpio archive (format "newc" of the kernel's initramfs buffer format) of a few files."""

import stat

_ALIGN = 4
_END = "TRAILER!!!"


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """`files`: path without a leading "/" → (content, permission bits). Equal input, equal bytes."""
    parents = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    parts = [_entry(number, path, b"", stat.S_IFDIR | 0o755) for number, path in enumerate(sorted(parents), start=1)]
    for number, (path, (content, mode)) in enumerate(sorted(files.items()), start=len(parts) + 1):
        parts.append(_entry(number, path, content, stat.S_IFREG | mode))
    return b"".join((*parts, _entry(0, _END, b"", 0)))


def _entry(inode: int, path: str, content: bytes, mode: int) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)
