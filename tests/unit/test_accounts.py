"""Accounts and tokens: what an operator relies on."""

import os
import stat
from pathlib import Path

import pytest

from skerry.adapters.store.simulated import Engine, Faults, SimulatedStore
from skerry.core.types.ids import AccountId, TokenId
from skerry.services.accounts import Accounts, Invalid, NameTaken, NotFound, Unauthenticated
from skerry.testing.dialect import seeded


class HandClock:
    def __init__(self) -> None:
        self.ms = 1_790_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep_ms(self, delay_ms: int) -> None:
        self.ms += delay_ms


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def accounts(engine: Engine, clock: HandClock) -> Accounts:
    return Accounts(SimulatedStore(engine), clock, seeded(7))


async def test_a_token_lets_its_holder_in_and_only_as_far_as_its_scope(accounts: Accounts) -> None:
    mine = await accounts.create_account("mine")
    other = await accounts.create_account("other")
    made = await accounts.create_token("ci", "write", account=mine.id)
    principal = await accounts.authenticate(made.secret)
    assert principal.account == mine.id
    assert principal.may_write(mine.id)
    assert not principal.may_read(other.id)
    reader = await accounts.authenticate((await accounts.create_token("r", "read", account=mine.id)).secret)
    assert reader.may_read(mine.id)
    assert not reader.may_write(mine.id)
    operator = await accounts.authenticate((await accounts.create_token("op", "admin")).secret)
    assert operator.is_admin
    assert operator.may_write(other.id)


async def test_secrets_have_256_bits_and_are_not_in_the_store(accounts: Accounts, engine: Engine) -> None:
    account = await accounts.create_account("mine")
    made = [await accounts.create_token("t", "write", account=account.id) for _ in range(3)]
    assert len({token.secret for token in made}) == 3
    assert all(len(token.secret.removeprefix("skerry_")) == 43 for token in made)
    for entry in engine.entries.values():
        assert all(token.secret.encode() not in entry.value and token.secret not in entry.key for token in made)


async def test_a_revoked_token_lets_nobody_in(accounts: Accounts) -> None:
    made = await accounts.create_token("op", "admin")
    await accounts.revoke_token(made.token.id)
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(made.secret)
    assert await accounts.list_tokens() == ()
    with pytest.raises(NotFound):
        await accounts.revoke_token(made.token.id)


async def test_a_token_ends_at_its_time(accounts: Accounts, clock: HandClock) -> None:
    made = await accounts.create_token("short", "admin", expires_ms=clock.ms + 1000)
    await accounts.authenticate(made.secret)
    clock.ms += 1000
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(made.secret)


@pytest.mark.parametrize("secret", ["", "x", "skerry_" + "a" * 43, "a" * 300, "\x00", "é", "\ud800"])
async def test_a_wrong_secret_is_refused(accounts: Accounts, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(secret)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "a\n", "ä", "../x"])
async def test_an_account_name_is_a_dns_label(accounts: Accounts, name: str) -> None:
    with pytest.raises(Invalid):
        await accounts.create_account(name)
    with pytest.raises(NotFound):
        await accounts.account_by_name(name)


async def test_account_names_are_taken_once(accounts: Accounts) -> None:
    first = await accounts.create_account("a")
    with pytest.raises(NameTaken):
        await accounts.create_account("a")
    assert await accounts.account_by_name("a") == first
    assert await accounts.list_accounts() == (first,)


async def test_tokens_of_unknown_accounts_and_admins_of_accounts_are_refused(accounts: Accounts) -> None:
    with pytest.raises(NotFound):
        await accounts.create_token("t", "write", account=AccountId("0" * 32))
    account = await accounts.create_account("a")
    with pytest.raises(Invalid):
        await accounts.create_token("t", "admin", account=account.id)
    with pytest.raises(Invalid):
        await accounts.create_token("a\nb", "write", account=account.id)
    with pytest.raises(NotFound):
        await accounts.revoke_token(TokenId("../accounts"))


async def test_the_first_start_makes_an_account_and_a_private_token_file(accounts: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    account = await accounts.ensure_admin(path)
    assert account.name == "default"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["admin-token"]
    principal = await accounts.authenticate(path.read_text().strip())
    assert principal.is_admin


async def test_later_starts_keep_the_token(accounts: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    first = await accounts.ensure_admin(path)
    text = path.read_text()
    assert await accounts.ensure_admin(path) == first
    assert path.read_text() == text
    assert len(await accounts.list_tokens()) == 1


async def test_a_revoked_admin_token_does_not_come_back(accounts: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    await accounts.ensure_admin(path)
    old = path.read_text().strip()
    await accounts.revoke_token((await accounts.list_tokens())[0].id)
    await accounts.ensure_admin(path)
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(old)
    assert (await accounts.authenticate(path.read_text().strip())).is_admin


@pytest.mark.parametrize("content", [b"", b"skerry", b"\xff\xfe", b"something else\n"])
async def test_a_damaged_token_file_is_replaced(accounts: Accounts, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "admin-token"
    path.write_bytes(content)
    await accounts.ensure_admin(path)
    assert (await accounts.authenticate(path.read_text().strip())).is_admin


@pytest.mark.parametrize("dies_after", [1, 2])
async def test_a_first_start_that_is_killed_can_be_repeated(
    engine: Engine, clock: HandClock, tmp_path: Path, dies_after: int
) -> None:
    path = tmp_path / "admin-token"
    dying = Accounts(SimulatedStore(engine, Faults(dies_after_commits=dies_after)), clock, seeded(1))
    with pytest.raises(Exception, match="simulated"):
        await dying.ensure_admin(path)
    restarted = Accounts(SimulatedStore(engine), clock, seeded(2))
    await restarted.ensure_admin(path)
    assert (await restarted.authenticate(path.read_text().strip())).is_admin
    assert len(await restarted.list_tokens()) == 1
    assert len(await restarted.list_accounts()) == 1
