"""The ingress of one site: from a host name or a public TCP port to an instance.

Contract (suite: `skerry.testing.contracts.ingress`):

- `apply` makes the table current and returns when new requests follow it; it is idempotent, it loses no
  connection that does not go to a removed target, and it survives: an ingress that is killed comes back
  with the last table applied.
- a target of weight 0 finishes what it has and gets nothing new; `in_flight` tells when it is done.
- an idempotent request (GET, HEAD, OPTIONS, PUT, DELETE) that no byte of an answer came for is tried on
  another target, then on the fallbacks in order; others are tried again only if nothing was sent.
- a user of a sticky route is told which instance answered (HAProxy: a cookie), and gets that one again as long as it
  takes requests; whoever comes with another route's instance, or one that is gone, is served as a new user.
- on the peer frontend only own targets are used, never fallbacks: no loops.
- users' requests are counted by app, each once: where it came in, whatever was tried and wherever it was answered (a
  WebSocket is one). What reaches an instance is counted by instance, from users and other sites alike. `take_counts` hands
  out each count once, over applies, reloads and takeovers; an engine that is killed takes with it what was not yet
  taken, and so does a controller that is.
- a public port belongs to its app alone: it is bound at the site's own address as long as the table has it, and leads to the
  app's instance with the fewest connections; when all refuse, to the first fallback that is up. Connections outlive every
  `apply`, but for those of an instance that ends. One counts as a request when it begins, and once more for each ten
  seconds that it stays open. A port that somebody else holds is left out until it is free.
- an unknown host gets a 404 page that says so; a known one with nothing to serve it gets a 503.
"""

from typing import Protocol

from skerry.core.types.ids import AccountId, AppName, InstanceId
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


class AppCount(Record):
    """Users' requests for one app; `errors` of them ended in a 5xx for the user."""

    account: AccountId
    app: AppName
    requests: int
    errors: int = 0


class InstanceCount(Record):
    """See `VersionTraffic`, of which this is one instance's part."""

    instance: InstanceId
    requests: int
    errors: int = 0
    latency_ms_sum: int = 0


class Counts(Record):
    """Only what is above 0: it costs nothing to have many idle apps. By account and app, and by instance."""

    apps: tuple[AppCount, ...] = ()
    instances: tuple[InstanceCount, ...] = ()


class Ingress(Protocol):
    async def start(self) -> None:
        """Start the engine, or take over one that runs; keep it running from then on."""
        ...

    async def apply(self, table: RouteTable) -> None: ...

    async def stats(self) -> tuple[TargetStats, ...]: ...

    async def take_counts(self) -> Counts:
        """What was counted since the last call; empty while the engine is down."""
        ...

    @property
    def pid(self) -> int:
        """Of the engine's main process; 0 while it is down."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the table is not in force, and why: public ports that somebody else holds."""
        ...

    async def aclose(self, *, stop: bool) -> None:
        """Detach; with `stop` end the engine and leave nothing behind."""
        ...
