"""A node: the agent and its runtime.

    python -m skerry.apps.node --config FILE [--liveness-fd N]

When its supervisor ends, or maintenance reboots the node, instances end with it. Ended by a signal alone, or killed, the
agent leaves them running for the next one.
"""

import asyncio
import secrets
from pathlib import Path

from msgspec.structs import replace

from skerry.adapters.clock.system import SystemClock
from skerry.adapters.link.http import HttpSiteLink
from skerry.adapters.nodetasks.programs import Hook, ProgramTasks
from skerry.adapters.pressure import ProcGauge
from skerry.adapters.recordfile import JsonFile
from skerry.adapters.runtime.workerd.gvisor import GvisorWorkers
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.adapters.runtime.workerd.settings import Settings
from skerry.apps.config import NodeConfig
from skerry.apps.logs import configure_logs
from skerry.apps.node_programs import has_kvm, open_programs
from skerry.apps.plane import Plane, read_secret, run_plane
from skerry.apps.tasks import running
from skerry.core.machines.market import MarketSettings
from skerry.core.types.maintenance import REBOOT
from skerry.core.types.slices import NodeSlice
from skerry.kit.hashing import stable_id
from skerry.services.calls.answering import answer_calls
from skerry.services.node.agent import Agent
from skerry.services.node.composite import CompositeRuntime
from skerry.services.node.market import KeeperSettings, MarketKeeper
from skerry.services.node.talk import Talk
from skerry.services.node.tasks import TaskMemory

REQUEST_CF_HEADER = "x-skerry-cf"  # set by the ingress, which removes a client's own
LOOK_MS_MIN = 200


async def serve(config: NodeConfig, plane: Plane) -> None:
    configure_logs()
    data = Path(config.data_dir)
    clock = SystemClock()
    link = HttpSiteLink(config.site_url, config.node.id, read_secret(config.join_secret_path))
    workers = WorkerdRuntime(
        node=config.node.id,
        address=config.node.address,
        data_dir=data,
        run_dir=Path(config.run_dir),
        fetch_blob=link.blob,
        settings=runtime_settings(config),
        workerd=config.engines.workerd,
        bwrap=config.engines.bwrap,
    )
    walled = GvisorWorkers(workers, link.blob)
    programs, no_programs = open_programs(config, link, walled)
    runtime = CompositeRuntime(workers, programs, no_programs=no_programs, walled=walled)
    epoch = secrets.token_hex(8)
    tasks = ProgramTasks(
        config.node.id,
        tuple(Hook(name=hook.name, program=hook.program, reboots=hook.reboots) for hook in config.hooks),
        life=epoch,
        data_dir=data / "task",
        tag=stable_id(config.data_dir, length=8),
        restart=lambda: plane.restart(REBOOT),
    )
    agent = Agent(
        config.node,
        runtime,
        link,
        clock,
        JsonFile(data / "slice.json", NodeSlice),
        epoch=epoch,
        tasks=tasks,
        task_file=JsonFile(data / "task.json", TaskMemory),
        kvm=programs is not None and await asyncio.to_thread(has_kvm),
    )
    try:
        await tasks.end_leftover()
        await runtime.attach()
        keeper = MarketKeeper(runtime, agent.wanted, ProcGauge(), clock, market_settings(config))
        async with running(agent.run(), answer_calls(link, Talk(runtime, keeper.usage), clock), keeper.run()):
            plane.ready()
            await plane.ended()
    finally:
        await runtime.aclose(stop_instances=plane.supervisor_gone or plane.reason == REBOOT)
        await link.aclose()


def market_settings(config: NodeConfig) -> KeeperSettings:
    """What the node has is what its instances divide, however often it was promised."""
    has = config.node.capacity.cpu_millicores * 100 // config.node.overcommit.cpu_percent
    return KeeperSettings(throttle=config.throttle, market=MarketSettings(capacity_millicores=has))


def runtime_settings(config: NodeConfig) -> Settings:
    """An app that has to rest soon is looked at often, and squeezed at each rest."""
    settings = Settings(
        egress_allow=config.egress.allow,
        request_cf_header=REQUEST_CF_HEADER,
        hang_ms_max=config.answer_s_max * 1000 // 2,
    )
    sleep_ms, dead_ms = config.resting.sleep_after_ms, config.resting.dead_after_ms
    if sleep_ms is not None:
        settings = replace(settings, sleep_after_ms=sleep_ms, resleep_after_ms=min(settings.resleep_after_ms, 30 * sleep_ms))
    if dead_ms is not None:
        settings = replace(settings, drop_after_ms=dead_ms)
    looks_ms = [max(LOOK_MS_MIN, ms // 2) for ms in (sleep_ms, dead_ms) if ms is not None]
    return replace(settings, look_every_ms=min([settings.look_every_ms, *looks_ms]))


def main() -> None:
    run_plane(NodeConfig, serve)


if __name__ == "__main__":
    main()
