"""The two links between planes: site to control, node to site.

The lower plane always calls the upper one. Both links have the same shape: report what is observed,
and wait for a slice newer than the one held. `Unreachable` is normal: the lower plane goes on with what it
has and tries again with a capped backoff.
"""

from typing import Protocol

from skerry.core.types.ids import Digest
from skerry.core.types.slices import NodeReport, NodeSlice, SiteReport, SiteSlice


class LinkError(Exception):
    """The family of this port's errors."""


class Unreachable(LinkError):
    """No answer, or one that cannot be understood; try again."""


class Refused(LinkError):
    """The upper plane does not know this caller, or its epoch is stale; an operator has to look."""


class ControlLink(Protocol):
    """What a site asks of control."""

    async def report(self, report: SiteReport) -> None: ...

    async def next_slice(self, *, after: int, wait_ms: int) -> SiteSlice | None:
        """A slice of a generation above `after`, or None after `wait_ms` without one."""
        ...

    async def blob(self, digest: Digest) -> bytes:
        """Its bytes, checked against its name. `Unreachable` also when control has no such blob: it may have it later."""
        ...


class SiteLink(Protocol):
    """What a node asks of its site."""

    async def report(self, report: NodeReport) -> None: ...

    async def next_slice(self, *, after: int, wait_ms: int) -> NodeSlice | None: ...

    async def blob(self, digest: Digest) -> bytes:
        """As `ControlLink.blob`; `Unreachable` also when the site has to ask control for it and cannot."""
        ...
