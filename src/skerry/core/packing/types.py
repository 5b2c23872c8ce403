"""What packing takes and gives: what is asked, what is held, who gave way, and by which settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from skerry.core.types.app import PRIORITY_NEUTRAL, Version
from skerry.core.types.ids import AccountId, AppName, Digest, InstanceId, NodeId, VersionId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record

AskKey = tuple[AccountId, AppName, VersionId]
AppKey = tuple[AccountId, AppName]


class Held(Record):
    """One instance that the site has promised to run, and what it reserves on its node."""

    instance: InstanceId
    node: NodeId
    account: AccountId
    app: AppName
    version: VersionId
    reserve: Resources


class Ask(Record):
    """`count` instances of a version; only nodes with all `features` may run them.

    A higher `priority` is kept and placed first, and may make a lower one give way. `starts` False only reserves the room, for
    a version that is to start later: asked again with True, it starts in the room that it has.
    """

    account: AccountId
    app: AppName
    version: Version
    count: int
    plan_generation: int
    features: tuple[str, ...] = ()
    priority: int = PRIORITY_NEUTRAL
    starts: bool = True

    @property
    def key(self) -> AskKey:
        return (self.account, self.app, self.version.id)


class Preempted(Record):
    """An instance that ran and gave way to an app of a higher priority. What of its app is missing now is asked elsewhere
    in the site at once, and refused if it fits nowhere."""

    held: Held
    priority: int
    by_account: AccountId
    by_app: AppName
    by_priority: int


class Packing(Record):
    """What is to run where, for what room is reserved, who gave way (each by instance id), and what could not be packed."""

    held: tuple[Held, ...]
    refused: tuple[Refused, ...]
    reserved: tuple[Held, ...] = ()
    preempted: tuple[Preempted, ...] = ()


Fit = Literal["emptiest", "fullest", "aligned"]


class PackingSettings(Record):
    """How a node is chosen for a new instance. What runs is never moved for any of these.

    Before anything else come fewer instances of the app in the node's rack (`spread_racks`) and on the node
    (`spread_nodes`); a node without a rack is a rack of its own. Then quieter neighbours, fewer features that the app has no
    use for (unless `fit` is "emptiest"), the version's blobs at hand, and then the `fit`:

    - "emptiest": the most free memory. Load is even, and the loss of a node costs least.
    - "fullest": the least free (all resources, each in units of the largest node), and the largest node where none is in
      use yet. The fewest nodes are used; give both spreads up to pack as tightly as can be.
    - "aligned": free resources in the proportion that is asked (greatest cosine). The least is stranded, which matters
      where nodes and apps differ much in shape and the site is nearly full.

    `per_node_max`, `per_rack_max`: the most instances of one app that may share a node or a rack; new ones only.
    `keep_free_percent`: of every node's resources, kept free of new instances.
    `preempt_gap`: an instance gives way to an app whose priority is at least so much higher; None: nothing gives way.
    """

    fit: Fit = "emptiest"
    spread_racks: bool = True
    spread_nodes: bool = True
    per_node_max: int | None = None
    per_rack_max: int | None = None
    keep_free_percent: int = 0
    preempt_gap: int | None = 1

    def __post_init__(self) -> None:
        if not 0 <= self.keep_free_percent < 100:
            raise ValueError(f"keep_free_percent is {self.keep_free_percent}: it is from 0 to 99")
        for name, value in (
            ("per_node_max", self.per_node_max),
            ("per_rack_max", self.per_rack_max),
            ("preempt_gap", self.preempt_gap),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it is at least 1, or None")


@dataclass(frozen=True)
class Facts:
    """What is known of nodes beside their reports; arguments, since no agent measures them yet. Absent nodes count as quiet
    and as without blobs.

    `noise`: how disturbed instances of a node are, from 0 to `NOISE_MAX` (say, CPU pressure in steps).
    `images`: the blobs that a node holds; a node with all that a version starts from is preferred to one without.
    """

    noise: Mapping[NodeId, int] = field(default_factory=dict[NodeId, int])
    images: Mapping[NodeId, frozenset[Digest]] = field(default_factory=dict[NodeId, frozenset[Digest]])


NO_FACTS = Facts()
DEFAULTS = PackingSettings()


def instance_id(account: AccountId, app: AppName, version: VersionId, node: NodeId, ordinal: int) -> InstanceId:
    """The id of the `ordinal`-th instance (from 0) of a version on a node: any replica derives it alike."""
    return InstanceId(stable_id(account, app, version, node, str(ordinal)))


def different_asks(asks: tuple[Ask, ...]) -> None:
    """Raises ValueError when two asks name the same version of the same app."""
    if len({ask.key for ask in asks}) != len(asks):
        raise ValueError("two asks for the same version of an app")
