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
from skerry.testing.groups_inside import DONE

INSIDE = "skerry.testing.groups_inside"
MEMORY_MIB = 256
DISK_MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk")
DISK_BYTES = 8 << 20
BOOT_AND_RUN_S = 240  # an emulated machine beside other work
_LIST = f"""
import sys, runpy, importlib.util, {INSIDE}
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""


def archive(guest: GuestFiles) -> bytes:
    """Where each file lies here it lies there, but for the modules of a disk."""
    listed = subprocess.run([sys.executable, "-B", "-c", _LIST], capture_output=True, text=True, check=True).stdout.splitlines()
    program = str(Path(sys.executable).resolve())
    modules = [path for path in listed if Path(path).is_file()]
    libraries = tools.libraries_of(program, *(path for path in modules if path.endswith(".so")))
    packages = [str(parent / "__init__.py") for path in modules for parent in Path(path).parents]
    landmark = str(Path(os.__file__).parent / "encodings/utf_8.py")  # by the time that it is asked, it is frozen in
    wanted = {program, landmark, *modules, *libraries, *(path for path in packages if Path(path).is_file())}
    files = {path.lstrip("/"): (Path(path).read_bytes(), 0o755) for path in sorted(wanted)}
    for number, name in enumerate(DISK_MODULES):
        files[f"modules/{number}"] = ((Path(guest.kernel).parent / f"{name}.ko").read_bytes(), 0o644)
    return cpio.archive(files)


async def run(qemu: str, guest: GuestFiles) -> str:
    """What the guest said until it ended, or for as long as it may take."""
    with tempfile.TemporaryDirectory(prefix="skerry-groups-") as place:
        initramfs = Path(place) / "initramfs.cpio"
        initramfs.write_bytes(await asyncio.to_thread(archive, guest))
        disk = Path(place) / "disk"
        disk.write_bytes(bytes(DISK_BYTES))
        process = await asyncio.create_subprocess_exec(
            qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm,acpi=on,pcie=off,usb=off",
            "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", f"{MEMORY_MIB}M", "-serial", "stdio",
            "-drive", f"if=none,id=disk,file={disk},format=raw", "-device", "virtio-blk-device,drive=disk",
            "-global", "virtio-mmio.force-legacy=false", "-kernel", guest.kernel,
            "-initrd", str(initramfs), "-append", " ".join(_words()),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            return await _said(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    said = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BOOT_AND_RUN_S):
            while line := await process.stdout.readline():
                said += line.decode(errors="replace").replace("\r", "")
                if said.endswith(f"\n{DONE}\n"):
                    break
    return said


def _words() -> tuple[str, ...]:
    """What the kernel does not know of it gives its first process: as environment, and behind the dashes as arguments."""
    places = [path for path in sys.path if path and Path(path).is_dir()]
    source = str(Path(__file__).parents[2])
    return (
        "quiet", "console=ttyS0", "reboot=t", "panic=-1", "cryptomgr.notests", "mitigations=off",
        f"tsc_early_khz={tsc_khz()}", "tsc=reliable", f"rdinit={Path(sys.executable).resolve()}",
        f"PYTHONHOME={sys.base_prefix}", f"PYTHONPATH={':'.join(dict.fromkeys([source, *places]))}",
        "--", "-B", "-S", "-m", INSIDE,
    )  # fmt: skip
