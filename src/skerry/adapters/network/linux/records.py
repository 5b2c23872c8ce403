"""What a node has to know of an instance's network after a restart: one file each, written before anything is made."""

import contextlib
from pathlib import Path

import msgspec

from skerry.adapters.files import replace_durably
from skerry.adapters.network.linux.addresses import Device
from skerry.core.types.ids import AccountId
from skerry.core.types.program import NetworkPolicy
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.kit.record import Record, decode, encode
from skerry.ports.network import NetworkWant


class Published(Record):
    """`address` is host:port of the node, `port` the instance's."""

    address: str
    port: int
    protocol: TrafficProtocol


class InstanceRecord(Record):
    """`policies` counts the policies that it has had."""

    instance: str
    account: AccountId
    device: Device
    policy: NetworkPolicy
    slot: int
    policies: int = 1
    published: Published | None = None

    @property
    def want(self) -> NetworkWant:
        return NetworkWant(instance=self.instance, account=self.account, device=self.device, policy=self.policy)


class LeaseRecord(Record):
    """The block of addresses that the node had last."""

    pool: str


def load_all(directory: Path) -> tuple[InstanceRecord, ...]:
    """Those that can be read, in order; the others are removed: what they told of is found as nobody's."""
    found: list[InstanceRecord] = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(decode(path.read_bytes(), InstanceRecord))
        except msgspec.DecodeError:
            path.unlink(missing_ok=True)
    return tuple(found)


def save(path: Path, record: Record) -> None:
    replace_durably(path, encode(record))


def load_lease(path: Path) -> str | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return decode(path.read_bytes(), LeaseRecord).pool
    return None
