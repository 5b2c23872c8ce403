"""A conversation over real sockets: client, control, site, node, and a runtime whose programs are made up."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Literal

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from skerry.adapters.clock.system import SystemClock
from skerry.adapters.link.http import HttpControlLink, HttpSiteLink
from skerry.apps.serving import serving
from skerry.apps.tasks import running
from skerry.core.types.ids import Digest, InstanceId
from skerry.core.types.slices import NodeReport, NodeSlice, SiteReport, SiteSlice
from skerry.core.types.usage import InstanceUsage
from skerry.kit.frames import STDIN, STDOUT, Exit, Failed, Resize, data_frame, parse, word_frame
from skerry.kit.record import encode
from skerry.ports.calls import CopyIn, CopyOut, Exec, Logs, Usage, What
from skerry.ports.runtime import Plain
from skerry.ports.sandbox import ExecSpec
from skerry.services.calls.answering import answer_calls, passing_on
from skerry.services.calls.exchange import Exchange
from skerry.services.node.talk import Talk
from skerry.testing.own import OwnPlatform, make_own_platform
from skerry.wire.internal.routes import link_app

INSTANCE = "00112233445566aa"
SECRET = "join"


class Shell:
    """Says its input back in capitals, its terminal's size on resize, and exits with 7 at end-of-file."""

    def __init__(self, spec: ExecSpec) -> None:
        self.said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.said.put_nowait(" ".join(spec.argv).encode())
        self.killed = False

    async def write(self, data: bytes) -> None:
        self.said.put_nowait(data.upper() or None)

    async def output(self) -> AsyncIterator[tuple[Literal["out", "err"], bytes]]:
        while (data := await self.said.get()) is not None:
            yield "out", data

    async def resize(self, rows: int, columns: int) -> None:
        self.said.put_nowait(f"{rows}x{columns}".encode())

    async def signal(self, number: int) -> None:
        self.said.put_nowait(b"signal %d" % number)

    async def wait(self) -> int:
        return 7

    async def aclose(self) -> None:
        self.killed = True


def usage_of(instance: InstanceId) -> InstanceUsage:
    return InstanceUsage(
        instance=instance,
        used_millicores=170,
        share_millicores=100,
        granted_millicores=170,
        limit_millicores=1000,
        credit_us=0,
        held="others wait for the CPU",
        cpu_us=5_000_000,
        throttled_us=1,
        memory_bytes=30 << 20,
        private_bytes=20 << 20,
        memory_bytes_max=128 << 20,
        pids=3,
        oom_kills=0,
    )


class MadeUp(Plain):
    """Of a runtime, what conversations need."""

    def __init__(self) -> None:
        self.shells: list[Shell] = []
        self.archives: list[bytes] = []

    async def exec(self, instance_id: str, spec: ExecSpec) -> Shell:
        self.shells.append(Shell(spec))
        return self.shells[-1]

    async def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        yield b"line\n" * 50_000
        if follow:
            await asyncio.Event().wait()

    async def copy_in(self, instance_id: str, directory: str, archive: AsyncIterator[bytes]) -> None:
        self.archives.append(b"".join([part async for part in archive]))


async def nothing(*_: object) -> None:
    return None


def listener() -> tuple[socket.socket, str]:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made, f"http://127.0.0.1:{made.getsockname()[1]}"


def links(kind: Literal["sites", "nodes"], exchange: Exchange) -> Mount:
    async def none(_caller: str, _after: int, _wait_ms: int) -> SiteSlice | NodeSlice | None:
        return None

    async def no_blob(_: Digest) -> bytes | None:
        return None

    app = link_app(
        kind,
        SiteReport if kind == "sites" else NodeReport,  # type: ignore[type-var]
        secret=SECRET,
        known=lambda name: name in ("lhr", "lhr-1"),
        caller_of=str,
        hear=lambda _: None,
        next_slice=none,
        blob=no_blob,
        exchange=exchange,
    )
    return Mount("/internal/v1", app=app)


class Way:
    """All planes of one way, in this process; `runtime` is the node's."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.runtime = MadeUp()

    async def __aenter__(self) -> "Way":
        self.platform: OwnPlatform = await make_own_platform()
        (control, control_url), (site, site_url) = listener(), listener()
        own = Starlette(routes=[links("sites", self.platform.exchange), Mount("/", app=self.platform.app)])
        below = Exchange()
        clock = SystemClock()
        up = HttpControlLink(control_url, "lhr", SECRET)
        down = HttpSiteLink(site_url, "lhr-1", SECRET)
        self.url = control_url.replace("http", "ws")
        await self.stack.enter_async_context(serving(own, control))
        await self.stack.enter_async_context(serving(Starlette(routes=[links("nodes", below)]), site))
        for link in (up, down):
            self.stack.push_async_callback(link.aclose)
        handler = passing_on(below, lambda call: "lhr-1" if call.instance == INSTANCE else None)
        await self.stack.enter_async_context(
            running(answer_calls(up, handler, clock), answer_calls(down, Talk(self.runtime, self.usage), clock))  # type: ignore[arg-type]
        )
        return self

    @staticmethod
    def usage(instance: InstanceId) -> InstanceUsage:
        return usage_of(instance)

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def open(self, what: What, *, token: str | None = None, instance: str = INSTANCE) -> ClientConnection:
        url = f"{self.url}/v1/apps/default/hello/instances/{instance}/talk"
        bearer = self.platform.token if token is None else token
        opened = await connect(url, additional_headers={"authorization": f"Bearer {bearer}"}, proxy=None)
        await opened.send(encode(what))
        return opened


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    async with Way() as way:
        yield way


async def hear(opened: ClientConnection) -> object:
    message = await opened.recv()
    assert isinstance(message, bytes)
    return parse(message)


async def test_a_command_is_talked_with_and_its_code_comes_back(way: Way) -> None:
    opened = await way.open(Exec(spec=ExecSpec(argv=("sh", "-c", "x"), terminal=True)))
    assert await hear(opened) == (STDOUT, b"sh -c x")
    await opened.send(data_frame(STDIN, b"hello"))
    assert await hear(opened) == (STDOUT, b"HELLO")
    await opened.send(word_frame(Resize(rows=50, columns=120)))
    assert await hear(opened) == (STDOUT, b"50x120")
    await opened.send(data_frame(STDIN, b""))
    assert await hear(opened) == Exit(code=7)
    await opened.wait_closed()


async def test_a_client_that_leaves_ends_its_command(way: Way) -> None:
    opened = await way.open(Exec(spec=ExecSpec(argv=("sh",))))
    await hear(opened)
    await opened.close()
    async with asyncio.timeout(10):
        while not way.runtime.shells[0].killed:
            await asyncio.sleep(0.01)


async def test_logs_come_whole(way: Way) -> None:
    opened, said = await way.open(Logs()), b""
    while isinstance(heard := await hear(opened), tuple):
        said += heard[1]
    assert heard == Exit(code=0)
    assert said == b"line\n" * 50_000


async def test_what_an_instance_uses_comes_as_its_node_sees_it(way: Way) -> None:
    opened = await way.open(Usage())
    assert await hear(opened) == (STDOUT, encode(usage_of(InstanceId(INSTANCE))))
    assert await hear(opened) == Exit(code=0)


async def test_an_archive_goes_in_piece_by_piece(way: Way) -> None:
    opened = await way.open(CopyIn(directory="/srv"))
    for part in (b"a" * 60_000, b"b", b""):
        await opened.send(data_frame(STDIN, part))
    assert await hear(opened) == Exit(code=0)
    assert way.runtime.archives == [b"a" * 60_000 + b"b"]


async def test_a_copy_that_breaks_off_is_no_archive(way: Way) -> None:
    opened = await way.open(CopyIn(directory="/srv"))
    await opened.send(data_frame(STDIN, b"a"))
    await opened.close()
    second = await way.open(Logs())  # behind the first on the same planes
    await hear(second)
    assert way.runtime.archives == []


async def test_what_the_runtime_cannot_is_said(way: Way) -> None:
    heard = await hear(await way.open(CopyOut(path="/etc")))
    assert isinstance(heard, Failed)
    assert "not for a worker" in heard.message


NO_CALLS = (
    (encode(Exec(spec=ExecSpec(argv=()))), "a command has 1"),
    (encode(Exec(spec=ExecSpec(argv=("a\0",)))), "NUL"),
    (encode(Exec(spec=ExecSpec(argv=("a",), rows=0))), "a terminal has"),
    (encode(Logs(tail_bytes=-1)), "tail_bytes is -1"),
    (encode(CopyOut(path="etc")), "no absolute path"),
    (b"{}", "first message"),
    (b"\xff", "first message"),
    (json.dumps({"kind": "reboot"}).encode(), "first message"),
)


async def test_what_cannot_be_meant_goes_no_further(way: Way) -> None:
    url = f"{way.url}/v1/apps/default/hello/instances/{INSTANCE}/talk"
    for first, said in NO_CALLS:
        opened = await connect(url, additional_headers={"authorization": f"Bearer {way.platform.token}"}, proxy=None)
        await opened.send(first)
        heard = await hear(opened)
        assert isinstance(heard, Failed)
        assert said in heard.message


async def test_nobody_else_gets_in(way: Way) -> None:
    for token, instance, said in (
        ("", INSTANCE, "token"),
        ("x", INSTANCE, "token"),
        (way.platform.other_token, INSTANCE, "account"),
        (way.platform.overseer, INSTANCE, "only read"),
        (None, "f" * 16, "no instance"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            await way.open(Logs(), token=token, instance=instance)
        assert refused.value.response.status_code in (401, 403, 404)
        assert said in json.loads(refused.value.response.body)["error"]["message"]
