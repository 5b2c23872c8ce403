"""The resolver of a node's instances: a process of its own, so it answers while the agent is away and no flood slows the agent.

    python -m skerry.adapters.network.linux.resolver FILE      (descriptors 3 and 4: its UDP and TCP sockets)

It keeps nothing: who asks is read from the file that the agent wrote for the asker's address, and what it lets through goes
into the kernel's set of that instance before the answer does.
"""

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import msgspec

from skerry.adapters.network.linux import rules
from skerry.adapters.network.linux.answers import (
    PLAIN_TYPES,
    Answer,
    answer_at_once,
    answer_from,
    question_upstream,
    read_query,
    refusal,
    to_wire,
)
from skerry.adapters.network.linux.asking import TCP_FD, UDP_FD, Asker, ResolverConfig
from skerry.adapters.network.linux.nft import Nft
from skerry.kit.record import decode
from skerry.ports.network import NetworkError

QUESTIONS_MAX, QUESTIONS_OF_ONE_MAX = 512, 32  # at once; what comes in addition is not answered
CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX = 256, 8
QUESTIONS_PER_CONNECTION_MAX, IDLE_S_MAX = 100, 10
UPSTREAM_S_MAX, UPSTREAMS_MAX = 2.0, 3
UPSTREAM_BYTES_MAX = 65535
QUERY_BYTES_MAX = 1024  # a question has one name of at most 255 bytes
BUCKETS_MAX = 4096
MACHINE_FILE = Path("/etc/resolv.conf")


@dataclass
class _Load:
    """What one asker has under way, and how many questions of a bulky type it has left."""

    questions: int = 0
    connections: int = 0
    bulk: float = 0.0
    filled_at: float = 0.0


class Resolver:
    def __init__(self, config: ResolverConfig) -> None:
        self._config = config
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._questions = 0
        self._connections = 0
        self._kernel = ThreadPoolExecutor(max_workers=1)
        self._nft: Nft | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, udp: socket.socket, tcp: socket.socket) -> None:
        udp.setblocking(False)
        server = await asyncio.start_server(self._serve_tcp, sock=tcp)
        async with server:
            loop = asyncio.get_running_loop()
            while True:
                try:
                    data, client = await loop.sock_recvfrom(udp, QUERY_BYTES_MAX)
                except OSError:  # an earlier answer was not wanted
                    continue
                if self._questions < QUESTIONS_MAX:
                    task = asyncio.create_task(self._serve_udp(udp, data, client))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def answer(self, data: bytes, host: str, *, udp: bool) -> bytes | None:
        """None: not worth an answer."""
        query = read_query(data)
        asker = self._asker(host)
        load = self._load(host)
        if query is None or asker is None or load.questions >= QUESTIONS_OF_ONE_MAX or self._questions >= QUESTIONS_MAX:
            return None
        load.questions += 1
        self._questions += 1
        try:
            return to_wire(await self._resolve(query, asker, load), query, udp=udp)
        except (dns.exception.DNSException, ValueError):
            return None
        finally:
            load.questions -= 1
            self._questions -= 1

    async def _resolve(self, query: dns.message.Message, asker: Asker, load: _Load) -> dns.message.Message:
        known = answer_at_once(query, asker.reach, self._config.operator)
        if known is not None:
            return known
        if query.question[0].rdtype not in PLAIN_TYPES and not self._may_ask_bulk(load):
            return refusal(query, dns.rcode.REFUSED, "too many questions of this type")
        reply = await ask(question_upstream(query), self._config.resolvers or machine_resolvers())
        if reply is None:
            return refusal(query, dns.rcode.SERVFAIL)
        answer = answer_from(query, reply, self._config.operator)
        if answer.addresses and asker.reach.networks is not None:
            await self._let_through(asker, answer)
        return answer.message

    async def _let_through(self, asker: Asker, answer: Answer) -> None:
        text = rules.let_through(self._config.tag, asker.slot, answer.addresses, valid_s=answer.valid_s)
        with contextlib.suppress(NetworkError):  # the instance is gone, or has too many: it will not get there
            await asyncio.get_running_loop().run_in_executor(self._kernel, self._run, text)

    def _run(self, text: str) -> None:
        if self._nft is None:
            self._nft = Nft()
        self._nft.run(text)

    def _asker(self, host: str) -> Asker | None:
        try:
            return decode((Path(self._config.askers) / f"{host}.json").read_bytes(), Asker)
        except (OSError, msgspec.DecodeError):
            return None

    def _load(self, host: str) -> _Load:
        load = self._loads.setdefault(host, _Load(bulk=4 * self._config.bulk_per_s, filled_at=time.monotonic()))
        self._loads.move_to_end(host)
        if len(self._loads) > BUCKETS_MAX:
            self._loads.popitem(last=False)
        return load

    def _may_ask_bulk(self, load: _Load) -> bool:
        now = time.monotonic()
        load.bulk = min(4 * self._config.bulk_per_s, load.bulk + (now - load.filled_at) * self._config.bulk_per_s)
        load.filled_at = now
        if load.bulk < 1:
            return False
        load.bulk -= 1
        return True

    async def _serve_udp(self, udp: socket.socket, data: bytes, client: tuple[str, int]) -> None:
        answer = await self.answer(data, client[0], udp=True)
        if answer is not None:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendto(udp, answer, client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host: str = writer.get_extra_info("peername")[0]
        load = self._load(host)
        if load.connections >= CONNECTIONS_OF_ONE_MAX or self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        load.connections += 1
        self._connections += 1
        try:
            async with asyncio.timeout(None) as deadline:
                for _ in range(QUESTIONS_PER_CONNECTION_MAX):
                    deadline.reschedule(asyncio.get_running_loop().time() + IDLE_S_MAX)
                    if not await self._serve_one(reader, writer, host):
                        return
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            load.connections -= 1
            self._connections -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> bool:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        if length > QUERY_BYTES_MAX:
            return False
        answer = await self.answer(await reader.readexactly(length), host, udp=False)
        if answer is None:
            return False
        writer.write(struct.pack("!H", len(answer)) + answer)
        await writer.drain()
        return True


async def ask(question: dns.message.Message, resolvers: tuple[str, ...]) -> dns.message.Message | None:
    """The first reply that fits, from one resolver after the other; over TCP when it was cut off. None: nobody answers."""
    for resolver in resolvers[:UPSTREAMS_MAX]:
        host, port = _split(resolver)
        try:
            async with asyncio.timeout(UPSTREAM_S_MAX):
                reply = await _ask_udp(question, host, port)
            if reply.flags & dns.flags.TC:
                async with asyncio.timeout(UPSTREAM_S_MAX):
                    reply = await _ask_tcp(question, host, port)
        except (OSError, EOFError, TimeoutError, dns.exception.DNSException, ValueError):
            continue
        return reply
    return None


async def _ask_udp(question: dns.message.Message, host: str, port: int) -> dns.message.Message:
    """From a port of its own and with a number of its own: who cannot see the question cannot answer it."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, (host, port))
        await loop.sock_sendall(asking, question.to_wire())
        while True:
            reply = _fitting(question, await loop.sock_recv(asking, UPSTREAM_BYTES_MAX))
            if reply is not None:
                return reply


async def _ask_tcp(question: dns.message.Message, host: str, port: int) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        wire = question.to_wire()
        writer.write(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        reply = _fitting(question, await reader.readexactly(length))
    finally:
        writer.close()
    if reply is None:
        raise ValueError("another question's answer")
    return reply


def _fitting(question: dns.message.Message, data: bytes) -> dns.message.Message | None:
    try:
        reply = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError):
        return None
    return reply if question.is_response(reply) else None


def machine_resolvers() -> tuple[str, ...]:
    """As the machine has them now."""
    try:
        lines = [line.split() for line in MACHINE_FILE.read_text(errors="replace").splitlines()]
    except OSError:
        return ()
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")


def _split(resolver: str) -> tuple[str, int]:
    if resolver.count(":") == 1:
        host, _, port = resolver.partition(":")
        return host, int(port)
    return resolver, 53


def main() -> None:
    config = decode(Path(sys.argv[1]).read_bytes(), ResolverConfig)
    udp, tcp = socket.socket(fileno=UDP_FD), socket.socket(fileno=TCP_FD)
    asyncio.run(Resolver(config).run(udp, tcp))


if __name__ == "__main__":
    main()
