"""The use cases of developers on their apps."""

from collections.abc import Callable
from typing import TypeVar, final

import anyio.to_thread
import msgspec

from skerry.core.policy.scale import instance_limits
from skerry.core.types.app import App, Binding, BlobBinding, Deployment, Module, Scale, Share, Version, Worker
from skerry.core.types.ids import AccountId, AppName, Digest, VersionId
from skerry.ports import blobs as blobs_port
from skerry.ports import runtime as runtime_port
from skerry.ports import store as store_port
from skerry.ports.blobs import Blobs
from skerry.ports.clock import Clock
from skerry.ports.runtime import Checked, Checker
from skerry.ports.store import Delete, Op, Store
from skerry.services.accounts import DNS_LABEL
from skerry.services.control import keys
from skerry.services.ids import Ids, RandomBytes
from skerry.services.intents import draft, limits
from skerry.services.intents.assets import AssetSessions, check_config
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.repository import (
    AppState,
    Held,
    Repository,
    changed_app,
    not_found,
    now_after,
    put_deployment,
    put_version,
)
from skerry.services.intents.scales import Scales
from skerry.services.intents.upload import PartBinding, SecretsPatch, Upload, check_size, code_etag, content_bytes

MAIN_TYPES = ("esm", "commonjs")
INLINE_BYTES_MAX = 1 << 20  # so much is read in a millisecond or two; more would hold up everybody else

T = TypeVar("T")


@final
class Apps:
    """Every method raises `IntentError` when it refuses, and the ports' `Unavailable` when the platform cannot."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        clock: Clock,
        checker: Checker,
        assets: AssetSessions,
        random_bytes: RandomBytes,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._checker = checker
        self._assets = assets
        self._repository = Repository(store, clock, Ids(random_bytes))
        self.scales = Scales(self._repository, clock)

    async def list_apps(self, account: AccountId) -> tuple[App, ...]:
        """By name."""
        found = await self._repository.all(f"{keys.APPS}{account}/", App)
        return tuple(sorted(found, key=lambda app: app.name))

    async def app(self, account: AccountId, name: str) -> App:
        held = await self._repository.held(account, AppName(name))
        if held.app is None:
            raise not_found()
        return held.app

    async def state(self, account: AccountId, name: str) -> AppState:
        """The app with its versions and deployments, newest first."""
        return await self._repository.state(account, AppName(name))

    async def module(self, digest: Digest) -> bytes:
        """The content of a version's module."""
        return await self._blobs.get(digest)

    async def deploy(self, account: AccountId, name: str, upload: Upload, *, source: str, author: str) -> Version:
        """A new version that takes all traffic; makes the app if it is not there. One transaction."""
        return await self._upload(account, name, upload, source=source, author=author, deploy=True)

    async def upload_version(self, account: AccountId, name: str, upload: Upload, *, source: str, author: str) -> Version:
        """A new version of an app that is there; traffic stays where it is."""
        await self.app(account, name)
        return await self._upload(account, name, upload, source=source, author=author, deploy=False)

    async def create_deployment(
        self, account: AccountId, name: str, shares: tuple[Share, ...], *, source: str, author: str, message: str = ""
    ) -> Deployment:
        check_shares(shares)
        draft.check_texts(message, "")

        async def attempt() -> Deployment:
            state = await self.state(account, name)
            for share in shares:
                state.version(share.version)
            made = self._deployment(state.app, shares, source=source, author=author, message=message)
            app = changed_app(state.app, at_ms=made.created_ms, deployment=made.id)
            ops = [put_deployment(made), self._evaluation(made), *_prune(state, keep=frozenset(s.version for s in shares))]
            await self._repository.commit(app, state.revision, ops, proof=_deployment_key(made))
            return made

        return await self._repository.until_committed(attempt)

    async def change_secrets(
        self,
        account: AccountId,
        name: str,
        patch: SecretsPatch,
        *,
        deploy: bool,
        source: str,
        author: str,
        message: str = "",
        tag: str = "",
    ) -> Version:
        """A new version that differs in its secrets alone. With `deploy` it replaces what runs, which has to be the newest."""
        return await self.change_bindings(
            account,
            name,
            lambda bindings: draft.patch_secrets(bindings, patch),
            deploy=deploy,
            source=source,
            author=author,
            message=message,
            tag=tag,
        )

    async def change_bindings(
        self,
        account: AccountId,
        name: str,
        change: Callable[[tuple[Binding, ...]], tuple[Binding, ...]],
        *,
        deploy: bool,
        source: str,
        author: str,
        message: str = "",
        tag: str = "",
    ) -> Version:
        draft.check_texts(message, tag)

        async def attempt() -> Version:
            state = await self.state(account, name)
            base = _base_of_change(state, deploy=deploy)
            version = draft.sealed(
                msgspec.structs.replace(
                    base,
                    id=self._repository.new_version_id(),
                    number=state.app.next_number,
                    created_ms=self._after(state.app),
                    bindings=change(base.bindings),
                    source=source,
                    author=author,
                    message=message,
                    tag=tag,
                )
            )
            await self._commit_version(Held(app=state.app, revision=state.revision), state, version, deploy=deploy)
            return version

        return await self._repository.until_committed(attempt)

    async def change_app(
        self,
        account: AccountId,
        name: str,
        *,
        enabled: bool | None = None,
        observability: bool | None = None,
        tags: tuple[str, ...] | None = None,
    ) -> App:
        """Settings that belong to the app, not to a version; what is None stays. Only `enabled` asks for a new plan."""
        if tags is not None:
            draft.check_tags(tags)

        async def attempt() -> App:
            held = await self._repository.held(account, AppName(name))
            if held.app is None:
                raise not_found()
            old = held.app
            app = msgspec.structs.replace(
                old,
                enabled=old.enabled if enabled is None else enabled,
                observability=old.observability if observability is None else observability,
                tags=old.tags if tags is None else tags,
            )
            if app == old:
                return old
            app = changed_app(app, at_ms=self._after(old))
            if app.enabled == old.enabled:
                await self._repository.put_app(app, held.revision)
                return app
            evaluation = self._repository.evaluation(account, app.name, "scale", at_ms=app.modified_ms)
            await self._repository.commit(app, held.revision, [evaluation], proof=evaluation.key)
            return app

        return await self._repository.until_committed(attempt)

    async def delete(self, account: AccountId, name: str) -> None:
        """The app, its versions and its deployments; what runs is taken down."""

        async def attempt() -> None:
            held = await self._repository.held(account, AppName(name))
            if held.app is None:
                raise not_found()
            await self._repository.remove(held.app, held.revision, [self._assets.forgetting(account, held.app.name)])

        await self._repository.until_committed(attempt)

    async def _upload(self, account: AccountId, name: str, upload: Upload, *, source: str, author: str, deploy: bool) -> Version:
        app_name = check_app_name(name)
        draft.check_upload(upload, now_ms=self._clock.now_ms())
        await _aside(check_size, upload)
        stored = await self._store_parts(account, app_name, upload)
        checked: dict[Digest, Checked] = {}

        async def attempt() -> Version:
            held = await self._repository.held(account, app_name)
            if held.app is None:
                await self._make_room(account, app_name)
            state = await self.state(account, app_name) if held.app else None
            if state is not None:
                held = Held(app=state.app, revision=state.revision)
            before = held.app.scale if held.app else Scale()
            asked = await self.scales.changed(before, upload.scale or {})
            scale = asked if deploy else before  # a version alone changes nothing of the app
            version = self._draft(account, app_name, upload, stored, state, scale=scale, source=source, author=author)
            check = await self._check(version, checked)
            version = msgspec.structs.replace(version, startup_time_ms=check.startup_time_ms, handlers=check.handlers)
            await self._commit_version(held, state, version, deploy=deploy, upload=upload, scale=scale)
            return version

        return await self._repository.until_committed(attempt)

    async def _store_parts(self, account: AccountId, app: AppName, upload: Upload) -> draft.Stored:
        modules = tuple(
            [
                Module(name=m.name, type=m.type, digest=await self._blobs.put(m.content), size=len(m.content))
                for m in upload.modules
            ]
        )
        blobs = tuple(
            [
                BlobBinding(name=b.name, type=b.type, digest=await self._blobs.put(b.content))
                for b in upload.bindings
                if isinstance(b, PartBinding)
            ]
        )
        worker = None
        if upload.main_module is not None:
            check_main_type(upload)
            worker = Worker(main_module=upload.main_module, modules=modules, service_worker_syntax=upload.service_worker_syntax)
        assets = None
        if upload.assets is not None and upload.assets.token is not None:
            assets = await self._assets.redeem(account, app, upload.assets)
        etag = await _aside(code_etag, upload)
        return draft.Stored(worker=worker, blobs=blobs, assets=assets, etag=etag)

    def _draft(
        self,
        account: AccountId,
        app: AppName,
        upload: Upload,
        stored: draft.Stored,
        state: AppState | None,
        *,
        scale: Scale,
        source: str,
        author: str,
    ) -> Version:
        previous = state.latest if state else None
        if upload.assets is not None and upload.assets.token is None:
            check_config(upload.assets)
            stored = msgspec.structs.replace(stored, assets=previous.assets if previous else None)
        if stored.worker is None and stored.assets is None:
            raise draft.invalid("The upload has neither a main module nor assets.")
        return draft.sealed(
            Version(
                id=self._repository.new_version_id(),
                account=account,
                app=app,
                number=state.app.next_number if state else 1,
                created_ms=self._after(state.app if state else None),
                digest=Digest(""),
                compatibility_date=upload.compatibility_date or draft.COMPATIBILITY_DATE_DEFAULT,
                compatibility_flags=upload.compatibility_flags,
                worker=stored.worker,
                assets=stored.assets,
                bindings=draft.merge_bindings(upload, stored, previous),
                limits=instance_limits(scale),
                etag=stored.etag,
                source=source,
                author=author,
                message=upload.message,
                tag=upload.tag,
                recorded=upload.recorded,
            )
        )

    async def _check(self, version: Version, checked: dict[Digest, Checked]) -> Checked:
        """Of the engine; once for each behaviour, however often the transaction is repeated."""
        if version.worker is None:
            return Checked(startup_time_ms=0)
        if version.digest not in checked:
            try:
                checked[version.digest] = await self._checker.check(version)
            except runtime_port.StartupError as error:
                raise IntentError(Refusal.STARTUP, str(error)) from error
        return checked[version.digest]

    async def _commit_version(
        self,
        held: Held,
        state: AppState | None,
        version: Version,
        *,
        deploy: bool,
        upload: Upload | None = None,
        scale: Scale | None = None,
    ) -> None:
        """Version, app and (with `deploy`) scale, deployment and evaluation: all or nothing. Raises `Conflict`."""
        app = held.app or self._repository.new_app(version.account, version.app, now_ms=version.created_ms)
        ops: list[Op] = [put_version(version)]
        if deploy:
            made = self._deployment(
                app,
                (Share(version=version.id, percent=100),),
                source=version.source,
                author=version.author,
                message=version.message,
                at_ms=version.created_ms,
            )
            ops += [put_deployment(made), self._evaluation(made)]
            app = msgspec.structs.replace(app, deployment=made.id, scale=scale or app.scale)
        if upload is not None and upload.observability is not None:
            app = msgspec.structs.replace(app, observability=upload.observability)
        if upload is not None and upload.tags is not None:
            app = msgspec.structs.replace(app, tags=upload.tags)
        app = changed_app(app, at_ms=version.created_ms, next_number=version.number + 1)
        if state is not None:
            ops += _prune(state, keep=frozenset((version.id,)), new_versions=1)
        proof = keys.version(version.account, version.app, version.id)
        await self._repository.commit(app, held.revision, ops, proof=proof)

    async def _make_room(self, account: AccountId, name: AppName) -> None:
        """Before an app is made: within the account's number, and without remains of one that was deleted."""
        if len(await self._repository.keys_under(f"{keys.APPS}{account}/")) >= limits.APPS_MAX:
            raise IntentError(Refusal.TOO_MANY, f"An account has at most {limits.APPS_MAX} Workers.")
        await self._repository.sweep(account, name)

    def _deployment(
        self, app: App, shares: tuple[Share, ...], *, source: str, author: str, message: str, at_ms: int | None = None
    ) -> Deployment:
        return Deployment(
            id=self._repository.new_deployment_id(),
            account=app.account,
            app=app.name,
            created_ms=self._after(app) if at_ms is None else at_ms,
            shares=shares,
            source=source,
            author=author,
            message=message,
        )

    def _evaluation(self, deployment: Deployment) -> Op:
        return self._repository.evaluation(
            deployment.account, deployment.app, "deploy", at_ms=deployment.created_ms, detail=deployment.id
        )

    def _after(self, app: App | None) -> int:
        return now_after(app, self._clock.now_ms())


async def _aside(work: Callable[[Upload], T], upload: Upload) -> T:
    """Do it here if the upload is small, else on a thread."""
    if content_bytes(upload) <= INLINE_BYTES_MAX:
        return work(upload)
    return await anyio.to_thread.run_sync(work, upload)


def check_app_name(name: str) -> AppName:
    if not DNS_LABEL.match(name):
        raise IntentError(
            Refusal.NAME_INVALID,
            "A Worker's name is 1 to 63 lower-case letters, digits and hyphens, with a hyphen at neither end: "
            "it is a part of its host name.",
        )
    return AppName(name)


def check_main_type(upload: Upload) -> None:
    main = next(module for module in upload.modules if module.name == upload.main_module)
    if main.type not in MAIN_TYPES:
        raise draft.invalid(f"The main module {main.name!r} is of type {main.type}; it has to be JavaScript.")
    if upload.service_worker_syntax and len(upload.modules) > 1:
        raise draft.invalid("A Worker in service-worker syntax (body_part) has one script; others are bindings.")


def check_shares(shares: tuple[Share, ...]) -> None:
    if not 1 <= len(shares) <= limits.SHARES_MAX:
        raise draft.invalid(f"A deployment has 1 to {limits.SHARES_MAX} versions, not {len(shares)}.")
    if len({share.version for share in shares}) != len(shares):
        raise draft.invalid("A deployment names each version once.")
    if any(not 0 < share.percent <= 100 for share in shares):
        raise draft.invalid("Every version of a deployment has a percentage above 0 and up to 100.")
    if sum(round(share.percent * 100) for share in shares) != 100 * 100:
        raise draft.invalid("The percentages of a deployment have to add up to 100.")


def _base_of_change(state: AppState, *, deploy: bool) -> Version:
    """The version that a change of bindings starts from."""
    latest = state.latest
    if latest is None:
        raise IntentError(Refusal.NO_VERSIONS, "There are currently no uploaded versions of this Worker.")
    if not deploy:
        return latest
    deployment = state.deployment
    if deployment is None or [share.version for share in deployment.shares] != [latest.id]:
        raise IntentError(
            Refusal.LATEST_NOT_DEPLOYED,
            "The latest version of your Worker isn't currently deployed to all of its traffic, so that its secrets cannot be "
            "changed in place. Deploy it first, or change the secrets in a new version (wrangler versions secret).",
        )
    return latest


def _prune(state: AppState, *, keep: frozenset[VersionId], new_versions: int = 0) -> list[Op]:
    """Deletes of the oldest versions and deployments above their numbers; whatever a kept deployment names stays."""
    deployments = state.deployments[: limits.DEPLOYMENTS_KEPT - 1]
    named = {share.version for deployment in deployments for share in deployment.shares} | keep
    ops: list[Op] = [
        Delete(key=_deployment_key(d)) for d in state.deployments[limits.DEPLOYMENTS_KEPT - 1 :] if d.id != state.app.deployment
    ]
    ops += [
        Delete(key=keys.version(v.account, v.app, v.id))
        for v in state.versions[limits.VERSIONS_KEPT - new_versions :]
        if v.id not in named
    ]
    return ops[:64]  # far below the store's limit; the rest goes with the next change


def _deployment_key(deployment: Deployment) -> str:
    return keys.deployment(deployment.account, deployment.app, deployment.created_ms, deployment.id)


PLATFORM_FAULTS = (store_port.StoreError, blobs_port.BlobError, runtime_port.Unavailable)
"""What a dialect answers with "try again later"."""
