"""The steps of a start, each with the way back. Ways back are safe to walk twice and without the way there."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from skerry.ports.images import ImageConfig, ImageError
from skerry.ports.network import InstanceNetwork, NetworkError, NetworkWant
from skerry.ports.sandbox import EngineUnavailable, Sandbox, SandboxEngine, SandboxError, SandboxFile
from skerry.services.node.programs.records import Kept
from skerry.services.node.programs.settings import Ground
from skerry.services.node.programs.spec import sandbox_spec

log = structlog.get_logger()

UNDO_PAUSE_FACTOR_MAX = 30
PORT_FAULTS = (ImageError, NetworkError, SandboxError)


class Start:
    """One start on its way: what the steps so far have made."""

    def __init__(self, ground: Ground, kept: Kept) -> None:
        self.ground = ground
        self.kept = kept
        self.id = kept.instance.id
        self.network: InstanceNetwork | None = None
        self.address: str | None = None
        self.config: ImageConfig | None = None
        self.rootfs = ""
        self.disk: str | None = None
        self.files: tuple[SandboxFile, ...] = ()
        self.sandbox: Sandbox | None = None

    @property
    def engine(self) -> SandboxEngine:
        return engine_of(self.ground, self.kept)


@dataclass(frozen=True)
class Step:
    """`doing` is what a person is told meanwhile."""

    doing: str
    do: Callable[[Start], Awaitable[None]]
    undo: Callable[[Ground, Kept], Awaitable[None]] | None = None


def engine_of(ground: Ground, kept: Kept) -> SandboxEngine:
    """Raises `EngineUnavailable`."""
    isolation = kept.instance.version.isolation
    engine = ground.engines.get(isolation)
    if engine is None:
        raise EngineUnavailable(f"{isolation} is not offered here; offered: {', '.join(sorted(ground.engines)) or 'nothing'}")
    return engine


async def _join(start: Start) -> None:
    engine = start.engine
    kind = "tap" if engine.facts.isolation == "microvm" else "gvisor" if engine.facts.isolation == "gvisor" else "kernel"
    version, program = start.kept.instance.version, start.kept.program()
    want = NetworkWant(instance=start.id, account=version.account, device=kind, policy=program.network)
    start.network = await start.ground.network.create(want)


async def _leave(ground: Ground, kept: Kept) -> None:
    await ground.network.remove(kept.instance.id)


async def _publish(start: Start) -> None:
    program = start.kept.program()
    if program.port is not None:
        start.address = await start.ground.network.publish(
            start.id, port=program.port, protocol=program.protocol, address=start.kept.address
        )


async def _face(start: Start) -> None:
    if start.address is not None:
        await start.ground.walled.face(start.kept.instance, start.address)


async def _unface(ground: Ground, kept: Kept) -> None:
    await ground.walled.unface(kept.instance.id)


async def _prepare(start: Start) -> None:
    async with asyncio.timeout(start.ground.settings.image_ms_max / 1000):
        start.config = await start.ground.images.prepare(start.kept.program().image)
        if start.engine.facts.isolation == "microvm":
            start.disk = str(await start.ground.images.disk(start.kept.program().image))
        start.files = await start.ground.walled.files(start.kept.instance.version)


async def _mount(start: Start) -> None:
    program = start.kept.program()
    start.rootfs = str(await start.ground.images.mount(start.id, program.image, writable_mib=program.writable_mib))


async def _unmount(ground: Ground, kept: Kept) -> None:
    await ground.images.unmount(kept.instance.id)


async def _sandbox(start: Start) -> None:
    ground, kept = start.ground, start.kept
    config, network = start.config, start.network
    assert config is not None
    assert network is not None, "steps come in order"
    program = kept.program()
    user = config.user if program.user is None else program.user
    identity = await ground.rootfs.identity(start.rootfs, user)
    spec = sandbox_spec(ground, kept, config, network, identity, rootfs=start.rootfs, disk=start.disk, files=start.files)
    snapshot = ground.files.snapshot_path(kept.snapshot) if kept.snapshot else None
    async with asyncio.timeout(ground.settings.start_ms_max / 1000):
        start.sandbox = await start.engine.start(spec, snapshot=snapshot)


async def _end(ground: Ground, kept: Kept) -> None:
    engine = ground.engines.get(kept.instance.version.isolation)
    if engine is not None:
        await engine.remove(kept.instance.id)


PLACED = (
    Step("joining the network", _join, _leave),
    Step("getting its address", _publish),
    Step("serving its assets", _face, _unface),
)
"""Once for an instance."""

LAUNCHED = (
    Step("joining the network", _join),  # again: gVisor takes the address away from its device
    Step("fetching and unpacking its image", _prepare),
    Step("mounting its files", _mount, _unmount),
    Step("starting its process", _sandbox, _end),
)
"""For each process."""


async def undo(ground: Ground, kept: Kept, steps: tuple[Step, ...]) -> None:
    """Backwards: nothing is taken from under what still stands. What cannot be removed now is tried again until it can."""
    for step in reversed(steps):
        pause_ms = ground.settings.undo_pause_ms
        while step.undo is not None:
            try:
                await step.undo(ground, kept)
                break
            except PORT_FAULTS as error:
                log.error("removal_waits", instance=kept.instance.id, after=step.doing, error=str(error))
                await ground.clock.sleep_ms(pause_ms)
                pause_ms = min(pause_ms * 2, ground.settings.undo_pause_ms * UNDO_PAUSE_FACTOR_MAX)
