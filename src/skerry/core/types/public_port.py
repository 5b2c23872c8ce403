"""Public ports: TCP ports of every city's address, each one app's."""

from skerry.core.types.ids import AccountId, AppName
from skerry.kit.record import Record


class PortRange(Record):
    """`first` to `last`, both included."""

    first: int
    last: int


PUBLIC_PORTS = (PortRange(first=30_000, last=30_999),)
"""What apps may have unless an operator says otherwise: below those that Linux gives to outgoing connections (32768), and above
those that nodes publish programs at (20000 to 29999)."""


class PublicPort(Record):
    """Whose a public port is; it is theirs until the app is deleted or asks for another."""

    account: AccountId
    app: AppName
