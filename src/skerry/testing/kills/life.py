"""What an agent does with its programs, all of it once; and what the next agent finds and removes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from skerry.core.types.ids import InstanceId
from skerry.core.types.program import NetworkPolicy
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.ports.runtime import Runtime
from skerry.ports.sandbox import Ability, ExecSpec, SandboxLimits
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.testing.contracts.runtime import abilities_of, address_of, becomes, find
from skerry.testing.kills import stacks
from skerry.testing.programs_node import ProgramsNode
from skerry.testing.waiting import eventually

T = TypeVar("T")

STEP_S_MAX = 150.0  # of a machine with other work: what takes longer waits for what never comes
SERVED = 200
ASKED_TIMES, ASKED_S = 3, 20
GOES_ON = ("running", "asleep", "dead", "failed", "done")
CLONE = InstanceId("fedcba9876543210")


class NoEnd(AssertionError):
    """A step waits for what does not come; the text says where it and everybody else waits."""


async def within(step: str, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, in time. Raises `NoEnd`, and does not wait for `work` to hear of it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=STEP_S_MAX)
        if not task.done():
            raise NoEnd(f"no end of `{step}` in {STEP_S_MAX:g} s; who waits where:\n{stacks.told()}")
        return task.result()
    finally:
        task.cancel()


async def live(node: ProgramsNode, wanted: tuple[NodeInstance, ...]) -> list[str]:
    """From attaching to closing, with programs of which one is replaced by its clone. Raises `AssertionError`; no problems."""
    stacks.tell_when_asked()
    runtime = await within("attach", node.open())
    await within("start", _all(_start(node, runtime, one) for one in wanted))
    first = wanted[0]
    abilities = abilities_of(runtime, first)
    for ability, use in _USES.items():
        if ability in abilities:
            await within(ability, use(runtime, first))
    policy = NetworkPolicy(internet=False, egress_kbits_max=1000)
    await within("change of policy", node.ground.network.change_policy(first.id, policy))
    if "clone" in abilities:
        await within("clone", _clone(node, runtime, first))
    await within("crash", _crash(node, runtime, first))
    await within("wake", _woken(node, runtime, first))
    await within("stop", _all(runtime.stop(one.id, grace_ms=100) for one in wanted))
    await eventually(lambda: not node.ground.images.present())  # the node may keep none: the next start unpacks again
    await within("close", runtime.aclose(stop_instances=False))
    return []


async def recover(node: ProgramsNode) -> list[str]:
    """The next agent: what it finds goes on and is served; then everything is ended. Problems in words."""
    stacks.tell_when_asked()
    runtime = await within("attach", node.open())
    problems: list[str] = []
    for one in runtime.observe():
        problems += await _goes_on(node, runtime, one)
    await within("stop", _all(runtime.stop(one.id, grace_ms=0) for one in runtime.observe()))
    await eventually(lambda: not node.ground.images.present())  # the node may keep none: the next start unpacks again
    await within("close", runtime.aclose(stop_instances=True))
    return problems


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*works)


async def _goes_on(node: ProgramsNode, runtime: ProgramRuntime, one: ObservedInstance) -> list[str]:
    if one.state == "stopping":
        return []
    try:
        if one.state == "paused":
            await within("resume", runtime.resume(one.id))
        now = await becomes(runtime, one.id, *GOES_ON)
        status = await within("request", node.request(address_of(now))) if now.state != "failed" else 0
    except (AssertionError, OSError, TimeoutError, ValueError, IndexError) as error:
        return [f"{one.state}, then {find(runtime, one.id)}: {type(error).__name__} {error}"]
    return [] if status == SERVED else [f"{now.state} answers {status}: {now.detail}"]


async def _crash(node: ProgramsNode, runtime: ProgramRuntime, one: NodeInstance) -> None:
    await node.kill_process(runtime, one.id)
    await becomes(runtime, one.id, "starting", "backoff")
    await becomes(runtime, one.id, "running")
    await runtime.drop(one.id, "nobody asks")


async def _woken(node: ProgramsNode, runtime: ProgramRuntime, one: NodeInstance) -> None:
    """As the ingress does it asks again whom it reached in his last moment: of a kernel that is gone comes not even a reset."""
    seen = find(runtime, one.id)
    assert seen is not None
    address = address_of(seen)
    for _ in range(ASKED_TIMES):
        with contextlib.suppress(OSError, TimeoutError, IndexError):
            async with asyncio.timeout(ASKED_S):
                assert await node.request(address) == SERVED
                return
    raise AssertionError("it is not woken")


async def _start(node: ProgramsNode, runtime: Runtime, wanted: NodeInstance) -> None:
    seen = await runtime.start(wanted)
    assert await node.request(address_of(seen)) == SERVED
    await becomes(runtime, wanted.id, "running")


async def _exec(runtime: ProgramRuntime, wanted: NodeInstance) -> None:
    session = await runtime.exec(wanted.id, ExecSpec(argv=("echo", "hi")))
    assert b"".join([data async for _, data in session.output()]) == b"hi\n"
    await session.aclose()
    session = await runtime.exec(wanted.id, ExecSpec(argv=("sleep", "1000")))
    await session.aclose()


async def _files(runtime: ProgramRuntime, wanted: NodeInstance) -> None:
    packed = b"".join([chunk async for chunk in await runtime.copy_out(wanted.id, "/www")])

    async def again() -> AsyncIterator[bytes]:
        yield packed

    await runtime.copy_in(wanted.id, "/var", again())


async def _pause(runtime: ProgramRuntime, wanted: NodeInstance) -> None:
    await runtime.pause(wanted.id)
    await runtime.resume(wanted.id)


async def _resize(runtime: ProgramRuntime, wanted: NodeInstance) -> None:
    await runtime.resize(wanted.id, SandboxLimits(memory_mib_max=160, cpu_millicores_max=900))


_USES = {"exec": _exec, "files": _files, "pause": _pause, "resize": _resize}
"""By `Ability`."""


async def _clone(node: ProgramsNode, runtime: ProgramRuntime, original: NodeInstance) -> None:
    name = await runtime.snapshot(original.id)
    seen = await runtime.clone(name, replace(original, id=CLONE))
    assert await node.request(address_of(seen)) == SERVED
    await runtime.forget_snapshot(name)
    await runtime.stop(CLONE, grace_ms=0)


def abilities() -> tuple[Ability, ...]:
    """Those that a life uses."""
    return ("exec", "files", "pause", "resize", "snapshot", "clone")
