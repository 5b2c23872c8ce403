"""What microVMs are made of, each by itself."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import zstandard

from skerry.adapters.sandbox.firecracker import pages
from skerry.adapters.sandbox.firecracker.pages import BadMonitor, Region
from skerry.adapters.sandbox.microvm import build, cpio, kvm, sockets
from skerry.adapters.sandbox.microvm.settings import Settings
from skerry.adapters.sandbox.microvm.sparse import copy_sparse
from skerry.adapters.sandbox.qemu import templates
from skerry.adapters.sandbox.qemu.command import Machine
from skerry.adapters.sandbox.qemu.templates import About, Template, Templates
from skerry.ports.sandbox import EngineUnavailable

MACHINE = Machine(memory_mib=1, vcpus=1, accelerator="tcg", tsc_khz=1)
ABOUT = About(machine=MACHINE, guest="g", monitor="7.2", disk_bytes=1)


def made_template(content: bytes) -> Template:
    memory = templates.new_memory(1)
    os.pwrite(memory, content, 4096)
    return Template(ABOUT, memory, b"state")


def test_an_initramfs_is_read_by_the_kernels_own_rules() -> None:
    archive = cpio.archive({"init": (b"#!", 0o755), "a/b/c": (b"12345", 0o644)})
    assert archive == cpio.archive({"a/b/c": (b"12345", 0o644), "init": (b"#!", 0o755)})
    assert len(archive) % 4 == 0
    names, at = [], 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        size, length = fields[6], fields[11]
        names.append((archive[at + 110 : at + 110 + length - 1].decode(), oct(fields[1]), size))
        at += (110 + length + 3) // 4 * 4 + (size + 3) // 4 * 4
    assert names == [
        ("a", "0o40755", 0), ("a/b", "0o40755", 0), ("a/b/c", "0o100644", 5), ("init", "0o100755", 2), ("TRAILER!!!", "0o0", 0),
    ]  # fmt: skip


def kernel_image(packed: bytes) -> bytes:
    """As the boot protocol has it: one sector of set-up, and 64 bytes of code before what is packed."""
    header = bytearray(1024 + 64)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    header[0x248:0x250] = (64).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    return bytes(header) + packed + b"signature"


def test_a_kernel_that_is_packed_with_zstandard_is_unpacked() -> None:
    whole = b"\x7fELF" + bytes(5000)
    packed = zstandard.ZstdCompressor().compress(whole) + len(whole).to_bytes(4, "little")  # the length is for the boot code
    assert build.unpack(kernel_image(packed)) == whole


def test_a_kernel_that_is_packed_otherwise_is_refused() -> None:
    with pytest.raises(build.BuildError, match="boot protocol"):
        build.unpack(bytes(1000))
    with pytest.raises(build.BuildError, match="LZ4"):
        build.unpack(kernel_image(b"\x1f\x8b" + bytes(100)))
    with pytest.raises(build.BuildError, match="ELF"):
        build.unpack(kernel_image(b"\x02\x21\x4c\x18" + (5).to_bytes(4, "little") + b"\x40abcd" + bytes(4)))
    with pytest.raises(build.BuildError, match="does not unpack"):
        build.unpack(kernel_image(b"\x28\xb5\x2f\xfd" + bytes(100)))


def test_guests_come_in_sizes_with_room_to_grow() -> None:
    settings = Settings()
    sizes = [settings.guest_mib(mib) for mib in (1, 64, 128, 256, 1000, 4096)]
    assert sizes == [64, 128, 256, 512, 2048, 8192]
    assert all(settings.needed_mib(mib) <= settings.guest_mib(mib) for mib in range(1, 5000, 7))


async def test_sealed_memory_is_changed_by_nobody_and_comes_back_from_disk(tmp_path: Path) -> None:
    kept = Templates(tmp_path, mib_max=100)
    template = made_template(b"guest")
    await kept.put("one", template)
    with pytest.raises(PermissionError):
        os.pwrite(template.memory_fd, b"x", 0)
    kept.close()
    later = Templates(tmp_path, mib_max=100)
    found = await later.find("one", ABOUT)
    assert found is not None
    assert (os.pread(found.memory_fd, 5, 4096), found.state) == (b"guest", b"state")
    with pytest.raises(PermissionError):
        os.ftruncate(found.memory_fd, 0)
    later.close()


async def test_what_was_taken_with_another_version_or_is_half_there_is_not_used(tmp_path: Path) -> None:
    templates.save(tmp_path, "one", made_template(b"guest"))
    other = About(machine=MACHINE, guest="another", monitor="7.2", disk_bytes=1)
    assert await Templates(tmp_path, mib_max=100).find("one", other) is None
    os.truncate(tmp_path / "one" / templates.MEMORY, 100)
    with pytest.raises(EngineUnavailable, match="not whole"):
        templates.read(tmp_path / "one")
    assert await Templates(tmp_path, mib_max=100).find("one", ABOUT) is None
    assert not (tmp_path / "one").exists()


async def test_templates_used_longest_ago_give_way(tmp_path: Path) -> None:
    kept = Templates(tmp_path, mib_max=1)
    for name in ("one", "two"):
        await kept.put(name, made_template(os.urandom(1 << 19) + os.urandom(1 << 18)))
    assert await kept.find("one", ABOUT) is None
    assert await kept.find("two", ABOUT) is not None
    kept.close()


def test_on_disk_too_what_is_half_written_or_too_much_goes(tmp_path: Path) -> None:
    """A killed agent's are found by the next one, which has none of them in memory."""
    for age, name in enumerate(("one", "two", "three")):
        templates.save(tmp_path, name, made_template(os.urandom(1 << 19)))
        os.utime(tmp_path / name, (0, 1_000 - age))
    (tmp_path / ".four.tmp").mkdir()
    (tmp_path / "five").mkdir()
    Templates(tmp_path, mib_max=1).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_holes_stay_holes(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as source, (tmp_path / "b").open("w+b") as target:
        source.truncate(8 << 20)
        os.pwrite(source.fileno(), b"x" * 5000, 1 << 20)
        copy_sparse(source.fileno(), target.fileno())
        assert os.pread(target.fileno(), 8 << 20, 0) == os.pread(source.fileno(), 8 << 20, 0)
        assert os.fstat(target.fileno()).st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "region",
    [
        Region(base_host_virt_addr=0x1000, size=8192, offset=1 << 20),
        Region(base_host_virt_addr=0x1000, size=8192, offset=-4096),
        Region(base_host_virt_addr=0x1000, size=0, offset=0),
        Region(base_host_virt_addr=0x1000, size=4095, offset=0),
        Region(base_host_virt_addr=0x1000, size=2 << 20, offset=0, page_size=2 << 20),
    ],
)
def test_a_monitor_that_asks_for_other_memory_is_refused(region: Region) -> None:
    with pytest.raises(BadMonitor):
        pages.checked([region], 1 << 20)


def test_a_monitor_without_its_descriptor_is_refused(tmp_path: Path) -> None:
    with sockets.listen(tmp_path, "s") as listener, socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(str(tmp_path / "s"))
        monitor.sendall(b"[]")
        with pytest.raises(BadMonitor, match="0 descriptors"):
            pages.receive(listener)


async def test_sockets_of_any_depth_are_reached_and_links_are_not_followed(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with sockets.listen(deep, "real"):
        (await sockets.connect(deep, "real")).close()
        (deep / "link").symlink_to("real")
        with pytest.raises(OSError):
            await sockets.connect(deep, "link")


def test_the_kvm_probe_says_why_not() -> None:
    found = kvm.probe()
    assert found.usable or found.reason
    assert kvm.probe() == found


def test_the_guests_code_compiles_without_a_warning(tmp_path: Path) -> None:
    sources = [str(path) for path in sorted(build.SOURCES.glob("*.c"))]
    try:
        done = subprocess.run(
            [*build.COMPILER, "-Werror", "-o", str(tmp_path / "init"), *sources], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no C compiler: sudo apt-get install gcc libc6-dev")
    assert done.stderr == ""
