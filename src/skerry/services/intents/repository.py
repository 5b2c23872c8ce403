"""Reads and writes of one app's records: everything in one transaction, repeated when others got in between."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, final

import msgspec

from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.ids import AccountId, AppName, DeploymentId, EvaluationId, VersionId
from skerry.core.types.plan import Evaluation, EvaluationCause
from skerry.core.types.public_port import PublicPort
from skerry.kit import record
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, Check, Conflict, Delete, Op, Put, Store, Unavailable, entries_under
from skerry.services.accounts import DNS_LABEL
from skerry.services.control import keys
from skerry.services.ids import Ids
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal

R = TypeVar("R", bound=Record)
T = TypeVar("T")

RETRY_DELAY_MS = 2  # times the number of the attempt


@dataclass(frozen=True)
class Held:
    """An app as it was read; `revision` 0 and `app` None: it is not there."""

    app: App | None
    revision: int


@dataclass(frozen=True)
class AppState:
    """An app with its versions and deployments, both newest first."""

    app: App
    revision: int
    versions: tuple[Version, ...]
    deployments: tuple[Deployment, ...]

    @property
    def latest(self) -> Version | None:
        return self.versions[0] if self.versions else None

    @property
    def deployment(self) -> Deployment | None:
        return next((d for d in self.deployments if d.id == self.app.deployment), None)

    def version(self, version_id: str) -> Version:
        """Raises `IntentError`."""
        for version in self.versions:
            if version.id == version_id:
                return version
        raise IntentError(Refusal.VERSION_NOT_FOUND, "This version of the Worker does not exist.")

    @property
    def deployed(self) -> Version | None:
        """The version with the largest share; of equal ones the newer."""
        deployment = self.deployment
        if deployment is None:
            return None
        shares = {share.version: share.percent for share in deployment.shares}
        running = [v for v in self.versions if v.id in shares]
        return max(running, key=lambda v: (shares[v.id], v.number), default=None)


@final
class Repository:
    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids

    async def held(self, account: AccountId, name: AppName) -> Held:
        entry = await self._store.get(keys.app(account, name)) if DNS_LABEL.match(name) else None
        return Held(app=record.decode(entry.value, App), revision=entry.revision) if entry else Held(app=None, revision=0)

    async def state(self, account: AccountId, name: AppName) -> AppState:
        """Raises `IntentError` if the app is not there. The app's revision is read first: a check of it covers the rest."""
        held = await self.held(account, name)
        if held.app is None:
            raise not_found()
        versions = await self.all(f"{keys.VERSIONS}{account}/{name}/", Version)
        deployments = await self.all(f"{keys.DEPLOYMENTS}{account}/{name}/", Deployment)
        return AppState(
            app=held.app,
            revision=held.revision,
            versions=tuple(sorted(versions, key=lambda v: v.number, reverse=True)),
            deployments=tuple(sorted(deployments, key=lambda d: (d.created_ms, d.id), reverse=True)),
        )

    async def all(self, prefix: str, as_type: type[R]) -> list[R]:
        return [record.decode(entry.value, as_type) async for entry in entries_under(self._store, prefix)]

    async def keys_under(self, prefix: str) -> list[str]:
        return [entry.key async for entry in entries_under(self._store, prefix)]

    async def public_ports(self) -> dict[int, PublicPort]:
        """Those that are taken, with whose they are."""
        found = {entry.key: entry.value async for entry in entries_under(self._store, keys.PUBLIC_PORTS)}
        return {int(key.removeprefix(keys.PUBLIC_PORTS)): record.decode(value, PublicPort) for key, value in found.items()}

    async def until_committed(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run `attempt` again after each `Conflict`; raises `IntentError` when it never gets through."""
        for number in range(1, limits.ATTEMPTS_MAX + 1):
            try:
                return await attempt()
            except Conflict:
                await self._clock.sleep_ms(RETRY_DELAY_MS * number)
        raise IntentError(Refusal.BUSY, "Others keep changing this Worker; nothing was changed. Try again.")

    async def commit(self, app: App, revision: int, ops: list[Op], *, proof: str, checks: tuple[Check, ...] = ()) -> None:
        """Write the app and `ops` if the app is still at `revision` and `checks` hold. Raises `Conflict`.

        When the store's answer is lost, the key `proof`, which only this transaction writes, tells whether it was done.
        """
        key = keys.app(app.account, app.name)
        try:
            written = Put(key=key, value=record.encode(app))
            await self._store.transact([Check(key=key, revision=revision), *checks], [written, *ops])
        except Unavailable:
            if await self._store.get(proof) is None:
                raise

    async def put_app(self, app: App, revision: int) -> None:
        """Raises `Conflict`."""
        await self._store.compare_and_set(keys.app(app.account, app.name), record.encode(app), revision=revision)

    async def remove(self, app: App, revision: int, also: list[Op]) -> None:
        """The app and a recorded reason to take it down, in one transaction; then what is left of it. Raises `Conflict`.

        Its release goes with it: one of the same name that is made at once must not seem to have been released. Its public
        port is free from then on.
        """
        key = keys.app(app.account, app.name)
        evaluation = self.evaluation(app.account, app.name, "delete", at_ms=self._clock.now_ms())
        ops = [Delete(key=key), Delete(key=keys.release(app.account, app.name)), evaluation, *also]
        if app.public_port is not None:
            ops.append(Delete(key=keys.public_port(app.public_port)))
        await self._store.transact([Check(key=key, revision=revision)], ops)
        await self.sweep(app.account, app.name)

    async def sweep(self, account: AccountId, name: AppName) -> None:
        """Remove the versions and deployments of an app that is not there; stops when somebody makes it. Idempotent."""
        found = [
            *await self.keys_under(f"{keys.VERSIONS}{account}/{name}/"),
            *await self.keys_under(f"{keys.DEPLOYMENTS}{account}/{name}/"),
        ]
        absent = [Check(key=keys.app(account, name), revision=0)]
        try:
            for start in range(0, len(found), OPS_MAX // 2):
                await self._store.transact(absent, [Delete(key=key) for key in found[start : start + OPS_MAX // 2]])
        except Conflict:
            return

    def new_app(self, account: AccountId, name: AppName, *, now_ms: int) -> App:
        return App(account=account, name=name, tag=self._ids.hex32(), created_ms=now_ms, modified_ms=now_ms, generation=0)

    def new_version_id(self) -> VersionId:
        return VersionId(self._ids.uuid())

    def new_deployment_id(self) -> DeploymentId:
        return DeploymentId(self._ids.uuid())

    def evaluation(self, account: AccountId, name: AppName, cause: EvaluationCause, *, at_ms: int, detail: str = "") -> Put:
        made = Evaluation(
            id=EvaluationId(self._ids.hex32()), account=account, app=name, cause=cause, created_ms=at_ms, detail=detail
        )
        return Put(key=keys.evaluation(account, name, made.id), value=record.encode(made))


def changed_app(app: App, *, at_ms: int, deployment: DeploymentId | None = None, next_number: int | None = None) -> App:
    """The next generation of the intent."""
    return msgspec.structs.replace(
        app,
        generation=app.generation + 1,
        modified_ms=at_ms,
        deployment=deployment or app.deployment,
        next_number=next_number or app.next_number,
    )


def now_after(app: App | None, now_ms: int) -> int:
    """Now, but behind the app's last change: its history is in order even when the clock is set back."""
    return now_ms if app is None else max(now_ms, app.modified_ms + 1)


def put_version(version: Version) -> Put:
    return Put(key=keys.version(version.account, version.app, version.id), value=record.encode(version))


def put_deployment(deployment: Deployment) -> Put:
    key = keys.deployment(deployment.account, deployment.app, deployment.created_ms, deployment.id)
    return Put(key=key, value=record.encode(deployment))


def not_found() -> IntentError:
    return IntentError(Refusal.APP_NOT_FOUND, "This Worker does not exist on your account.")
