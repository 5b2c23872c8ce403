"""The ingress of one site: from a host name to an instance.

Contract (suite: `skerry.testing.contracts.ingress`):

- `apply` makes the table current and returns when new requests follow it; it is idempotent, it loses no
  connection that does not go to a removed target, and it survives: an ingress that is killed comes back
  with the last table applied.
- a target of weight 0 finishes what it has and gets nothing new; `in_flight` tells when it is done.
- an idempotent request (GET, HEAD, OPTIONS, PUT, DELETE) that no byte of an answer came for is tried on
  another target, then on the fallbacks in order; others are tried again only if nothing was sent.
- on the peer frontend only own targets are used, never fallbacks: no loops.
- an unknown host gets a 404 page that says so; a known one with nothing to serve it gets a 503.
"""

from typing import Protocol

from skerry.core.types.routes import RouteTable
from skerry.kit.record import Record


class IngressFault(Exception):
    """The family of this port's errors."""


class Unavailable(IngressFault):
    """The engine is not there or refuses; the text says why."""


class TargetStats(Record):
    """`in_flight` requests now, `total` requests since the ingress started (it resets on a restart)."""

    instance: str
    in_flight: int
    total: int


class Ingress(Protocol):
    async def start(self) -> None:
        """Start the engine, or take over one that runs; keep it running from then on."""
        ...

    async def apply(self, table: RouteTable) -> None: ...

    async def stats(self) -> tuple[TargetStats, ...]: ...

    @property
    def pid(self) -> int:
        """Of the engine's main process; 0 while it is down."""
        ...

    async def aclose(self, *, stop: bool) -> None:
        """Detach; with `stop` end the engine and leave nothing behind."""
        ...
