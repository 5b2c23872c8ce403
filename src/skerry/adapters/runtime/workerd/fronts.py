"""Apps with static assets: from a version to files on disk and a front that the assets process serves.

`prepare` works in the background and tries again for as long as it takes; the app's address waits meanwhile.
"""

import asyncio
import shutil
import socket
from collections.abc import Callable

import msgspec

from skerry.adapters.runtime.workerd.assets import AssetsHost, Front, Served, Status, inside
from skerry.adapters.runtime.workerd.config import ASSETS_SOCKET, Unsupported, assets_rules
from skerry.adapters.runtime.workerd.listeners import address_of, listen_unix
from skerry.adapters.runtime.workerd.settings import Places, Settings
from skerry.adapters.runtime.workerd.trees import Trees, content_type_rules
from skerry.aio.tasks import cancel
from skerry.core.types.app import Assets
from skerry.core.types.ids import Digest
from skerry.core.types.slices import InstanceState, NodeInstance, ObservedInstance

FIRST_TRY_S = 1.0  # how long `prepared` waits for a front whose files are not there yet
Listeners = dict[str, socket.socket]  # of earlier processes, by address


class Fronts:
    """The fronts of a node, by instance id."""

    def __init__(self, places: Places, settings: Settings, trees: Trees, host: AssetsHost, changed: Callable[[], None]) -> None:
        self._places = places
        self._settings = settings
        self._trees = trees
        self._host = host
        self._changed = changed
        self._fronts: dict[str, Front] = {}
        self._wanted: dict[str, NodeInstance] = {}
        self._work: dict[str, asyncio.Task[None]] = {}

    def create(self, wanted: NodeInstance, key: str, inbound: socket.socket, upstream: str | None, earlier: Listeners) -> Front:
        """Begin to serve a version's assets at `inbound`, which is the front's from here on.

        `upstream` is the address of the worker behind them, if there is one. `key` names this placement of the instance
        and no other: a socket's path is never made twice, so one that an earlier process still has under that path is the
        one that the path leads to.
        """
        binding: socket.socket | None = None
        if wanted.version.worker is not None:
            directory = self._places.bindings / key
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)  # bound into the app's sandbox
            path = directory / ASSETS_SOCKET
            binding = earlier.pop(str(path), None) or listen_unix(path, mode=0o666)
        front = self._fronts[wanted.id] = Front(key, inbound, binding)
        self._wanted[wanted.id] = wanted
        self._work[wanted.id] = asyncio.create_task(self._prepare(wanted, front, upstream))
        return front

    async def lead(self, instance_id: str, upstream: str) -> None:
        """Its worker is at another address now; the front's sockets stay."""
        front = self._fronts[instance_id]
        await cancel((self._work.pop(instance_id, None),))
        if front.served is None:
            self._work[instance_id] = asyncio.create_task(self._prepare(self._wanted[instance_id], front, upstream))
        else:
            front.served = msgspec.structs.replace(front.served, upstream=upstream)
            self._host.put(front)

    async def prepared(self) -> None:
        """Returns when each front is served, refused, or waits for a second try."""
        await asyncio.gather(*(asyncio.shield(_first_try(task)) for task in self._work.values()))

    async def remove(self, instance_id: str) -> None:
        """Idempotent."""
        await cancel((self._work.pop(instance_id, None),))
        front = self._fronts.pop(instance_id, None)
        self._wanted.pop(instance_id, None)
        if front is not None:
            self._host.drop(front.key)
            front.close()

    def remove_files(self, key: str) -> None:
        shutil.rmtree(self._places.bindings / key, ignore_errors=True)

    async def aclose(self) -> None:
        await cancel(self._work.values())
        for front in self._fronts.values():
            front.close()

    def observed(self, instance_id: str, behind: ObservedInstance | None) -> ObservedInstance | None:
        """What is seen of an app, given what is seen of the worker behind its assets (None: it has none)."""
        front = self._fronts.get(instance_id)
        if front is None:
            return behind
        if behind is None:
            return _static(self._wanted[instance_id], front)
        if front.status == "failed":
            return msgspec.structs.replace(behind, state="failed", detail=front.detail)
        if front.status == "pending" and behind.state in ("running", "asleep", "dead"):
            return msgspec.structs.replace(behind, state="starting", detail=front.detail)
        return behind

    def manifests(self) -> frozenset[Digest]:
        return frozenset(wanted.version.assets.manifest for wanted in self._wanted.values() if wanted.version.assets)

    async def _prepare(self, wanted: NodeInstance, front: Front, upstream: str | None) -> None:
        assets = wanted.version.assets
        assert assets is not None
        tries = 0
        while front.served is None and front.status != "failed":
            try:
                front.served = await self._served(front.key, assets, upstream)
                self._host.put(front)
            except Unsupported as error:
                front.turn("failed", str(error))
            except Exception as error:  # the site is out of reach, the disk is full: tried again
                front.turn("pending", f"assets: {error}")
                tries += 1
                self._changed()
                await asyncio.sleep(self._settings.backoff.delay_ms(tries + 1) / 1000)
        self._changed()

    async def _served(self, key: str, assets: Assets, upstream: str | None) -> Served:
        files = await self._trees.ensure(assets)
        rules = assets_rules(assets, more_headers=content_type_rules(files, assets.headers))
        return Served(key=key, directory=inside(self._trees.path(assets)), rules=rules, upstream=upstream)


async def _first_try(task: asyncio.Task[None]) -> None:
    """At most a moment: files that are on disk already take no longer, others are waited for later."""
    await asyncio.wait((task,), timeout=FIRST_TRY_S)


_STATES: dict[Status, InstanceState] = {"pending": "starting", "serving": "running", "failed": "failed"}


def _static(wanted: NodeInstance, front: Front) -> ObservedInstance:
    version = wanted.version
    return ObservedInstance(
        id=wanted.id,
        account=version.account,
        app=version.app,
        version=version.id,
        state=_STATES[front.status],
        since_ms=front.since_ms,
        address=address_of(front.gate.listener),
        detail=front.detail,
    )
