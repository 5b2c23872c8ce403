"""What an operator can set about microVMs, and where a node keeps what belongs to them."""

from pathlib import Path

from skerry.adapters.cgroup.base import DiskLimits
from skerry.adapters.runtime.workerd.settings import UID_COUNT, UID_FIRST
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import Record

MIB = 1 << 20
KERNEL_SHARE = 40  # a kernel's own tables grow with memory: one in sixty-four parts, and some


class Settings(Record):
    """Times in ms. Defaults are measured (docs/howto/microvms.md)."""

    guest_overhead_mib: int = 56  # the guest's kernel and init, on top of what the program may use
    monitor_overhead_mib: int = 96  # QEMU with its translated code
    translated_code_mib: int = 48  # of QEMU without hardware virtualization
    boot_ms_max: int = 60_000
    templates_mib_max: int = 1024  # snapshots of booted guests, kept in memory for the next starts
    warm_machines_max: int = 2  # of QEMU: loaded and paused, for the next starts of what was started last (about 16 MiB each)
    vcpus_max: int = 8
    start_retries: int = 1  # a guest that panics while it boots (seen under emulation) is tried again
    disk: DiskLimits | None = None  # of each monitor, and so of its guest: how fast it reads its image
    uid_first: int = UID_FIRST
    uid_count: int = UID_COUNT

    def uid(self, name: str) -> int:
        """An own uid for each monitor: hardly ever anybody else's."""
        return self.uid_first + stable_hash("microvm", name) % self.uid_count

    def needed_mib(self, memory_mib: int) -> int:
        """What a guest uses at most, with a program that may use that much."""
        return memory_mib + memory_mib // KERNEL_SHARE + self.guest_overhead_mib

    def guest_mib(self, memory_mib: int) -> int:
        """Memory of the machine: a power of two, so that templates are shared and limits can grow. What a guest never touches
        costs its kernel one byte in sixty-four and the host nothing."""
        return 1 << (self.needed_mib(memory_mib) - 1).bit_length()


class Places:
    """Directories of one engine. `data` stays over reboots; `run` holds sockets."""

    def __init__(self, data: Path, run: Path) -> None:
        self.data, self.run = data, run
        self.processes = data / "processes"
        self.templates = data / "templates"
        self.machines = run / "m"  # one directory per machine

    @property
    def tag(self) -> str:
        return stable_id(str(self.data), length=8)

    def machine(self, sandbox_id: str) -> Path:
        return self.machines / sandbox_id

    def make(self) -> None:
        for path in (self.data, self.processes, self.templates, self.run, self.machines):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
