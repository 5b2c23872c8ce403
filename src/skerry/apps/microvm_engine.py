"""Which monitor runs a node's microVMs, and why that one: Firecracker where it is installed and its guests run, else QEMU."""

from pathlib import Path

from skerry.adapters import tools
from skerry.adapters.cgroup.base import DiskLimits
from skerry.adapters.sandbox.microvm import kvm
from skerry.adapters.sandbox.microvm.settings import Places, Settings
from skerry.apps.config import MicrovmEngine, MicrovmRules
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineUnavailable, SandboxEngine

DIRECTORIES: dict[str, str] = {"qemu": "microvm", "firecracker": "firecracker"}


class Choice(Record):
    """`engine` is qemu or firecracker."""

    engine: MicrovmEngine
    why: str


def choose(wish: MicrovmEngine, *, firecracker: str, virtualization: str) -> Choice:
    """`firecracker` and `virtualization` say what keeps them from being used; empty: nothing. Raises `EngineUnavailable`: what
    is wished for is not to be had, and another is not what was asked."""
    problem = firecracker or (f"needs hardware virtualization: {virtualization}" if virtualization else "")
    if wish == "qemu":
        return Choice(engine="qemu", why="the operator chose it")
    if not problem:
        chosen = wish == "firecracker"
        return Choice(engine="firecracker", why="the operator chose it" if chosen else "it is installed, and KVM runs its guests")
    if wish == "firecracker":
        raise EngineUnavailable(f"Firecracker was chosen for microVMs, but {problem}; or: skerry up --microvm-engine auto")
    return Choice(engine="qemu", why=f"Firecracker {problem}" if not firecracker else problem)


def find_choice(wish: MicrovmEngine) -> Choice:
    """On this machine. Raises `EngineUnavailable`."""
    missing = [tool for tool in (tools.find_firecracker(), tools.find_jailer()) if not tool.usable]
    found = kvm.probe()
    return choose(
        wish,
        firecracker="; ".join(f"{tool.name}: {tool.problem}" for tool in missing),
        virtualization="" if found.usable else found.reason,
    )


def open_engine(base: Path, run: Path, rules: MicrovmRules, disk: DiskLimits | None = None) -> SandboxEngine:
    """Raises `EngineUnavailable`. Each has its own directories, so neither takes a machine of the other's for its own."""
    choice = find_choice(rules.engine)
    data, places = base / DIRECTORIES[choice.engine], run / DIRECTORIES[choice.engine]
    before = tuple(places_of(base, run, name) for name in DIRECTORIES if name != choice.engine)
    settings = Settings(warm_machines_max=rules.warm_machines_max, disk=disk)
    if choice.engine == "firecracker":
        from skerry.adapters.sandbox.firecracker.engine import FirecrackerEngine

        return FirecrackerEngine(data=data, run=places, settings=settings, before=before)
    from skerry.adapters.sandbox.qemu.engine import QemuEngine

    return QemuEngine(data=data, run=places, settings=settings, before=before)


def places_of(base: Path, run: Path, engine: str) -> Places:
    return Places(base / DIRECTORIES[engine], run / DIRECTORIES[engine])
