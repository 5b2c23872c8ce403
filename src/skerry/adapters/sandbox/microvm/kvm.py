"""Whether KVM on this machine runs Linux guests: tried, not looked up.

/dev/kvm may open and run nothing of use: where the machine is itself a guest of kvm_pvm, code of an ordinary guest's ring 0 is
emulated at 1.5 to 2 million instructions a second, and dies at the first that the emulator lacks. So a payload is run: a
million turns of a loop in ring 0, then int3 through its own vector table. It has to end, in time.
"""

import ctypes
import fcntl
import functools
import mmap
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

from skerry.adapters.process.detached import boot_id, write_private
from skerry.adapters.sandbox.microvm import build
from skerry.kit.record import Record, decode, encode

DEVICE = "/dev/kvm"
LOOP_MS_MAX = 60  # real hardware: below 1 ms; with a busy neighbour some; the emulator: 1500
PROBE_TIMEOUT_S = 10

_CREATE_VM, _CREATE_VCPU, _RUN, _MMAP_SIZE = 0xAE01, 0xAE41, 0xAE80, 0xAE04
_SET_MEMORY, _GET_SREGS, _SET_SREGS, _SET_REGS = 0x4020AE46, 0x8138AE83, 0x4138AE84, 0x4090AE82
_EXIT_IO, _EXIT_HLT = 2, 5
_CODE_AT, _HANDLER_AT, _MEMORY_BYTES = 0x1000, 0x2000, 0x10000
# mov ecx, 1000000; 1: dec ecx; jnz 1b; int3; hlt
_CODE = b"\x66\xb9" + struct.pack("<I", 1_000_000) + b"\x66\x49\x75\xfc\xcc\xf4"
_HANDLER = b"\xb0\x42\xe6\x10\xf4"  # mov al, 0x42; out 0x10, al; hlt


class KvmFound(Record):
    """`reason` says why not."""

    usable: bool
    reason: str = ""


class _Kept(Record):
    boot: str
    found: KvmFound


@functools.cache
def probe() -> KvmFound:
    """Takes a second where it is emulated; remembered until the next boot."""
    kept = build.cache() / "kvm.json"
    try:
        known = decode(kept.read_bytes(), _Kept)
        if known.boot == boot_id():
            return known.found
    except (OSError, ValueError):
        pass
    found = _try()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_private(kept, encode(_Kept(boot=boot_id(), found=found)))
    except OSError:
        pass  # then it is tried again
    return found


def _try() -> KvmFound:
    if not Path(DEVICE).exists():
        return KvmFound(usable=False, reason=f"{DEVICE} is not there: no hardware virtualization, or its module is not loaded")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return KvmFound(usable=False, reason=f"{DEVICE} may not be opened by this user")
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return KvmFound(usable=False, reason="a guest's first million instructions take longer than 10 s")
    said = done.stdout.strip()
    if done.returncode != 0:
        return KvmFound(usable=False, reason=f"KVM does not run a guest: {(said or done.stderr.strip())[-200:]}")
    spent_ms = float(said)
    if spent_ms > LOOP_MS_MAX:
        return KvmFound(usable=False, reason=f"KVM emulates a guest's kernel here: a million loop turns take {spent_ms:.0f} ms")
    return KvmFound(usable=True)


def run_payload() -> float:
    """Milliseconds that it took. Raises `OSError` when it does not end as it should."""
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
    memory = mmap.mmap(-1, _MEMORY_BYTES)
    memory[3 * 4 : 3 * 4 + 4] = struct.pack("<HH", _HANDLER_AT, 0)  # the vector of int3
    memory[_CODE_AT : _CODE_AT + len(_CODE)] = _CODE
    memory[_HANDLER_AT : _HANDLER_AT + len(_HANDLER)] = _HANDLER
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_MEMORY, struct.pack("<IIQQQ", 0, 0, 0, _MEMORY_BYTES, address))
    cpu = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    shared = mmap.mmap(cpu, fcntl.ioctl(kvm, _MMAP_SIZE, 0))
    _set_registers(cpu)
    began = time.perf_counter()
    while True:
        fcntl.ioctl(cpu, _RUN, 0)
        reason = struct.unpack_from("<I", shared, 8)[0]
        if reason == _EXIT_IO:
            return (time.perf_counter() - began) * 1000
        raise OSError(f"exit reason {reason}, before the payload's end")


def _set_registers(cpu: int) -> None:
    special = bytearray(312)
    fcntl.ioctl(cpu, _GET_SREGS, special)
    struct.pack_into("<QIH", special, 0, 0, 0xFFFF, 0)  # cs: base 0, limit, selector 0
    fcntl.ioctl(cpu, _SET_SREGS, bytes(special))
    registers = [0] * 18
    registers[6], registers[16], registers[17] = 0x8000, _CODE_AT, 2  # rsp, rip, rflags
    fcntl.ioctl(cpu, _SET_REGS, struct.pack("<18Q", *registers))


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{run_payload():.3f}\n")
    except OSError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(1)
