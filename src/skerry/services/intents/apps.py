"""The use cases of developers on their apps."""

from collections.abc import Callable
from typing import Any, TypeVar, final

import anyio.to_thread
import msgspec

from skerry.core.policy.scale import worker_limits
from skerry.core.types.app import App, Binding, BlobBinding, Deployment, Module, Scale, Share, Version, Worker
from skerry.core.types.ids import AccountId, AppName, Digest
from skerry.core.types.public_port import PUBLIC_PORTS, PortRange
from skerry.ports import blobs as blobs_port
from skerry.ports import runtime as runtime_port
from skerry.ports import store as store_port
from skerry.ports.blobs import Blobs
from skerry.ports.clock import Clock
from skerry.ports.runtime import Checked, Checker
from skerry.ports.store import Store
from skerry.services.control import keys
from skerry.services.ids import Ids, RandomBytes
from skerry.services.intents import draft, limits
from skerry.services.intents.assets import AssetSessions, check_config
from skerry.services.intents.commits import Commits, deployment_key, prune
from skerry.services.intents.draft import check_app_name
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.images import Images
from skerry.services.intents.programs import Programs
from skerry.services.intents.repository import AppState, Held, Repository, changed_app, not_found, put_deployment
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
        public_ports: tuple[PortRange, ...] = PUBLIC_PORTS,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._checker = checker
        self._assets = assets
        self._repository = Repository(store, clock, Ids(random_bytes))
        self._commits = Commits(self._repository, clock)
        self.scales = Scales(self._repository, clock)
        images = Images(store, blobs, clock)
        self.programs = Programs(images, self._repository, self._commits, self.scales, ports=public_ports)

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
            made = self._commits.deployment(state.app, shares, source=source, author=author, message=message)
            app = changed_app(state.app, at_ms=made.created_ms, deployment=made.id)
            ops = [put_deployment(made), self._commits.evaluation(made), *prune(state, keep=frozenset(s.version for s in shares))]
            await self._repository.commit(app, state.revision, ops, proof=deployment_key(made))
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
                    created_ms=self._commits.after(state.app),
                    bindings=change(base.bindings),
                    source=source,
                    author=author,
                    message=message,
                    tag=tag,
                )
            )
            await self._commits.version(Held(app=state.app, revision=state.revision), state, version, deploy=deploy)
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
            app = changed_app(app, at_ms=self._commits.after(old))
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
                await self._commits.make_room(account, app_name)
            state = await self.state(account, app_name) if held.app else None
            if state is not None:
                held = Held(app=state.app, revision=state.revision)
                if state.latest is not None and state.latest.program is not None:
                    raise draft.invalid(f"{app_name} runs an image; deploy the Worker under another name, or delete it first.")
            before = held.app.scale if held.app else Scale()
            asked = await self.scales.changed(before, upload.scale or {})
            scale = asked if deploy else before  # a version alone changes nothing of the app
            version = self._draft(account, app_name, upload, stored, state, scale=scale, source=source, author=author)
            check = await self._check(version, checked)
            version = msgspec.structs.replace(version, startup_time_ms=check.startup_time_ms, handlers=check.handlers)
            await self._commits.version(held, state, version, deploy=deploy, changes=_app_changes(upload, scale, deploy=deploy))
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
        if upload.isolation != "sandbox" and stored.worker is None:
            raise draft.invalid("There is no code to put into gVisor: the upload has assets alone. Leave `isolation` out.")
        return draft.sealed(
            Version(
                id=self._repository.new_version_id(),
                account=account,
                app=app,
                number=state.app.next_number if state else 1,
                created_ms=self._commits.after(state.app if state else None),
                digest=Digest(""),
                compatibility_date=upload.compatibility_date or draft.COMPATIBILITY_DATE_DEFAULT,
                compatibility_flags=upload.compatibility_flags,
                worker=stored.worker,
                assets=stored.assets,
                bindings=draft.merge_bindings(upload, stored, previous),
                isolation=upload.isolation,
                limits=worker_limits(scale, upload.isolation),
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


async def _aside(work: Callable[[Upload], T], upload: Upload) -> T:
    """Do it here if the upload is small, else on a thread."""
    if content_bytes(upload) <= INLINE_BYTES_MAX:
        return work(upload)
    return await anyio.to_thread.run_sync(work, upload)


def _app_changes(upload: Upload, scale: Scale, *, deploy: bool) -> dict[str, Any]:
    """Fields of the app that an upload changes."""
    changes: dict[str, Any] = {"scale": scale} if deploy else {}
    if upload.observability is not None:
        changes["observability"] = upload.observability
    if upload.tags is not None:
        changes["tags"] = upload.tags
    return changes


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


PLATFORM_FAULTS = (store_port.StoreError, blobs_port.BlobError, runtime_port.Unavailable)
"""What a dialect answers with "try again later"."""
