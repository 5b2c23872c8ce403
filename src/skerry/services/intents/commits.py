"""What every new version and deployment has in common: one transaction for all of it, and room for the new one."""

from typing import Any, final

import msgspec

from skerry.core.types.app import App, Deployment, Share, Version
from skerry.core.types.ids import AccountId, AppName, VersionId
from skerry.ports.clock import Clock
from skerry.ports.store import Delete, Op
from skerry.services.control import keys
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.public_ports import Claim
from skerry.services.intents.repository import AppState, Held, Repository, changed_app, now_after, put_deployment, put_version

PRUNED_AT_ONCE = 64  # far below the store's limit; the rest goes with the next change


@final
class Commits:
    def __init__(self, repository: Repository, clock: Clock) -> None:
        self._repository = repository
        self._clock = clock

    async def version(
        self,
        held: Held,
        state: AppState | None,
        version: Version,
        *,
        deploy: bool,
        changes: dict[str, Any] | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Version, app and (with `deploy`) deployment and evaluation: all or nothing. Raises `Conflict`.

        `changes`: fields of the app that change with it. `claim`: the public port that it has then.
        """
        app = held.app or self._repository.new_app(version.account, version.app, now_ms=version.created_ms)
        app = msgspec.structs.replace(app, **(changes or {}))
        ops: list[Op] = [put_version(version)]
        if claim is not None:
            app = msgspec.structs.replace(app, public_port=claim.port)
            ops += claim.ops
        if deploy:
            made = self.deployment(
                app,
                (Share(version=version.id, percent=100),),
                source=version.source,
                author=version.author,
                message=version.message,
                at_ms=version.created_ms,
            )
            ops += [put_deployment(made), self.evaluation(made)]
            app = msgspec.structs.replace(app, deployment=made.id)
        app = changed_app(app, at_ms=version.created_ms, next_number=version.number + 1)
        if state is not None:
            ops += prune(state, keep=frozenset((version.id,)), new_versions=1)
        proof = keys.version(version.account, version.app, version.id)
        await self._repository.commit(app, held.revision, ops, proof=proof, checks=claim.checks if claim else ())

    async def make_room(self, account: AccountId, name: AppName) -> None:
        """Before an app is made: within the account's number, and without remains of one that was deleted."""
        if len(await self._repository.keys_under(f"{keys.APPS}{account}/")) >= limits.APPS_MAX:
            raise IntentError(Refusal.TOO_MANY, f"An account has at most {limits.APPS_MAX} apps.")
        await self._repository.sweep(account, name)

    def deployment(
        self, app: App, shares: tuple[Share, ...], *, source: str, author: str, message: str, at_ms: int | None = None
    ) -> Deployment:
        return Deployment(
            id=self._repository.new_deployment_id(),
            account=app.account,
            app=app.name,
            created_ms=self.after(app) if at_ms is None else at_ms,
            shares=shares,
            source=source,
            author=author,
            message=message,
        )

    def evaluation(self, deployment: Deployment) -> Op:
        return self._repository.evaluation(
            deployment.account, deployment.app, "deploy", at_ms=deployment.created_ms, detail=deployment.id
        )

    def after(self, app: App | None) -> int:
        return now_after(app, self._clock.now_ms())


def prune(state: AppState, *, keep: frozenset[VersionId], new_versions: int = 0) -> list[Op]:
    """Deletes of the oldest versions and deployments above their numbers; whatever a kept deployment names stays."""
    deployments = state.deployments[: limits.DEPLOYMENTS_KEPT - 1]
    named = {share.version for deployment in deployments for share in deployment.shares} | keep
    ops: list[Op] = [
        Delete(key=deployment_key(d)) for d in state.deployments[limits.DEPLOYMENTS_KEPT - 1 :] if d.id != state.app.deployment
    ]
    ops += [
        Delete(key=keys.version(v.account, v.app, v.id))
        for v in state.versions[limits.VERSIONS_KEPT - new_versions :]
        if v.id not in named
    ]
    return ops[:PRUNED_AT_ONCE]


def deployment_key(deployment: Deployment) -> str:
    return keys.deployment(deployment.account, deployment.app, deployment.created_ms, deployment.id)
