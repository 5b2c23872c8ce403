"""`skerry.ports.network` on Linux: a namespace and a veth pair per instance, one nftables table per node.

python: policy ─▶ rules ─▶ libnftables          the kernel alone carries packets: the policy, the way out, and the way in
        links, addresses ─▶ netlink              of what is open, so all of that stays while the agent is away
        doors: connections that wait
"""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import structlog
from msgspec.structs import replace

from skerry.adapters.network.linux import flows, rules, steps
from skerry.adapters.network.linux.addresses import Slot, free_slot, slot_at, slots_of
from skerry.adapters.network.linux.doors import Door
from skerry.adapters.network.linux.kernel import Hands, Kernel
from skerry.adapters.network.linux.probe import require
from skerry.adapters.network.linux.publishing import bind
from skerry.adapters.network.linux.records import InstanceRecord, Published, load_all, save
from skerry.adapters.network.linux.resolving import ResolverKeeper
from skerry.adapters.network.linux.settings import Places, Settings
from skerry.core.policy.reach import reach_of
from skerry.core.types.program import NetworkPolicy
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.ports.network import InstanceNetwork, NetworkError, NetworkUnavailable, NetworkWant, Traffic

log = structlog.get_logger()
TRAFFIC_AGE_S_MAX = 1.0


class LinuxNetwork:
    """`address` is the node's, where its instances are published. Everything is named after `data_dir`."""

    def __init__(self, *, address: str, data_dir: Path, run_dir: Path, settings: Settings | None = None) -> None:
        self._address = address
        self._settings = settings or Settings()
        self._places = Places(data_dir, run_dir)
        self._kernel = Kernel()
        self._resolver = ResolverKeeper(self._places, self._settings, self._lead_questions_to)
        self._closed = False
        self._pool = ""
        self._records: dict[str, InstanceRecord] = {}
        self._durable: set[str] = set()  # whose record on disk is the one in memory
        self._doors: dict[str, Door] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._last_slot = -1
        self._ringing: dict[str, None] = {}  # in the order in which they rang
        self._rang = asyncio.Event()
        self._traffic: dict[str, Traffic] = {}
        self._traffic_task: asyncio.Task[None] | None = None
        self._traffic_at = 0.0

    async def attach(self, known: frozenset[str]) -> None:
        require()
        self._places.make()
        self._pool = await self._kernel.run(steps.prepare, self._places, self._settings)
        await self._resolver.adopt()
        for record in load_all(self._places.records):
            if record.instance in known:
                self._records[record.instance] = record
            else:
                await self._kernel.run(steps.unmake, self._places, self._pool, record)
                self._places.record(record.instance).unlink(missing_ok=True)
        kept = tuple(self._records.values())
        await self._kernel.run(steps.sweep, self._places, self._pool, kept)
        for record in kept:
            await self._serve_names(record)
        await self._kernel.run(steps.take_over, self._places, self._settings, self._pool, kept)
        open_ones = await self._kernel.run(steps.published, self._places)
        for record in kept:
            if record.published is not None:
                await self._reopen(record, record.published, is_open=record.published.address in open_ones)

    async def create(self, want: NetworkWant) -> InstanceNetwork:
        async with self._turn(want.instance):
            record = self._records.get(want.instance)
            if record is None:
                record = InstanceRecord(
                    instance=want.instance, account=want.account, device=want.device, policy=want.policy, slot=self._next_slot()
                )
            elif record.want != want:
                record = replace(record, device=want.device, policy=want.policy, policies=record.policies + 1)
            await self._keep(record)
            await self._serve_names(record)
            return await self._kernel.run(steps.make, self._places, self._settings, self._pool, record)

    async def publish(self, instance_id: str, *, port: int, protocol: TrafficProtocol, address: str | None = None) -> str:
        async with self._turn(instance_id):
            record = self._known(instance_id)
            had = record.published
            if had is not None and (had.port, had.protocol) == (port, protocol) and instance_id in self._doors:
                return had.address
            if had is not None:
                await self._shut(record, had)
            wanted = address or (had.address if had is not None else None)
            listener, given = bind(self._address, self._settings, instance_id, wanted)
            published = Published(address=given, port=port, protocol=protocol)
            record = replace(record, published=published)
            try:
                await self._keep(record)
            except BaseException:
                listener.close()
                raise
            self._doors[instance_id] = self._door(record, published, listener)
            return given

    async def open(self, instance_id: str) -> None:
        async with self._turn(instance_id):
            record, published = self._published(instance_id)
            await self._nft(rules.publish(self._places.tag, published.address, self._slot(record), published.port))
            self._doors[instance_id].open()
            self._ringing.pop(instance_id, None)

    async def hold(self, instance_id: str) -> None:
        async with self._turn(instance_id):
            record, published = self._published(instance_id)
            self._doors[instance_id].hold()
            await self._nft(rules.unpublish(self._places.tag, published.address, self._slot(record), published.port))
            await self._lead_anew(published.address)

    async def refuse(self, instance_id: str, reason: str) -> None:
        async with self._turn(instance_id):
            record, published = self._published(instance_id)
            self._doors[instance_id].refuse(reason)
            await self._nft(rules.unpublish(self._places.tag, published.address, self._slot(record), published.port))
            await self._lead_anew(published.address)
            self._ringing.pop(instance_id, None)

    async def rings(self) -> AsyncIterator[str]:
        while True:
            while self._ringing:
                instance_id = next(iter(self._ringing))
                del self._ringing[instance_id]
                yield instance_id
            self._rang.clear()
            await self._rang.wait()

    def traffic(self, instance_id: str) -> Traffic:
        self._look_at_traffic()
        seen = self._traffic.get(instance_id)
        if instance_id not in self._records or seen is None:
            return Traffic()
        return seen

    async def change_policy(self, instance_id: str, policy: NetworkPolicy) -> None:
        async with self._turn(instance_id):
            record = self._known(instance_id)
            if record.policy != policy:
                record = replace(record, policy=policy, policies=record.policies + 1)
            await self._keep(record)
            await self._serve_names(record)
            await self._kernel.run(steps.judge, self._places, self._slot(record), record)
            await self._kernel.run(steps.shape, self._places, self._settings, self._pool, record)

    async def remove(self, instance_id: str) -> None:
        async with self._turn(instance_id):
            record = self._records.get(instance_id)
            if record is None:
                return
            door = self._doors.pop(instance_id, None)
            if door is not None:
                await door.aclose()
            self._ringing.pop(instance_id, None)
            await self._kernel.run(steps.unmake, self._places, self._pool, record)
            self._places.record(instance_id).unlink(missing_ok=True)
            self._durable.discard(instance_id)
            del self._records[instance_id]
            self._traffic.pop(instance_id, None)

    async def aclose(self, *, remove_all: bool) -> None:
        if self._closed:
            return
        self._closed = True
        for door in self._doors.values():
            await door.aclose()
        self._doors.clear()
        if self._traffic_task is not None:
            self._traffic_task.cancel()
            await asyncio.wait([self._traffic_task])
        try:
            await self._resolver.aclose(stop=remove_all)
            if remove_all:
                await self._kernel.run(steps.remove_everything, self._places)
        finally:
            await self._kernel.aclose()

    @contextlib.asynccontextmanager
    async def _turn(self, instance_id: str) -> AsyncGenerator[None]:
        """What is done to one instance is done one after the other."""
        lock = self._locks.setdefault(instance_id, asyncio.Lock())
        async with lock:
            yield
        if instance_id not in self._records and not lock.locked():
            self._locks.pop(instance_id, None)

    def _next_slot(self) -> int:
        if not self._pool:
            raise NetworkUnavailable("the network is not attached")
        count = slots_of(self._network())
        slot = free_slot(frozenset(record.slot for record in self._records.values()), self._last_slot, count)
        if slot is None:
            raise NetworkUnavailable(
                f"all {count} addresses for instances are taken: give the node a larger block (lease_prefix)"
            )
        self._last_slot = slot
        return slot

    def _network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self._pool)

    def _slot(self, record: InstanceRecord) -> Slot:
        return slot_at(self._network(), self._places.tag, record.slot)

    async def _keep(self, record: InstanceRecord) -> None:
        """Durable when it returns; its slot is taken at once."""
        if self._records.get(record.instance) == record and record.instance in self._durable:
            return
        self._durable.discard(record.instance)
        self._records[record.instance] = record
        path = self._places.record(record.instance)
        await self._kernel.run(lambda _: save(path, record))
        self._durable.add(record.instance)

    def _known(self, instance_id: str) -> InstanceRecord:
        record = self._records.get(instance_id)
        if record is None:
            raise NetworkError(f"instance {instance_id} has no network: create it first")
        return record

    def _published(self, instance_id: str) -> tuple[InstanceRecord, Published]:
        record = self._known(instance_id)
        if record.published is None or instance_id not in self._doors:
            raise NetworkError(f"instance {instance_id} has no address: publish it first")
        return record, record.published

    def _door(self, record: InstanceRecord, published: Published, listener: socket.socket) -> Door:
        return Door(
            listener,
            (self._slot(record).address, published.port),
            published.protocol,
            ring=lambda: self._ring(record.instance),
            waiting_max=self._settings.waiting_max,
        )

    def _ring(self, instance_id: str) -> None:
        self._ringing[instance_id] = None
        self._rang.set()

    async def _reopen(self, record: InstanceRecord, published: Published, *, is_open: bool) -> None:
        """After a restart: the same address, and open if the kernel has it so."""
        listener, given = bind(self._address, self._settings, record.instance, published.address)
        kept = given == published.address
        if not kept:
            await self._nft(rules.unpublish(self._places.tag, published.address, self._slot(record), published.port))
            published = replace(published, address=given)
            record = replace(record, published=published)
            await self._keep(record)
            log.warning("address_lost", instance=record.instance, now=given)
        door = self._doors[record.instance] = self._door(record, published, listener)
        if is_open and kept:
            door.open()

    async def _shut(self, record: InstanceRecord, published: Published) -> None:
        door = self._doors.pop(record.instance, None)
        if door is not None:
            await door.aclose()
        await self._nft(rules.unpublish(self._places.tag, published.address, self._slot(record), published.port))

    async def _serve_names(self, record: InstanceRecord) -> None:
        if reach_of(record.policy).dns:
            await self._resolver.ensure()

    async def _lead_questions_to(self, address: str) -> None:
        await self._nft(rules.resolver(self._places.tag, address))

    async def _lead_anew(self, address: str) -> None:
        """Whoever knocked at a program that had just died comes to the door. Where the kernel cannot, he knocks in vain."""
        try:
            await self._kernel.run(lambda _: flows.forget_unanswered(address))
        except NetworkError as error:
            log.warning("unanswered_connections_stay", address=address, error=str(error))

    async def _nft(self, commands: str) -> None:
        await self._kernel.run(lambda hands: hands.nft.run(commands))

    def _look_at_traffic(self) -> None:
        """Read what the kernel counted, if it is long since; the answer is there for the next who asks."""
        now = time.monotonic()
        if now - self._traffic_at > TRAFFIC_AGE_S_MAX and (self._traffic_task is None or self._traffic_task.done()):
            self._traffic_at = now
            self._traffic_task = asyncio.create_task(self._read_traffic())

    async def _read_traffic(self) -> None:
        slots = {instance_id: self._slot(record) for instance_id, record in self._records.items()}
        addresses = frozenset(slot.address for slot in slots.values())

        tag = self._places.tag

        def look(hands: Hands) -> tuple[dict[str, tuple[int, int]], dict[str, int], dict[str, int], dict[str, int] | None]:
            refused, accepted = steps.counted(hands, tag, "refused"), steps.counted(hands, tag, "accepted")
            return steps.device_bytes(tag), refused, accepted, steps.connections(addresses)

        try:
            by_device, refused, accepted, connections = await self._kernel.run(look)
        except NetworkError as error:
            log.warning("traffic_not_read", error=str(error))
            return
        for instance_id, slot in slots.items():
            received, sent = by_device.get(slot.device, (0, 0))
            door = self._doors.get(instance_id)
            held = door.connections if door is not None else 0
            self._traffic[instance_id] = Traffic(
                received_bytes=received,
                sent_bytes=sent,
                refused_packets=refused.get(slot.address, 0),
                connections=None if connections is None else connections.get(slot.address, 0) + held,
                accepted=accepted.get(slot.address, 0),
            )
