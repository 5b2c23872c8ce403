"""Programs on a simulated machine, in virtual time: what their deployers and their users see."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest

from skerry.core.machines.instance import Backoff
from skerry.core.types.app import AssetsBinding, SecretBinding, TextBinding
from skerry.core.types.program import ExecCheck, Health, HttpCheck, Program, SecretFile, TcpCheck
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import NoSuchInstance, Unavailable, Unsupported
from skerry.ports.sandbox import ExecSpec, Exit, SandboxLimits
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.services.node.programs.settings import ProgramSettings
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.machine.agentry import Agentry, SimEngine, SimSandbox
from skerry.testing.machine.machine import Behaviour, SimulatedMachine
from skerry.testing.machine.node import program_runtime
from skerry.testing.programs import image, program_instance
from skerry.testing.virtual_loop import run_virtual

SETTINGS = ProgramSettings(backoff=Backoff(first_ms=1000))
GOOD = image("good")


class Node:
    """One machine and its agents."""

    def __init__(self, **behaviour: object) -> None:
        self.machine = SimulatedMachine(usual=Behaviour(**behaviour))  # pyright: ignore[reportArgumentType]
        self.engines: tuple[str, ...] = ("container",)

    async def open(self) -> ProgramRuntime:
        self.hold = Agentry(self.machine)
        engines = tuple(SimEngine(self.hold, name) for name in self.engines)  # pyright: ignore[reportArgumentType]
        self.runtime = program_runtime(self.hold, settings=SETTINGS, engines=engines)
        await self.runtime.attach()
        return self.runtime

    async def kill(self) -> None:
        self.hold.kill()
        await asyncio.wait({asyncio.ensure_future(self.runtime.aclose(stop_instances=False))}, timeout=1)

    async def run(self, wanted: NodeInstance, *states: str) -> str:
        """Start it, wait for one of the states; its detail."""
        await self.runtime.start(wanted)
        return (await becomes(self.runtime, wanted.id, *states)).detail


def play(story: Callable[[Node], Awaitable[None]], **behaviour: object) -> Node:
    node = Node(**behaviour)

    async def told() -> None:
        await node.open()
        await story(node)
        for seen in node.runtime.observe():
            await node.runtime.stop(seen.id, grace_ms=1000)
        assert node.machine.left() == []
        await node.runtime.aclose(stop_instances=True)

    run_virtual(told())
    return node


def reason(program: Program, state: str = "backoff", **behaviour: object) -> str:
    """What is told of a program that does not come to run."""
    found: list[str] = []

    async def story(node: Node) -> None:
        wanted = program_instance("app", program)
        await node.runtime.start(wanted)
        async with asyncio.timeout(200):
            seen = await becomes(node.runtime, wanted.id, *((state,) if state == "failed" else ("starting", "backoff")))
            while seen.restarts == 0 and seen.state == "starting":
                await anext(node.runtime.changes())
                seen = await becomes(node.runtime, wanted.id, "starting", "backoff")
        found.append(seen.detail)

    play(story, **behaviour)
    return found[0]


@pytest.mark.parametrize(
    ("behaviour", "program", "state", "told"),
    [
        ({"bad_image": "layer 3 is corrupt"}, {}, "failed", "bad image: layer 3 is corrupt"),
        ({"image_away": "the site is away"}, {}, "backoff", "its image is not here: the site is away"),
        ({"start_error": "no such command: /ap"}, {}, "failed", "cannot start: no such command: /ap"),
        (
            {},
            {"command": ()},
            "failed",
            "nothing says what to run: the image has no entrypoint and no command, and the app gives none",
        ),
        ({}, {"user": "postgres"}, "failed", "the image has no user postgres"),
        (
            {"exits": (5, Exit(code=1)), "opens_ms": None, "says": b"reading\nno DATABASE_URL\n"},
            {},
            "backoff",
            "ended with status 1 before it was ready; its last words: no DATABASE_URL",
        ),
        ({"exits": (5, Exit(code=139)), "opens_ms": None}, {}, "backoff", "ended by SIGSEGV before it was ready"),
        (
            {"exits": (5, Exit(code=137, out_of_memory=True)), "opens_ms": None},
            {},
            "backoff",
            "out of memory (it may use 512 MiB) before it was ready",
        ),
        (
            {"opens_ms": None},
            {},
            "backoff",
            "port 8080 never opened in 30 s: connection refused (a program that listens on 127.0.0.1 alone is not reached: "
            "it has to listen on 0.0.0.0)",
        ),
        (
            {"status": 500},
            {"health": Health(check=HttpCheck(path="/up"), grace_ms=3000)},
            "backoff",
            "GET /up on port 8080 never succeeded in 3 s: GET /up was answered with 500",
        ),
        (
            {},
            {"health": Health(check=ExecCheck(command=("false", "-x")), grace_ms=3000)},
            "backoff",
            "`false -x` never succeeded in 3 s: status 1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 10 else "",
)  # fmt: skip
def test_why_it_does_not_run(behaviour: dict[str, object], program: dict[str, object], state: str, told: str) -> None:
    wanted = msgspec.structs.replace(Program(image=GOOD, port=8080), **program)
    assert reason(wanted, state, **behaviour) == told


def test_a_binding_that_programs_do_not_have() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app", bindings=(AssetsBinding(name="FILES"),))
        assert await node.run(wanted, "failed") == "binding FILES is not for programs: their bindings are text and secrets"

    play(story)


def test_what_it_is_told_of_itself() -> None:
    async def story(node: Node) -> None:
        bindings = (
            TextBinding(name="COLOUR", text="red"),
            SecretBinding(name="KEY", text="s3"),
            TextBinding(name="PORT", text="1"),
        )
        program = Program(image=GOOD, port=8080, args=("serve",), files=(SecretFile(path="/run/key", text="k"),))
        wanted = program_instance("app", program, bindings=bindings)
        await node.run(wanted, "running")
        spec = node.machine.boxes[wanted.id].spec
        assert spec.argv == ("/app", "serve")
        assert {name: spec.env[name] for name in ("COLOUR", "KEY", "PORT", "FROM_IMAGE")} == {
            "COLOUR": "red", "KEY": "s3", "PORT": "8080", "FROM_IMAGE": "1",
        }  # fmt: skip
        assert {name: value for name, value in spec.env.items() if name.startswith("SKERRY_")} == {
            "SKERRY_SITE": "lhr", "SKERRY_NODE": "lhr-1", "SKERRY_APP": "app",
            "SKERRY_VERSION": wanted.version.id, "SKERRY_INSTANCE": wanted.id,
        }  # fmt: skip
        assert [(file.path, file.content, file.mode) for file in spec.files] == [("/run/key", b"k", 0o400)]
        assert [mount.target for mount in spec.mounts] == ["/etc/resolv.conf", "/etc/hosts"]

    play(story)


def test_what_failed_for_a_while_comes_up_by_itself() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        await node.run(wanted, "backoff")
        node.machine.usual.image_away = ""
        asking = asyncio.ensure_future(node.machine.request(address_of(find(node.runtime, wanted.id))))  # pyright: ignore[reportArgumentType]
        assert await asking == 503
        await becomes(node.runtime, wanted.id, "running")
        assert await node.machine.request(address_of(find(node.runtime, wanted.id))) == 200  # pyright: ignore[reportArgumentType]

    play(story, image_away="the site is away")


@pytest.mark.parametrize(
    ("restart", "code", "state"),
    [
        ("always", 0, "backoff"),
        ("on-failure", 0, "done"),
        ("on-failure", 3, "backoff"),
        ("never", 0, "done"),
        ("never", 3, "failed"),
    ],
)
def test_jobs_end_by_their_policy(restart: str, code: int, state: str) -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("job", Program(image=GOOD, restart=restart))  # pyright: ignore[reportArgumentType]
        detail = await node.run(wanted, state)
        assert detail.startswith(f"ended with status {code}")
        assert node.machine.boxes == {} or state == "backoff"
        await node.kill()
        await node.open()
        await asyncio.sleep(0.5)
        seen = find(node.runtime, wanted.id)
        assert seen is not None
        assert (seen.state, seen.address) == (state, None) or state == "backoff"

    play(story, exits=(50, Exit(code=code)), opens_ms=None)


def test_without_traffic_it_sleeps_and_a_request_wakes_it() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app", Program(image=GOOD, port=8080, asleep_after_s=60))
        await node.run(wanted, "running")
        address = address_of(await becomes(node.runtime, wanted.id, "running"))
        for _ in range(5):
            await asyncio.sleep(40)
            assert await node.machine.request(address) == 200
        assert find(node.runtime, wanted.id).state == "running"  # pyright: ignore[reportOptionalMemberAccess]
        await asyncio.sleep(55)
        seen = await becomes(node.runtime, wanted.id, "dead")
        assert seen.detail == "no traffic for 60 s"
        await asyncio.sleep(2)
        assert node.machine.boxes == {}
        with pytest.raises(NoSuchInstance, match="it is dead: no traffic"):
            await node.runtime.exec(wanted.id, ExecSpec(argv=("true",)))
        await node.kill()
        asking = asyncio.ensure_future(node.machine.request(address))  # while nobody is there to wake it
        await asyncio.sleep(5)
        await node.open()
        assert await asking == 200
        seen = await becomes(node.runtime, wanted.id, "running")
        assert (seen.restarts, seen.address) == (0, address)

    play(story)


def test_who_wakes_one_that_takes_its_time_to_end_does_not_wait_for_that() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app", Program(image=GOOD, port=8080, asleep_after_s=5))
        await node.run(wanted, "running")
        address = address_of(await becomes(node.runtime, wanted.id, "running"))
        await becomes(node.runtime, wanted.id, "dead")
        await asyncio.sleep(0.1)
        asked_s = asyncio.get_running_loop().time()
        assert await node.machine.request(address) == 200
        assert asyncio.get_running_loop().time() - asked_s < 1

    play(story, stop_ms=9000)


@pytest.mark.parametrize("turns", range(24))
def test_who_comes_while_it_is_being_ended_is_answered(turns: int) -> None:
    """In whatever turn of the agent's loop: the next process is nobody's who ends the one before."""

    async def story(node: Node) -> None:
        wanted = program_instance("app", Program(image=GOOD, port=8080, asleep_after_s=3600))
        await node.run(wanted, "running")
        address = address_of(await becomes(node.runtime, wanted.id, "running"))
        await node.runtime.drop(wanted.id, "for the room")
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while (await node.machine.request(address), find(node.runtime, wanted.id).state) != (200, "running"):  # type: ignore[union-attr]
                await asyncio.sleep(0.001)

    play(story, stop_ms=9000)


def test_one_that_stops_answering_is_restarted_and_nobody_is_led_to_it() -> None:
    async def story(node: Node) -> None:
        health = Health(check=HttpCheck(), interval_ms=1000, failures_max=3)
        wanted = program_instance("app", Program(image=GOOD, port=8080, health=health))
        await node.run(wanted, "running")
        address = address_of(await becomes(node.runtime, wanted.id, "running"))
        box = node.machine.boxes[wanted.id]
        box.behaviour = replace(box.behaviour, status=500)
        seen = await becomes(node.runtime, wanted.id, "starting")
        assert seen.detail == "its health check failed 3 times in a row: GET / was answered with 500"
        assert await node.machine.request(address) == 200
        assert (await becomes(node.runtime, wanted.id, "running")).restarts == 1
        log = b"".join([data async for data in node.runtime.logs(wanted.id, tail_bytes=1000, follow=False)])
        assert b"skerry: its health check failed 3 times in a row" in log

    play(story)


def test_one_that_is_stopped_for_its_snapshot_is_not_taken_for_sick(monkeypatch: pytest.MonkeyPatch) -> None:
    takes_snapshot = SimSandbox.snapshot

    async def long(sandbox: SimSandbox, directory: str) -> None:
        box = sandbox._box
        box.behaviour = replace(box.behaviour, status=500)
        await asyncio.sleep(60)
        box.behaviour = replace(box.behaviour, status=200)
        await takes_snapshot(sandbox, directory)

    async def story(node: Node) -> None:
        monkeypatch.setattr(SimSandbox, "snapshot", long)
        health = Health(check=HttpCheck(), interval_ms=1000, failures_max=3)
        wanted = program_instance("app", Program(image=GOOD, port=8080, health=health))
        await node.run(wanted, "running")
        name = await node.runtime.snapshot(wanted.id)
        await asyncio.sleep(10)
        await node.runtime.forget_snapshot(name)
        assert [(seen.state, seen.restarts) for seen in node.runtime.observe()] == [("running", 0)]

    play(story)


def test_one_that_is_asleep_is_asked_nothing_until_somebody_comes() -> None:
    async def story(node: Node) -> None:
        health = Health(check=HttpCheck(), interval_ms=1000, failures_max=3)
        wanted = program_instance("app", Program(image=GOOD, port=8080, health=health))
        await node.run(wanted, "running")
        address = address_of(await becomes(node.runtime, wanted.id, "running"))
        await node.runtime.sleep(wanted.id)
        box = node.machine.boxes[wanted.id]
        box.behaviour = replace(box.behaviour, status=500)
        await asyncio.sleep(60)
        assert [(seen.state, seen.restarts) for seen in node.runtime.observe()] == [("asleep", 0)]
        await node.machine.request(address)
        await becomes(node.runtime, wanted.id, "starting")
        assert (await becomes(node.runtime, wanted.id, "running")).restarts == 1

    play(story)


def test_a_paused_one_is_not_taken_for_sick_nor_for_idle() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app", Program(image=GOOD, port=8080, asleep_after_s=30, health=Health(check=TcpCheck())))
        await node.run(wanted, "running")
        await node.runtime.pause(wanted.id)
        await asyncio.sleep(600)
        seen = await becomes(node.runtime, wanted.id, "paused")
        assert seen.restarts == 0
        await node.runtime.resume(wanted.id)
        await asyncio.sleep(10)
        assert find(node.runtime, wanted.id).state == "running"  # pyright: ignore[reportOptionalMemberAccess]

    play(story)


def test_new_limits_hold_for_its_next_process_and_the_next_agent() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        await node.run(wanted, "running")
        await node.runtime.resize(wanted.id, SandboxLimits(memory_mib_max=99, cpu_millicores_max=100))
        assert node.machine.boxes[wanted.id].limits.memory_mib_max == 99
        await node.kill()
        await node.open()
        node.machine.crash(wanted.id)
        await becomes(node.runtime, wanted.id, "starting")
        await becomes(node.runtime, wanted.id, "running")
        assert node.machine.boxes[wanted.id].limits.memory_mib_max == 99

    play(story)


def test_a_restore_goes_back_to_the_snapshot_at_the_same_address() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        await node.run(wanted, "running")
        before = await becomes(node.runtime, wanted.id, "running")
        state = node.machine.boxes[wanted.id].state
        state["/data"] = b"one"
        name = await node.runtime.snapshot(wanted.id)
        state["/data"] = b"two"
        await node.kill()
        await node.open()
        await node.runtime.clone(name, wanted)
        after = await becomes(node.runtime, wanted.id, "running")
        assert node.machine.boxes[wanted.id].state["/data"] == b"one"
        assert after.address == before.address
        assert after.pid != before.pid
        with pytest.raises(Unsupported, match=f"is of version {wanted.version.id}, not of"):
            await node.runtime.clone(name, program_instance("other"))
        await node.runtime.forget_snapshot(name)

    play(story)


def test_a_class_that_the_node_does_not_offer() -> None:
    async def story(node: Node) -> None:
        with pytest.raises(Unavailable, match="gvisor is not offered here; offered: container"):
            await node.runtime.start(program_instance("app", isolation="gvisor"))
        assert node.runtime.observe() == ()

    play(story)


def test_a_network_that_comes_late() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        node.machine.no_network = "nftables is not there"
        with pytest.raises(Unavailable, match="nftables is not there"):
            await node.runtime.start(wanted)
        assert node.machine.left() == []
        node.machine.no_network = ""
        await node.run(wanted, "running")
        node.machine.power_off()
        await node.kill()
        node.machine.no_network = "not yet"
        opening = asyncio.ensure_future(node.open())
        await asyncio.sleep(30)
        node.machine.no_network = ""
        await opening
        await becomes(node.runtime, wanted.id, "running")

    play(story)


def test_what_cannot_be_removed_at_once_is_removed_later() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        await node.run(wanted, "running")
        node.machine.busy_mounts = 3
        await node.runtime.stop(wanted.id, grace_ms=100)
        assert node.machine.left() == []

    play(story)


def test_what_a_starting_one_does_is_told() -> None:
    async def story(node: Node) -> None:
        wanted = program_instance("app")
        seen = await node.runtime.start(wanted)
        told = [seen.detail]
        async for _ in node.runtime.changes():
            seen = find(node.runtime, wanted.id)
            assert seen is not None
            if seen.state == "running":
                break
            told.append(seen.detail)
        assert [text for text in dict.fromkeys(told) if text] == [
            "joining the network",
            "fetching and unpacking its image",
            "mounting its files",
            "starting its process",
            "waiting until it answers",
        ]

    play(story)


def test_images_go_with_the_last_instance() -> None:
    async def story(node: Node) -> None:
        wanted = [program_instance("a", Program(image=image(name), port=80)) for name in ("one", "two")]
        await node.run(wanted[0], "running")
        await node.runtime.stop(wanted[0].id, grace_ms=0)
        await asyncio.sleep(1)
        assert node.machine.images == set()

    play(story)
