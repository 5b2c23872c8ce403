"""The contract of `skerry.ports.runtime.Runtime`, as tests. Subclass it and give it a `harness` fixture."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest
from msgspec.structs import replace

from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import SERVING_STATES, NodeInstance, ObservedInstance
from skerry.ports.runtime import NoSuchInstance, Runtime, Unsupported
from skerry.ports.sandbox import Ability, ExecSpec, SandboxLimits
from skerry.testing.waiting import eventually

DEADLINE_S = 60  # for what would otherwise wait for ever when the contract is broken
GRACE_MS = 1000


class RuntimeHarness(Protocol):
    """How the suite reaches one adapter. All runtimes that it opens stand for agents of the same node, one after the other."""

    async def open(self) -> Runtime:
        """A new runtime, attached. The one before was closed, or abandoned by `kill_agent`."""
        ...

    async def kill_agent(self, runtime: Runtime) -> None:
        """As kill -9 of the runtime's process: nothing is cleaned up, instances go on."""
        ...

    def good(self, name: str) -> NodeInstance:
        """An instance of a version that answers 200 and, when it starts, writes a line with `hello` to its log."""
        ...

    def broken(self, name: str) -> NodeInstance:
        """An instance of a version whose code throws `boom` at start-up."""
        ...

    def cut_off(self, is_so: bool) -> None:
        """Whether files that the node does not have cannot be had."""
        ...

    def fetches(self) -> int:
        """How often files were asked for."""
        ...

    async def request(self, address: str) -> int:
        """The status of the answer to a GET; raises `ConnectionRefusedError` when nobody listens."""
        ...

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        """As kill -9 of the instance's process."""
        ...

    async def leftovers(self) -> list[str]:
        """What there is of this node's instances: processes, groups, mounts, sockets."""
        ...


def find(runtime: Runtime, instance_id: InstanceId) -> ObservedInstance | None:
    return next((seen for seen in runtime.observe() if seen.id == instance_id), None)


async def becomes(runtime: Runtime, instance_id: InstanceId, *states: str) -> ObservedInstance:
    """Wait by `changes` until the instance is in one of the states."""
    async with asyncio.timeout(DEADLINE_S):
        changes = runtime.changes()
        try:
            waiting = asyncio.ensure_future(anext(changes))  # listens from here on: no change can slip through
            await asyncio.sleep(0)
            while (seen := find(runtime, instance_id)) is None or seen.state not in states:
                await waiting
                waiting = asyncio.ensure_future(anext(changes))
            waiting.cancel()
            return seen
        except TimeoutError:
            raise AssertionError(f"{instance_id} is {find(runtime, instance_id)}, not {states}") from None


def address_of(seen: ObservedInstance) -> str:
    assert seen.address is not None
    return seen.address


def abilities_of(runtime: Runtime, instance: NodeInstance) -> frozenset[Ability]:
    facts = dict(runtime.capabilities.classes).get(instance.version.isolation)
    return facts.abilities if facts is not None else frozenset()


async def said(chunks: AsyncIterator[bytes], text: bytes) -> bytes:
    """What was read until `text` is in it."""
    read = b""
    async with asyncio.timeout(DEADLINE_S):
        async for chunk in chunks:
            read += chunk
            if text in read:
                return read
    raise AssertionError(f"{text!r} is not in {read!r}")


class ProgramRuntimeHarness(RuntimeHarness, Protocol):
    def filling(self, name: str) -> NodeInstance:
        """An instance of a version that fills its disk when it starts, and serves then."""
        ...


class RuntimeContract:
    @pytest.fixture
    async def runtime(self, harness: RuntimeHarness) -> Runtime:
        return await harness.open()

    async def test_has_an_address_at_once_and_requests_wait_for_it(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        seen = await runtime.start(harness.good("a"))
        assert seen.state == "starting"
        assert await harness.request(address_of(seen)) == 200
        running = await becomes(runtime, seen.id, "running")
        assert running.pid
        assert running.address == seen.address

    async def test_start_is_idempotent(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        first = await becomes(runtime, wanted.id, "running")
        assert await runtime.start(wanted) == first
        assert [seen.id for seen in runtime.observe()] == [wanted.id]

    async def test_instances_are_apart(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        seen = [await runtime.start(harness.good(name)) for name in "abc"]
        assert len({address_of(one) for one in seen}) == 3
        assert [await harness.request(address_of(one)) for one in seen] == [200, 200, 200]

    async def test_an_own_fault_fails_with_its_text_and_a_503_at_once(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        seen = await runtime.start(harness.broken("a"))
        assert await harness.request(address_of(seen)) == 503  # waited, then refused
        failed = await becomes(runtime, seen.id, "failed")
        assert "boom" in failed.detail
        assert failed.pid is None
        assert await harness.request(address_of(seen)) == 503

    async def test_files_that_cannot_be_had_are_no_crash_and_are_tried_again(
        self, runtime: Runtime, harness: RuntimeHarness
    ) -> None:
        wanted = harness.good("a")
        harness.cut_off(True)
        await runtime.start(wanted)
        await eventually(lambda: harness.fetches() >= 4)
        held = await becomes(runtime, wanted.id, "backoff")
        assert (held.restarts, held.pid) == (0, None)
        assert "cut off" in held.detail
        assert await harness.request(address_of(held)) == 503
        harness.cut_off(False)
        seen = await becomes(runtime, wanted.id, "running")
        assert (seen.restarts, seen.detail) == (0, "")
        assert await harness.request(address_of(seen)) == 200

    async def test_stop_while_its_files_cannot_be_had(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        harness.cut_off(True)
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "backoff")
        await runtime.stop(wanted.id, grace_ms=0)
        assert find(runtime, wanted.id) is None
        assert await harness.leftovers() == []

    async def test_stop_leaves_nothing_and_may_come_twice(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        seen = await becomes(runtime, wanted.id, "running")
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        assert runtime.observe() == ()
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        with pytest.raises(ConnectionRefusedError):
            await harness.request(address_of(seen))
        assert await harness.leftovers() == []

    async def test_stop_without_a_start(self, runtime: Runtime) -> None:
        await runtime.stop("0123456789abcdef", grace_ms=GRACE_MS)

    async def test_stop_during_a_start(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        assert runtime.observe() == ()
        assert await harness.leftovers() == []

    async def test_stop_of_a_failed_one(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.broken("a")
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "failed")
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        assert runtime.observe() == ()
        assert await harness.leftovers() == []

    async def test_starts_again_after_a_stop(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        seen = await runtime.start(wanted)
        assert await harness.request(address_of(seen)) == 200

    async def test_a_killed_process_is_back_and_requests_wait(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        before = await becomes(runtime, wanted.id, "running")
        await harness.kill_process(runtime, wanted.id)
        await becomes(runtime, wanted.id, "starting")
        assert await harness.request(address_of(before)) == 200
        after = await becomes(runtime, wanted.id, "running")
        assert after.pid not in (None, before.pid)
        assert after.address == before.address
        assert after.restarts == 1

    async def test_one_that_keeps_dying_is_held_back_then_tried_again(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "running")
        await harness.kill_process(runtime, wanted.id)
        await becomes(runtime, wanted.id, "starting")
        await becomes(runtime, wanted.id, "running")
        await harness.kill_process(runtime, wanted.id)
        seen = await becomes(runtime, wanted.id, "starting", "backoff")
        assert seen.state == "backoff"
        assert seen.detail
        assert await harness.request(address_of(seen)) in (200, 503)  # it may be back before the request is
        again = await becomes(runtime, wanted.id, "running")
        assert again.restarts == 2

    async def test_the_next_agent_takes_over(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = [harness.good(name) for name in "ab"]
        for one in wanted:
            await runtime.start(one)
        before = [await becomes(runtime, one.id, "running") for one in wanted]
        await harness.kill_agent(runtime)
        assert [await harness.request(address_of(one)) for one in before] == [200, 200]
        runtime = await harness.open()
        after = [await becomes(runtime, one.id, "running") for one in wanted]
        assert [(one.pid, one.address) for one in after] == [(one.pid, one.address) for one in before]
        assert [(await runtime.start(one)).pid for one in wanted] == [one.pid for one in before]
        await harness.kill_process(runtime, wanted[0].id)
        await becomes(runtime, wanted[0].id, "starting")
        assert await harness.request(address_of(before[0])) == 200  # it is looked after as before
        await runtime.stop(wanted[0].id, grace_ms=GRACE_MS)
        await runtime.stop(wanted[1].id, grace_ms=GRACE_MS)
        assert await harness.leftovers() == []

    async def test_the_next_agent_starts_what_died_meanwhile(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "running")
        await harness.kill_agent(runtime)
        await harness.kill_process(runtime, wanted.id)
        runtime = await harness.open()
        seen = await becomes(runtime, wanted.id, "running")
        assert await harness.request(address_of(seen)) == 200

    async def test_detached_instances_go_on(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        before = await becomes(runtime, wanted.id, "running")
        await runtime.aclose(stop_instances=False)
        assert await harness.request(address_of(before)) == 200
        runtime = await harness.open()
        assert (await becomes(runtime, wanted.id, "running")).pid == before.pid

    async def test_closing_with_stop_leaves_nothing(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        for name in "ab":
            await runtime.start(harness.good(name))
        await runtime.start(harness.broken("c"))
        await runtime.aclose(stop_instances=True)
        assert await harness.leftovers() == []
        assert (await harness.open()).observe() == ()

    async def test_asleep_is_woken_by_a_request(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        before = await becomes(runtime, wanted.id, "running")
        await runtime.sleep(wanted.id)
        expected = "asleep" if runtime.capabilities.sleep else "running"
        assert (await becomes(runtime, wanted.id, expected)).pid == before.pid
        assert await harness.request(address_of(before)) == 200
        assert (await becomes(runtime, wanted.id, "running")).pid == before.pid

    async def test_serving_states_answer(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        seen = await runtime.start(wanted)
        seen = await becomes(runtime, wanted.id, *SERVING_STATES)
        assert await harness.request(address_of(seen)) == 200

    async def test_what_is_missing_is_named(self, runtime: Runtime) -> None:
        capabilities = runtime.capabilities
        named = {name for name, _ in capabilities.missing}
        assert capabilities.limits or "limits" in named
        assert capabilities.sleep or "sleep" in named

    async def test_what_it_cannot_do_is_refused_in_words(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "running")
        calls: dict[Ability, Callable[[], Awaitable[object]]] = {
            "exec": lambda: runtime.exec(wanted.id, ExecSpec(argv=("true",))),
            "files": lambda: runtime.copy_out(wanted.id, "/etc"),
            "pause": lambda: runtime.pause(wanted.id),
            "resize": lambda: runtime.resize(wanted.id, SandboxLimits(memory_mib_max=64, cpu_millicores_max=500)),
            "snapshot": lambda: runtime.snapshot(wanted.id),
            "clone": lambda: runtime.clone("none", wanted),
        }
        for ability in calls.keys() - abilities_of(runtime, wanted):
            with pytest.raises(Unsupported, match=r"\w+ can\b|\bcan$"):
                await calls[ability]()
        assert (await becomes(runtime, wanted.id, "running")).restarts == 0

    async def test_what_is_not_there_is_said_to_be_not_there(self, runtime: Runtime) -> None:
        with pytest.raises((NoSuchInstance, Unsupported)):
            await runtime.exec("0123456789abcdef", ExecSpec(argv=("true",)))
        with pytest.raises((NoSuchInstance, Unsupported)):
            await runtime.pause("0123456789abcdef")
        with pytest.raises(NoSuchInstance):
            runtime.stats("0123456789abcdef")
        with pytest.raises(NoSuchInstance):
            await anext(runtime.logs("0123456789abcdef", tail_bytes=1000, follow=False))

    async def test_logs_are_kept_over_restarts_and_can_be_followed(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        seen = await runtime.start(wanted)
        assert await harness.request(address_of(seen)) == 200
        await becomes(runtime, wanted.id, "running")
        first = await said(runtime.logs(wanted.id, tail_bytes=10_000, follow=True), b"hello")
        await harness.kill_process(runtime, wanted.id)
        await becomes(runtime, wanted.id, "starting")
        assert await harness.request(address_of(seen)) == 200
        await becomes(runtime, wanted.id, "running")
        both = await said(runtime.logs(wanted.id, tail_bytes=10_000, follow=True), first.strip())
        assert both.count(b"hello") >= 1
        whole = b"".join([chunk async for chunk in runtime.logs(wanted.id, tail_bytes=10_000, follow=False)])
        assert len(b"".join([chunk async for chunk in runtime.logs(wanted.id, tail_bytes=3, follow=False)])) <= 3 < len(whole)

    async def test_followed_logs_end_when_it_is_stopped(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "running")
        reader = runtime.logs(wanted.id, tail_bytes=10_000, follow=True)
        reading = asyncio.ensure_future(_all(reader))
        await asyncio.sleep(0)
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        async with asyncio.timeout(DEADLINE_S):
            await reading

    async def test_stats_of_what_runs(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = harness.good("a")
        seen = await runtime.start(wanted)
        assert await harness.request(address_of(seen)) == 200
        await becomes(runtime, wanted.id, "running")
        stats = runtime.stats(wanted.id)
        assert not runtime.capabilities.limits or stats.memory_bytes > 0
        assert runtime.cpu_us(wanted.id) >= stats.cpu_us


class ProgramRuntimeContract(RuntimeContract):
    """Besides, for runtimes of programs: what their engines are able to."""

    async def test_exec_gives_output_and_status(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = await self._able(runtime, harness, "exec")
        if wanted is None:
            return
        session = await runtime.exec(wanted.id, ExecSpec(argv=("echo", "hi")))
        assert b"".join([data async for _, data in session.output()]) == b"hi\n"
        assert await session.wait() == 0
        await session.aclose()
        session = await runtime.exec(wanted.id, ExecSpec(argv=("false",)))
        assert await session.wait() == 1
        await session.aclose()

    async def test_paused_it_answers_nobody_until_it_is_resumed(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = await self._able(runtime, harness, "pause")
        if wanted is None:
            return
        before = await becomes(runtime, wanted.id, "running")
        await runtime.pause(wanted.id)
        await runtime.pause(wanted.id)
        assert (await becomes(runtime, wanted.id, "paused")).pid == before.pid
        asking = asyncio.ensure_future(harness.request(address_of(before)))
        done, _ = await asyncio.wait((asking,), timeout=0.2)
        assert not done
        await runtime.resume(wanted.id)
        await runtime.resume(wanted.id)
        assert await asking == 200
        assert (await becomes(runtime, wanted.id, "running")).pid == before.pid

    async def test_paused_ones_stay_so_over_agents_and_can_be_stopped(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = await self._able(runtime, harness, "pause")
        if wanted is None:
            return
        await runtime.pause(wanted.id)
        await harness.kill_agent(runtime)
        runtime = await harness.open()
        assert (await becomes(runtime, wanted.id, "paused")).restarts == 0
        await runtime.stop(wanted.id, grace_ms=GRACE_MS)
        assert await harness.leftovers() == []

    async def test_a_limit_that_it_came_to_is_told(self, runtime: Runtime, harness: ProgramRuntimeHarness) -> None:
        wanted = harness.filling("a")
        seen = await runtime.start(wanted)
        assert await harness.request(address_of(seen)) == 200
        before = await self._strained(runtime, wanted)
        await harness.kill_agent(runtime)
        assert (await self._strained(await harness.open(), wanted)).pid == before.pid

    async def _strained(self, runtime: Runtime, wanted: NodeInstance) -> ObservedInstance:
        def now() -> ObservedInstance | None:
            seen = find(runtime, wanted.id)
            return seen if seen is not None and [strain.limit for strain in seen.strains] == ["disk"] else None

        await eventually(now, timeout_s=DEADLINE_S)
        seen = now()
        assert seen is not None
        assert "is full" in seen.strains[0].text
        return seen

    async def test_resized_it_goes_on(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = await self._able(runtime, harness, "resize")
        if wanted is None:
            return
        before = await becomes(runtime, wanted.id, "running")
        await runtime.resize(wanted.id, SandboxLimits(memory_mib_max=300, cpu_millicores_max=500))
        assert await harness.request(address_of(before)) == 200
        assert (await becomes(runtime, wanted.id, "running")).pid == before.pid

    async def test_clones_go_on_from_a_snapshot_beside_the_original(self, runtime: Runtime, harness: RuntimeHarness) -> None:
        wanted = await self._able(runtime, harness, "clone")
        if wanted is None:
            return
        name = await runtime.snapshot(wanted.id)
        assert (await becomes(runtime, wanted.id, "running")).restarts == 0
        twin = replace(wanted, id=InstanceId("fedcba9876543210"))
        seen = await runtime.clone(name, twin)
        assert await harness.request(address_of(seen)) == 200
        original = await becomes(runtime, wanted.id, "running")
        assert address_of(seen) != address_of(original)
        assert await harness.request(address_of(original)) == 200
        await runtime.forget_snapshot(name)
        await runtime.forget_snapshot(name)
        with pytest.raises(NoSuchInstance):
            await runtime.clone(name, twin)
        for one in (wanted, twin):
            await runtime.stop(one.id, grace_ms=GRACE_MS)
        assert await harness.leftovers() == []

    async def _able(self, runtime: Runtime, harness: RuntimeHarness, ability: Ability) -> NodeInstance | None:
        """A running instance; None where its engine has no such ability, and says so (`RuntimeContract`)."""
        wanted = harness.good("a")
        if ability not in abilities_of(runtime, wanted):
            return None
        await runtime.start(wanted)
        await becomes(runtime, wanted.id, "running")
        return wanted


async def _all(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
