"""What a deploy leaves in the store, whatever happens in between."""

import anyio
import pytest

from skerry.adapters.store.simulated import Engine, Faults, SimulatedStore
from skerry.core.types.app import App, Deployment, SecretBinding, Version
from skerry.core.types.plan import Evaluation
from skerry.kit import record
from skerry.ports import store as store_port
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.upload import ModulePart, SecretsPatch, Upload
from skerry.testing.dialect import Dialect, open_dialect

CODE = b"export default { fetch() {} }"


def upload(code: bytes = CODE, **changes: object) -> Upload:
    modules = (ModulePart(name="index.js", type="esm", content=code),)
    return Upload(main_module="index.js", modules=modules, **changes)  # type: ignore[arg-type]


async def deploy(dialect: Dialect, name: str = "hello", code: bytes = CODE) -> Version:
    return await dialect.use_cases.apps.deploy(dialect.account.id, name, upload(code), source="api", author="me")


def held(engine: Engine, prefix: str) -> list[bytes]:
    return [engine.entries[key].value for key in engine.keys if key.startswith(prefix)]


def check_whole(engine: Engine) -> int:
    """The app, its versions, deployments and evaluations agree; the number of versions."""
    apps = [record.decode(value, App) for value in held(engine, "apps/")]
    versions = {v.id: v for v in (record.decode(value, Version) for value in held(engine, "versions/"))}
    deployments = {d.id: d for d in (record.decode(value, Deployment) for value in held(engine, "deployments/"))}
    evaluations = [record.decode(value, Evaluation) for value in held(engine, "evaluations/")]
    if not apps:
        assert not versions and not deployments and not evaluations
        return 0
    (app,) = apps
    assert app.deployment in deployments
    assert all(share.version in versions for d in deployments.values() for share in d.shares)
    assert sorted(v.number for v in versions.values()) == list(range(1, app.next_number))
    assert {e.detail for e in evaluations} == set(deployments)
    return len(versions)


async def test_a_deploy_is_one_transaction() -> None:
    engine = Engine()
    dialect = await open_dialect(store=SimulatedStore(engine))
    before = engine.history.newest
    await deploy(dialect)
    assert engine.history.newest == before + 1
    assert check_whole(engine) == 1


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_kill_at_a_commit_leaves_the_old_state_or_the_new_one(lost: int) -> None:
    engine = Engine()
    store = SimulatedStore(engine)
    dialect = await open_dialect(store=store)
    store.faults = Faults(dies_after_commits=store.commits + lost)
    with pytest.raises(store_port.Unavailable):
        for _ in range(5):
            await deploy(dialect)
    assert check_whole(engine) == lost
    again = await open_dialect(store=SimulatedStore(engine), seed=2)
    await deploy(again)
    assert check_whole(engine) == lost + 1


async def test_an_answer_that_was_lost_is_looked_up() -> None:
    store = SimulatedStore()
    dialect = await open_dialect(store=store)
    store.faults = Faults(unavailable_after=1)
    made = await deploy(dialect)
    state = await dialect.use_cases.apps.state(dialect.account.id, "hello")
    assert state.deployed == made
    store.faults = Faults(unavailable_before=1)
    with pytest.raises(store_port.Unavailable):
        await deploy(dialect)
    assert len((await dialect.use_cases.apps.state(dialect.account.id, "hello")).versions) == 1


async def test_deploys_at_the_same_time_come_one_after_the_other() -> None:
    engine = Engine()
    dialect = await open_dialect(store=SimulatedStore(engine))
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(deploy, dialect)
    assert check_whole(engine) == 6


async def test_only_so_many_versions_are_kept_and_never_fewer_than_run() -> None:
    engine = Engine()
    dialect = await open_dialect(store=SimulatedStore(engine))
    first = await deploy(dialect)
    apps = dialect.use_cases.apps
    for _ in range(limits.VERSIONS_KEPT + 5):
        await apps.upload_version(dialect.account.id, "hello", upload(), source="api", author="me")
    state = await apps.state(dialect.account.id, "hello")
    assert state.deployed == first
    assert limits.VERSIONS_KEPT <= len(state.versions) <= limits.VERSIONS_KEPT + 1
    assert state.versions[0].number == limits.VERSIONS_KEPT + 6
    for _ in range(limits.DEPLOYMENTS_KEPT + 5):
        await deploy(dialect)
    state = await apps.state(dialect.account.id, "hello")
    assert len(state.deployments) == limits.DEPLOYMENTS_KEPT
    assert all(state.version(share.version) for d in state.deployments for share in d.shares)
    assert len(state.versions) <= limits.VERSIONS_KEPT


async def test_remains_of_a_deleted_app_are_not_found_again() -> None:
    engine = Engine()
    store = SimulatedStore(engine)
    dialect = await open_dialect(store=store)
    await deploy(dialect)
    store.faults = Faults(dies_after_commits=store.commits + 1)
    with pytest.raises(store_port.Unavailable):
        await dialect.use_cases.apps.delete(dialect.account.id, "hello")
    assert held(engine, "versions/") and not held(engine, "apps/")
    again = await open_dialect(store=SimulatedStore(engine), seed=2)
    await deploy(again)
    state = await again.use_cases.apps.state(dialect.account.id, "hello")
    assert [version.number for version in state.versions] == [1]


async def test_equal_code_has_an_equal_digest_and_other_secrets_another() -> None:
    dialect = await open_dialect()
    first, second = await deploy(dialect), await deploy(dialect)
    assert first.digest == second.digest and first.id != second.id
    third = await deploy(dialect, code=CODE + b"//")
    assert third.digest != first.digest and third.etag != first.etag
    changed = await dialect.use_cases.apps.change_secrets(
        dialect.account.id,
        "hello",
        SecretsPatch(put=(SecretBinding(name="S", text="1"),)),
        deploy=True,
        source="secret",
        author="me",
    )
    assert changed.digest != third.digest and changed.etag == third.etag


async def test_an_account_has_so_many_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "APPS_MAX", 2)
    dialect = await open_dialect()
    await deploy(dialect, "a")
    await deploy(dialect, "b")
    await deploy(dialect, "b")
    with pytest.raises(IntentError) as caught:
        await deploy(dialect, "c")
    assert caught.value.refusal is Refusal.TOO_MANY
