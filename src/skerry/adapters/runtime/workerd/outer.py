"""Static assets of Workers that another runtime runs, behind a stronger wall: fronts without a process of their own here.

user ─► this front (assets process) ─► the Worker's published address       its env.ASSETS ─► a socket in a directory of its own
"""

import secrets
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from skerry.adapters.process.detached import write_private
from skerry.adapters.runtime.workerd.fronts import Fronts, Listeners
from skerry.adapters.runtime.workerd.listeners import address_of, listen_again, listen_tcp
from skerry.adapters.runtime.workerd.settings import Places
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.kit.record import Record, decode, encode


class Outer(Record):
    """What is on disk of a front (mode 0600: a version holds secrets). `upstream` is where its Worker is published."""

    instance: NodeInstance
    address: str
    key: str
    upstream: str


class OuterFronts:
    """By instance id. A front is on disk before it is used, and is removed by whoever had it made, after the Worker behind it."""

    def __init__(self, places: Places, address: str, fronts: Callable[[], Fronts], gone: Callable[[], None]) -> None:
        """`address`: the IP that users' requests arrive at. `gone` is called when files may be of no more use."""
        self._places = places
        self._address = address
        self._fronts = fronts
        self._gone = gone
        self._known: dict[InstanceId, Outer] = {}

    def restore(self, earlier: Listeners) -> None:
        """Go on with those of an earlier agent, on the sockets that its assets process still has."""
        for path in sorted(self._places.outer.glob("*.json")):
            try:
                known = decode(path.read_bytes(), Outer)
            except ValueError:  # of another version of ours: the program's start makes it anew
                path.unlink()
                continue
            listener = earlier.pop(known.address, None) or listen_again(known.address)
            self._keep(replace(known, address=address_of(listener)))
            self._fronts().create(known.instance, known.key, listener, known.upstream, earlier)

    async def begin(self, instance: NodeInstance, upstream: str) -> str:
        """Serve the assets of the Worker at `upstream`; the address for users. Again: the same one. Raises OSError."""
        known = self._known.get(instance.id)
        if known is None:
            return self._make(instance, upstream)
        if known.upstream != upstream:
            self._keep(replace(known, upstream=upstream))
            await self._fronts().lead(instance.id, upstream)
        return known.address

    def _make(self, instance: NodeInstance, upstream: str) -> str:
        listener = listen_tcp(self._address)
        made = Outer(instance=instance, address=address_of(listener), key=secrets.token_hex(8), upstream=upstream)
        self._keep(made)
        self._fronts().create(instance, made.key, listener, upstream, {})
        return made.address

    async def end(self, instance_id: str) -> None:
        """Idempotent."""
        await self._fronts().remove(instance_id)
        known = self._known.pop(InstanceId(instance_id), None)
        if known is not None:
            self._fronts().remove_files(known.key)
            self._gone()
        self._file(instance_id).unlink(missing_ok=True)

    async def keep_only(self, known: frozenset[InstanceId]) -> None:
        """The Workers behind the others are not known to the runtime that they were for."""
        for name in self._known.keys() - known:
            await self.end(name)

    def directory(self, instance_id: str) -> Path | None:
        """Where the socket of its env.ASSETS is."""
        known = self._known.get(InstanceId(instance_id))
        return self._places.bindings / known.key if known is not None else None

    def seen(self, behind: ObservedInstance) -> ObservedInstance:
        """What users meet: the front's address, and its state where it is not the Worker's that keeps them waiting."""
        known = self._known.get(behind.id)
        if known is None:
            return behind
        seen = self._fronts().observed(behind.id, behind)
        return replace(seen or behind, address=known.address)

    def keys(self) -> set[str]:
        return {known.key for known in self._known.values()}

    def _keep(self, known: Outer) -> None:
        self._known[known.instance.id] = known
        write_private(self._file(known.instance.id), encode(known))

    def _file(self, instance_id: str) -> Path:
        return self._places.outer / f"{instance_id}.json"
