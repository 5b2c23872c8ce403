"""Which app has which public port. A port is one record, so that two apps can never have the same one."""

from typing import final

from skerry.core.policy.public_ports import free_port, holds, shown
from skerry.core.types.app import App
from skerry.core.types.ids import AccountId, AppName
from skerry.core.types.public_port import PortRange, PublicPort
from skerry.kit import record
from skerry.kit.hashing import stable_hash
from skerry.kit.record import Record
from skerry.ports.store import Check, Delete, Op, Put
from skerry.services.control import keys
from skerry.services.intents import limits
from skerry.services.intents.draft import invalid
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.repository import Repository


class Claim(Record):
    """The port that an app has when `ops` are written, which `checks` allow as long as nobody else took it."""

    port: int
    checks: tuple[Check, ...] = ()
    ops: tuple[Op, ...] = ()


@final
class PublicPorts:
    def __init__(self, repository: Repository, ranges: tuple[PortRange, ...]) -> None:
        self._repository = repository
        self._ranges = ranges

    async def claim(self, account: AccountId, name: AppName, app: App | None, wish: int | None) -> Claim:
        """`wish` None: the one that it has, else any. To be written in the transaction of the app. Raises `IntentError`."""
        own = app.public_port if app is not None else None
        if own is not None and wish in {None, own}:
            return Claim(port=own)
        if wish is not None and not holds(self._ranges, wish):
            raise invalid(f"Public port {wish} is none that apps may have: {self._allowed()}")
        owners = await self._repository.public_ports()
        self._check_room(account, owners, moving=own is not None)
        if wish is not None and wish in owners:
            whose = f"the app {owners[wish].app}" if owners[wish].account == account else "another account's app"
            raise IntentError(Refusal.PORT_TAKEN, f"Public port {wish} is taken by {whose}; leave it out to be given a free one.")
        start = stable_hash(f"{account}/{name}")
        port = free_port(self._ranges, owners, start=start) if wish is None else wish
        if port is None:
            raise IntentError(Refusal.TOO_MANY, f"No public port is free: {self._allowed()}")
        key, given_up = keys.public_port(port), [] if own is None else [Delete(key=keys.public_port(own))]
        mine = Put(key=key, value=record.encode(PublicPort(account=account, app=name)))
        return Claim(port=port, checks=(Check(key=key, revision=0),), ops=(mine, *given_up))

    def _check_room(self, account: AccountId, owners: dict[int, PublicPort], *, moving: bool) -> None:
        held = sum(owner.account == account for owner in owners.values())
        if not moving and held >= limits.PUBLIC_PORTS_MAX:
            raise IntentError(Refusal.TOO_MANY, f"An account has at most {limits.PUBLIC_PORTS_MAX} public ports.")

    def _allowed(self) -> str:
        there = f"there are {shown(self._ranges)}" if self._ranges else "there are none"
        return f"{there}, and an operator opens others with `skerry up --public-ports`."
