"""The checks of control groups in a guest whose kernel has the unified hierarchy with all controllers: here it may have none.

A kernel of the distribution, this machine's Python with the modules that the checks import and nothing else, in one cpio
archive that is the guest's memory file system.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from skerry.adapters import tools
from skerry.adapters.machine import tsc_khz
from skerry.adapters.sandbox.microvm import cpio
from skerry.adapters.sandbox.microvm.build import GuestFiles
from skerry.kit.record import Record
from skerry.testing.groups_inside import DONE

INSIDE = "skerry.testing.groups_inside"
MEMORY_MIB = 256
DISK_MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk")
DISK_BYTES = 8 << 20
EXACT_SHIFT = 2  # an instruction takes 4 ns: about what it takes to emulate one
BOOT_AND_RUN_S = 240  # an emulated machine beside other work
_LIST = """
import sys, runpy, importlib, importlib.util
importlib.import_module(sys.argv[1])
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""


class Guest(Record):
    """What runs in it, and on what. `inside`: the module; its output is read until it says `done`.

    `exact`: time in it is counted in instructions, so that whatever else this machine does makes no difference; of one CPU only.
    `words`: for its kernel.
    """

    inside: str = INSIDE
    arguments: tuple[str, ...] = ()
    kernel: str = ""  # another than the guests' own
    modules: tuple[str, ...] = DISK_MODULES
    cpus: int = 1
    memory_mib: int = MEMORY_MIB
    exact: bool = False
    words: tuple[str, ...] = ()
    within_s: float = BOOT_AND_RUN_S


def archive(files: GuestFiles, guest: Guest) -> bytes:
    """Where each file lies here it lies there, but for the kernel's modules."""
    command = [sys.executable, "-B", "-c", _LIST, guest.inside]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_places())}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    program = str(Path(sys.executable).resolve())
    modules = [path for path in listed if Path(path).is_file()]
    libraries = tools.libraries_of(program, *(path for path in modules if path.endswith(".so")))
    packages = [str(parent / "__init__.py") for path in modules for parent in Path(path).parents]
    landmark = str(Path(os.__file__).parent / "encodings/utf_8.py")  # by the time that it is asked, it is frozen in
    wanted = {program, landmark, *modules, *libraries, *(path for path in packages if Path(path).is_file())}
    packed = {path.lstrip("/"): (Path(path).read_bytes(), 0o755) for path in sorted(wanted)}
    for number, name in enumerate(guest.modules):
        packed[f"modules/{number}"] = ((Path(files.kernel).parent / f"{name}.ko").read_bytes(), 0o644)
    return cpio.archive(packed)


async def run(qemu: str, files: GuestFiles, guest: Guest | None = None) -> str:
    """What the guest said until it ended, or for as long as it may take."""
    guest = guest or Guest()
    with tempfile.TemporaryDirectory(prefix="skerry-groups-") as place:
        initramfs = Path(place) / "initramfs.cpio"
        initramfs.write_bytes(await asyncio.to_thread(archive, files, guest))
        disk = Path(place) / "disk"
        disk.write_bytes(bytes(DISK_BYTES))
        process = await asyncio.create_subprocess_exec(
            qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm,acpi=on,pcie=off,usb=off",
            *_pace(guest), "-cpu", "max", "-smp", str(guest.cpus), "-m", f"{guest.memory_mib}M", "-serial", "stdio",
            "-drive", f"if=none,id=disk,file={disk},format=raw", "-device", "virtio-blk-device,drive=disk",
            "-global", "virtio-mmio.force-legacy=false", "-kernel", guest.kernel or files.kernel,
            "-initrd", str(initramfs), "-append", " ".join(_words(guest)),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            return await _said(process, guest.within_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _pace(guest: Guest) -> tuple[str, ...]:
    if guest.exact:
        return ("-accel", "tcg,thread=single", "-icount", f"shift={EXACT_SHIFT},sleep=off")
    return ("-accel", "tcg,thread=multi")


async def _said(process: asyncio.subprocess.Process, within_s: float) -> str:
    assert process.stdout is not None
    said = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while line := await process.stdout.readline():
                said += line.decode(errors="replace").replace("\r", "")
                if said.endswith(f"\n{DONE}\n"):
                    break
    return said


def _words(guest: Guest) -> tuple[str, ...]:
    """What the kernel does not know of it gives its first process: as environment, and behind the dashes as arguments."""
    clock = () if guest.exact else (f"tsc_early_khz={tsc_khz()}", "tsc=reliable")
    return (
        "quiet", "console=ttyS0", "reboot=t", "panic=-1", "cryptomgr.notests", "mitigations=off", *clock,
        *guest.words, f"rdinit={Path(sys.executable).resolve()}",
        f"PYTHONHOME={sys.base_prefix}", f"PYTHONPATH={':'.join(_places())}",
        "--", "-B", "-S", "-m", guest.inside, *guest.arguments,
    )  # fmt: skip


def _places() -> tuple[str, ...]:
    """Where modules are looked for, here and there."""
    places = [path for path in sys.path if path and Path(path).is_dir()]
    return tuple(dict.fromkeys([str(Path(__file__).parents[2]), *places]))
