"""What every microVM boots: a kernel of the distribution and an initramfs with our own PID 1 (`guest/`).

Made once per user by `skerry doctor --get microvm`, in `~/.cache/skerry/microvm`, from what apt offers then:

    linux-image-cloud-amd64 -> its newest kernel -> vmlinux (unpacked: QEMU by PVH and Firecracker load it as it is)
                                                 -> the modules that a guest needs
    guest/*.c -> gcc -static -> init  ┐
    the modules, in order of need     ┴-> initramfs.cpio
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from skerry.adapters.sandbox.microvm import cpio
from skerry.kit.record import Record, decode, encode

GET = "skerry doctor --get microvm"
PACKAGE = "linux-image-cloud-amd64"
COMPILER = ("gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Wno-unused-result")
# In this order: the kernel's own order of dependence. Paths below lib/modules/<version>/kernel.
MODULES = (
    "drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_mmio.ko", "net/core/failover.ko",
    "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko", "drivers/block/virtio_blk.ko", "drivers/char/virtio_console.ko",
    "drivers/virtio/virtio_balloon.ko", "fs/overlayfs/overlay.ko", "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
)  # fmt: skip
SOURCES = Path(__file__).parent / "guest"

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4_BLOCK_BYTES = 8 << 20  # what a block of the legacy format unpacks to, at most
_VMLINUX_BYTES_MAX = 256 << 20
_COMMAND_TIMEOUT_S = 300


class BuildError(Exception):
    """What is missing to make it, and how to get that."""


class GuestFiles(Record):
    """`kernel` is an ELF file, `release` its version as `uname -r` says it; `key` names everything that goes into a guest."""

    kernel: str
    initramfs: str
    release: str
    key: str


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "skerry/microvm"


def find() -> GuestFiles | None:
    """What `get` made, if it was made of this guest's source; None: `get` has to be run."""
    try:
        found = decode((cache() / f"{_recipe()}.json").read_bytes(), GuestFiles)
    except (OSError, ValueError):
        return None
    return found if Path(found.kernel).is_file() and Path(found.initramfs).is_file() else None


def get() -> GuestFiles:
    """Make it, or give what is there. Raises `BuildError`. Two at once take turns; killed in between, it starts again."""
    if platform.machine() != "x86_64":
        raise BuildError(f"microVMs need an x86-64 machine; this is {platform.machine()}")
    with _locked(cache()):
        found = find()
        if found is not None:
            return found
        kernel = _kernel()
        init = _compile()
        return _assemble(kernel, init)


def _recipe() -> str:
    hasher = hashlib.sha256(repr((COMPILER, MODULES)).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:16]


def _kernel() -> Path:
    """A directory named after the kernel's release, with `vmlinux` and the modules."""
    name = _newest_package()
    release = name.removeprefix("linux-image-")
    kept = cache() / release
    if kept.is_dir():
        return kept
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".kernel.") as scratch_name:
        scratch = Path(scratch_name)
        _run("apt-get", "download", "-q", name, cwd=scratch)
        package = next(scratch.glob("*.deb"), None)
        if package is None:
            raise BuildError(f"apt offers no {name}; try: sudo apt-get update")
        _run("dpkg", "-x", str(package), "root", cwd=scratch)
        made = scratch / "made"
        made.mkdir()
        (made / "vmlinux").write_bytes(unpack((scratch / f"root/boot/vmlinuz-{release}").read_bytes()))
        for module in MODULES:
            shutil.copyfile(scratch / f"root/lib/modules/{release}/kernel" / module, made / Path(module).name)
        for path in (made, *made.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)  # read by the uid of each monitor
        made.rename(kept)
    return kept


def _newest_package() -> str:
    shown = _run("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-[\w.+-]+)", shown)
    if found is None:
        raise BuildError(f"apt knows no {PACKAGE} (a package of Debian); try: sudo apt-get update")
    return found.group(1)


def unpack(image: bytes) -> bytes:
    """vmlinux out of a bzImage that is packed with LZ4 or Zstandard, as Debian's are. Raises `BuildError`."""
    packed = _packed(image)
    if packed.startswith(_LZ4_LEGACY):
        whole = _unpack_lz4(packed)
    elif packed.startswith(_ZSTD):
        whole = _unpack_zstd(packed)
    else:
        raise BuildError("the kernel is packed neither with LZ4 nor with Zstandard")
    if not whole.startswith(b"\x7fELF"):
        raise BuildError("the kernel does not unpack to an ELF file")
    return whole


def _packed(image: bytes) -> bytes:
    """What the boot code unpacks, by the x86 boot protocol (2.08): sectors of the set-up, then an offset."""
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x250:
        raise BuildError("it is no kernel that Linux's boot protocol knows")
    start = (image[0x1F1] + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    return image[start : start + int.from_bytes(image[0x24C:0x250], "little")]


def _unpack_zstd(packed: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed) as reader:
            return reader.read(_VMLINUX_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise BuildError(f"the kernel does not unpack: {error}") from error


def _unpack_lz4(packed: bytes) -> bytes:
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError as error:
        raise BuildError("liblz4 is missing: sudo apt-get install liblz4-1") from error
    parts: list[bytes] = []
    at = len(_LZ4_LEGACY)
    while at + 4 <= len(packed) and sum(map(len, parts)) < _VMLINUX_BYTES_MAX:
        size = int.from_bytes(packed[at : at + 4], "little")
        if size == 0 or at + 4 + size > len(packed):
            break  # what follows the last block is its length in bytes, for the boot code
        target = ctypes.create_string_buffer(_LZ4_BLOCK_BYTES)
        count = library.LZ4_decompress_safe(packed[at + 4 : at + 4 + size], target, size, _LZ4_BLOCK_BYTES)
        if count < 0:
            break
        parts.append(target.raw[:count])
        at += 4 + size
        if count < _LZ4_BLOCK_BYTES:
            break
    return b"".join(parts)


def _compile() -> bytes:
    if shutil.which(COMPILER[0]) is None:
        raise BuildError("no C compiler: sudo apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".init.") as scratch:
        target = Path(scratch) / "init"
        _run(*COMPILER, "-o", str(target), *(str(path) for path in sorted(SOURCES.glob("*.c"))))
        return target.read_bytes()


def _assemble(kernel: Path, init: bytes) -> GuestFiles:
    files = {f"module-{number:02}.ko": (kernel / Path(path).name, 0o644) for number, path in enumerate(MODULES)}
    content = {name: (path.read_bytes(), mode) for name, (path, mode) in files.items()}
    content["modules"] = ("".join(f"/{name}\n" for name in sorted(files)).encode(), 0o644)
    content["init"] = (init, 0o755)
    archive = cpio.archive(content)
    key = hashlib.sha256(kernel.name.encode() + archive).hexdigest()[:16]
    target = cache() / f"initramfs-{key}.cpio"
    _write_whole(target, archive)
    made = GuestFiles(kernel=str(kernel / "vmlinux"), initramfs=str(target), release=kernel.name, key=key)
    _write_whole(cache() / f"{_recipe()}.json", encode(made))
    return made


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.chmod(0o644)
    temporary.rename(path)


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not on this machine (the kernel comes from Debian's or Ubuntu's packages)") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} did not end within {_COMMAND_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:4])}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
