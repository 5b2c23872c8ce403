"""What the agent and the resolver's process tell each other by files; without the libraries of either."""

from skerry.core.policy.reach import Reach
from skerry.kit.record import Record

UDP_FD, TCP_FD = 3, 4  # the resolver's sockets, as it inherits them


class Asker(Record):
    """An instance, as the resolver knows it: by its address. `slot` names its set in the node's table."""

    instance: str
    slot: int
    reach: Reach


class ResolverConfig(Record):
    """`askers` is the directory of one file per instance's address. `operator`: networks that the node's operator opened.
    `resolvers` are host or host:port; none: the machine's."""

    tag: str
    askers: str
    operator: tuple[str, ...]
    resolvers: tuple[str, ...] = ()
    bulk_per_s: int = 5
