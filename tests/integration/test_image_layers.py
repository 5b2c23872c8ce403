"""Layers as builders make them, and layers made to break out, fill the disk or exhaust the machine."""

import asyncio
import gzip
import io
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import kernel
from skerry.adapters.images.layers import UnpackLimits
from skerry.adapters.images.overlay import OverlayImages
from skerry.core.types.ids import Digest
from skerry.ports.images import BadImage, ImagesUnavailable
from skerry.testing.contracts.images import wrong_diff_id
from skerry.testing.images import Built, File, Folder, Link, build, pack, tar
from skerry.testing.oci_node import is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="mounts need root")
MIB = 1 << 20
INSTANCE = "a" * 16


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs: dict[Digest, bytes] = {}
        self.run = Path("/run/skerry-test") / secrets.token_hex(4)  # tests of one name run side by side
        self.limits = UnpackLimits(bytes_max=64 * MIB, entries_max=1000, ratio_max=100)

    async def open(self) -> OverlayImages:
        images = OverlayImages(self.root / "images", self.stream, run_dir=self.run, limits=self.limits)
        await images.attach(frozenset())
        return images

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        yield self.blobs[digest]

    async def mounted(self, built: Built) -> Path:
        self.blobs |= built.blobs
        return await (await self.open()).mount(INSTANCE, built.image, writable_mib=16)

    async def refused(self, built: Built) -> str:
        """Why; and nothing of it is left."""
        self.blobs |= built.blobs
        images = await self.open()
        with pytest.raises(BadImage) as caught:
            await images.prepare(built.image)
        assert os.listdir(self.root / "images/layers") == []
        return str(caught.value)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "canary").write_text("untouched")
    node = Node(tmp_path)
    yield node
    await node.open()
    assert (tmp_path / "canary").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["canary", "images"]
    assert kernel.mounts_below(node.run) == ()
    shutil.rmtree(node.run)


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for member, data in members:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return out.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", data: bytes = b"", **fields: int
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def image(*layers: bytes) -> Built:
    return build(list(layers), compression="none")


async def test_later_layers_change_earlier_ones(node: Node) -> None:
    lower = tar({
        "kept/a": File(content=b"a"), "gone/x": File(content=b"x"), "emptied/y": File(content=b"y"), "file": File(content=b"1"),
        "was-a-directory/z": File(), "was-a-file": File(),
    })  # fmt: skip
    upper = tar({
        "gone/.wh.x": File(), "emptied/.wh..wh..opq": File(), "emptied/new": File(content=b"n"), "file": File(content=b"2"),
        "was-a-directory": File(content=b"file"), "was-a-file/inside": File(content=b"in"),
    })  # fmt: skip
    root = await node.mounted(build([lower, upper]))
    assert (root / "kept/a").read_bytes() == b"a"
    assert os.listdir(root / "gone") == []
    assert os.listdir(root / "emptied") == ["new"]
    assert (root / "file").read_bytes() == b"2"
    assert (root / "was-a-directory").read_bytes() == b"file"
    assert (root / "was-a-file/inside").read_bytes() == b"in"


async def test_files_keep_their_modes_owners_links_and_times(node: Node) -> None:
    tree = {
        "bin/tool": File(content=b"tool", mode=0o4755), "bin/other": Link(target="bin/tool", hard=True),
        "bin/soft": Link(target="../etc/x"), "home/ada": Folder(mode=0o700, uid=1000, gid=1001),
        "home/ada/key": File(content=b"k", mode=0o600, uid=1000, gid=1001), "tmp": Folder(mode=0o1777),
    }  # fmt: skip
    root = await node.mounted(build([tree]))
    first = root.stat().st_uid
    tool, key = (root / "bin/tool").stat(), (root / "home/ada/key").stat()
    assert stat.S_IMODE(tool.st_mode) == 0o4755
    assert tool.st_nlink == 2
    assert tool.st_ino == (root / "bin/other").stat().st_ino
    assert tool.st_mtime == 1_700_000_000
    assert os.readlink(root / "bin/soft") == "../etc/x"
    assert (key.st_uid - first, key.st_gid - first, stat.S_IMODE(key.st_mode)) == (1000, 1001, 0o600)
    assert (tool.st_uid, stat.S_IMODE((root / "tmp").stat().st_mode)) == (first, 0o1777)
    options = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(root) in line).split(" ")[3]
    assert {"nosuid", "nodev"} <= set(options.split(","))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_compressions(node: Node, compression: str) -> None:
    root = await node.mounted(build([{"a": File(content=b"abc" * 100_000)}], compression=compression))  # type: ignore[arg-type]
    assert (root / "a").read_bytes() == b"abc" * 100_000


async def test_gzip_in_several_members_and_with_padding(node: Node) -> None:
    data = tar({"a": File(content=os.urandom(50_000))})
    blob = gzip.compress(data[:30_000]) + gzip.compress(data[30_000:]) + b"\0" * 512
    good = build([data])
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [f"sha256:{good.image.layers[0].diff_id}"]}}
    root = await node.mounted(pack([(blob, data)], config))
    assert (root / "a").stat().st_size == 50_000


async def test_what_instances_write_is_theirs_alone(node: Node) -> None:
    built = build([{"etc/motd": File(content=b"shared")}])
    node.blobs |= built.blobs
    images = await node.open()
    one, two = [await images.mount(name, built.image, writable_mib=16) for name in ("1" * 16, "2" * 16)]
    (one / "etc/motd").write_bytes(b"changed")
    (one / "new").write_bytes(b"new")
    assert (two / "etc/motd").read_bytes() == b"shared"
    assert not (two / "new").exists()
    assert one.stat().st_uid != two.stat().st_uid
    await images.unmount("1" * 16)
    assert (await images.mount("1" * 16, built.image, writable_mib=16) / "etc/motd").read_bytes() == b"shared"


async def test_a_full_writable_layer_fills_nothing_else(node: Node) -> None:
    root = await node.mounted(build([{"a": File()}]))
    before = os.statvfs(node.root).f_bavail * 4096
    with pytest.raises(OSError, match="No space left"), (root / "big").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
            file.flush()
    assert before - os.statvfs(node.root).f_bavail * 4096 < 200 * MIB  # others write here too


@pytest.mark.parametrize("name", ["../../canary", "a/../../../canary", "/../canary", "x/.."])
async def test_names_do_not_lead_out(node: Node, name: str) -> None:
    assert "leads out" in await node.refused(image(archive(entry(name, data=b"owned"))))


async def test_absolute_names_are_inside(node: Node) -> None:
    root = await node.mounted(image(archive(entry(f"{node.root}/canary", data=b"owned"))))
    assert (root / str(node.root).lstrip("/") / "canary").read_bytes() == b"owned"


@pytest.mark.parametrize("target", ["up", "root", "self"])
async def test_writing_through_a_link_stays_inside(node: Node, target: str) -> None:
    up = "/".join([".."] * 40)
    link = {"up": f"{up}{node.root}", "root": str(node.root), "self": "/proc/self/cwd"}[target]
    made = archive(
        entry("way", tarfile.SYMTYPE, link=link), entry("way/canary", data=b"owned"), entry("way/more", tarfile.DIRTYPE)
    )
    node.blobs |= image(made).blobs
    images = await node.open()
    with pytest.raises(BadImage):  # it leads to nothing in the layer
        await images.prepare(image(made).image)
    existing = archive(
        entry(str(node.root).lstrip("/"), tarfile.DIRTYPE, mode=0o755),
        entry("way", tarfile.SYMTYPE, link=str(node.root)),
        entry("way/canary", data=b"inside"),
    )
    root = await node.mounted(image(existing))
    assert (root / str(node.root).lstrip("/") / "canary").read_bytes() == b"inside"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "/proc/self/exe"])
async def test_hard_links_do_not_lead_out(node: Node, target: str) -> None:
    await node.refused(image(archive(entry("stolen", tarfile.LNKTYPE, link=target))))


async def test_a_hard_link_to_a_link_is_not_followed(node: Node) -> None:
    made = archive(
        entry("soft", tarfile.SYMTYPE, link=f"{node.root}/canary"),
        entry("hard", tarfile.LNKTYPE, link="soft"),
        entry("hard", data=b"x"),
    )
    root = await node.mounted(image(made))
    assert (root / "hard").read_bytes() == b"x"


async def test_devices_and_pipes_are_not_made(node: Node) -> None:
    made = archive(
        entry("dev/mem", tarfile.CHRTYPE, devmajor=1, devminor=1), entry("disk", tarfile.BLKTYPE, devmajor=254, devminor=0),
        entry("pipe", tarfile.FIFOTYPE), entry("plain", data=b"x"),
    )  # fmt: skip
    root = await node.mounted(image(made))
    assert [name for name in ("dev/mem", "disk", "pipe", "plain") if (root / name).exists()] == ["plain"]


@pytest.mark.parametrize("name", [".wh...", ".wh..", "a/.wh.", ".wh.", "../.wh.canary"])
async def test_whiteouts_do_not_lead_out(node: Node, name: str) -> None:
    await node.refused(image(archive(entry("a", tarfile.DIRTYPE, mode=0o755), entry(name))))


async def test_attributes_that_would_mislead_overlayfs_are_dropped(node: Node) -> None:
    member, data = entry("a", data=b"x")
    member.pax_headers = {
        "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff", "SCHILY.xattr.user.color": "blue",
    }  # fmt: skip
    node.blobs |= (built := image(archive((member, data)))).blobs
    await (await node.open()).prepare(built.image)
    layer = next(path for path in (node.root / "images/layers").iterdir() if path.is_dir())
    assert os.listxattr(layer / "a") == ["user.color"]


async def test_a_bomb_is_stopped_by_its_size(node: Node) -> None:
    zeros = tar({"big": File(content=b"\0" * (65 * MIB))})
    said = await node.refused(build([zeros]))
    assert "more than 64 MiB" in said


async def test_a_bomb_is_stopped_by_its_ratio(node: Node) -> None:
    node.limits = UnpackLimits(bytes_max=2048 * MIB, ratio_max=100)
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as file:
        member = tarfile.TarInfo("big")
        member.size = 400 * MIB
        file.write(member.tobuf())
        for _ in range(400):
            file.write(b"\0" * MIB)
    good = build([{"a": File()}])
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [f"sha256:{good.image.layers[0].diff_id}"]}}
    assert "100 times" in await node.refused(pack([(out.getvalue(), tar({"a": File()}))], config))


async def test_a_sparse_file_of_any_size_is_counted_by_what_it_claims(node: Node) -> None:
    member, _ = entry("sparse")
    member.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{(1 << 50) - 1},1"}
    node.limits = UnpackLimits(bytes_max=64 * MIB, entries_max=1000, seconds_max=60)
    await node.refused(image(archive((member, b"x"))))


async def test_too_many_files(node: Node) -> None:
    assert "more than 1000 files" in await node.refused(image(archive(*(entry(f"f{number}") for number in range(1001)))))


@pytest.mark.parametrize("name", ["n" * 256, "/".join(["d" * 100] * 60)])
async def test_names_that_are_too_long(node: Node, name: str) -> None:
    assert "too long" in await node.refused(image(archive(entry(name))))


async def test_a_header_that_asks_for_all_memory(node: Node) -> None:
    header = tarfile.TarInfo("@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    await node.refused(image(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096))


async def test_ids_that_no_container_has(node: Node) -> None:
    assert "ids below 65536" in await node.refused(image(archive(entry("a", uid=70_000, gid=0))))


@pytest.mark.parametrize(
    "blob", [b"", b"no archive", gzip.compress(tar({"a": File(content=b"x" * 5000)}))[:-100], os.urandom(10_000)], ids=range(4)
)
async def test_what_is_no_layer_at_all(node: Node, blob: bytes) -> None:
    good = tar({"a": File()})
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [f"sha256:{build([good]).image.layers[0].diff_id}"]}}
    await node.refused(pack([(blob, good)], config))


async def test_another_content_than_the_configuration_says(node: Node) -> None:
    assert "diff_id" in await node.refused(wrong_diff_id())


async def test_a_full_disk_is_not_the_images_fault(node: Node) -> None:
    node.limits = UnpackLimits(reserve_bytes=1 << 60)
    built = build([{"a": File(content=os.urandom(40 * MIB))}], compression="none")
    node.blobs |= built.blobs
    images = await node.open()
    with pytest.raises(ImagesUnavailable, match="disk"):
        await images.prepare(built.image)


async def test_a_disk_has_the_image_and_nothing_else(node: Node) -> None:
    built = build(
        [{"gone": File(), "big": File(content=os.urandom(3 * MIB))}, {".wh.gone": File(), "etc/motd": File(content=b"hi")}]
    )
    node.blobs |= built.blobs
    disk = await (await node.open()).disk(built.image)
    assert _debugfs(disk, "cat /etc/motd") == "hi"
    listed = _debugfs(disk, "ls -p /")
    assert "/big/" in listed
    assert "gone" not in listed


async def test_a_disk_stays_the_same_file_to_who_starts_from_it(node: Node) -> None:
    """A template of a booted guest is good for the disk that it was booted from: by its place, size and time."""
    built = build([{"a": File(content=b"a")}])
    node.blobs |= built.blobs
    images = await node.open()
    first = (await images.disk(built.image)).stat()
    again = (await images.disk(built.image)).stat()
    assert (again.st_ino, again.st_size, again.st_mtime_ns) == (first.st_ino, first.st_size, first.st_mtime_ns)


async def test_killed_half_way_it_is_made_again(node: Node) -> None:
    built = build([{"a": File(content=b"a")}])
    node.blobs |= built.blobs
    images = await node.open()
    await images.prepare(built.image)
    layers = node.root / "images/layers"
    name = next(path.name for path in layers.iterdir() if path.is_dir())
    (layers / name).rename(layers / f".{name}.0011")
    blobs = node.root / "images/blobs"
    (blobs / ".half").write_bytes(b"x")
    for name in ("images", "instances"):
        (node.root / "images" / name / ".half.tmp").write_bytes(b"x")
    (blobs / ("ab" * 32)).write_bytes(b"of an image that was being fetched, or removed")
    images = await node.open()
    assert list((node.root / "images").glob("*/.half*")) == []
    assert sorted(path.name for path in blobs.iterdir()) == sorted((built.image.manifest, built.image.config))
    root = await images.mount(INSTANCE, built.image, writable_mib=16)
    assert (root / "a").read_bytes() == b"a"
    assert [path.name for path in layers.iterdir() if path.name.startswith(".")] == []


def _debugfs(disk: Path, command: str) -> str:
    import subprocess

    return subprocess.run(["debugfs", "-R", command, str(disk)], capture_output=True, text=True, check=True).stdout


async def test_mounts_that_are_made_at_once_have_users_of_their_own(node: Node) -> None:
    built = build([{"a": File()}])
    node.blobs |= built.blobs
    images = await node.open()
    await images.prepare(built.image)
    names = [f"{number:016x}" for number in range(6)]
    roots = await asyncio.gather(*(images.mount(name, built.image, writable_mib=16) for name in names))
    assert len({root.stat().st_uid for root in roots}) == len(names)
