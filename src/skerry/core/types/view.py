"""What people and programs see of the platform: the records of the own API's answers.

Unlike other records they are written whole (absent values as null), and a reader ignores fields that it does
not know, so that an older client understands a newer platform.
"""

from typing import Any, Literal

import msgspec

from skerry.core.types.gate import GateNumbers
from skerry.core.types.ids import AccountId, AppName, Digest, InstanceId, NodeId, SiteId, TokenId, VersionId
from skerry.core.types.maintenance import JobState, WorkPhase
from skerry.core.types.place import PlaceState
from skerry.core.types.plan import Rejection
from skerry.core.types.program import IsolationClass, Protocol
from skerry.core.types.resources import Resources
from skerry.core.types.slices import InstanceState
from skerry.core.types.strain import Strain, StrainOf
from skerry.core.types.view_placing import SiteTerms
from skerry.kit.record import Record


class View(Record, omit_defaults=False, forbid_unknown_fields=False):
    """The base of what is shown."""


class SiteView(View):
    """`address` is host:port of the users' ingress, `region` as in `Site`; `lat` and `lon` are degrees.

    `phi` is how suspicious its silence is (`core.machines.failure`); `suspected`: so much that it is about to be given up.
    """

    site: SiteId
    city: str
    country: str
    region: str
    lat: float
    lon: float
    address: str
    state: PlaceState
    pid: int | None = None  # of the site controller
    ingress_pid: int | None = None
    nodes: int = 0
    nodes_up: int = 0
    generation: int = 0  # of the slice it executes
    seen_ms: int | None = None  # its last report
    suspected: bool = False
    phi: float = 0.0
    problems: tuple[str, ...] = ()  # what its ingress cannot do, and why; for operators


class Amounts(View):
    """`Resources`, written whole."""

    cpu_millicores: int
    memory_mib: int
    disk_mib: int

    @classmethod
    def of(cls, resources: Resources) -> "Amounts":
        return cls(
            cpu_millicores=resources.cpu_millicores,
            memory_mib=resources.memory_mib,
            disk_mib=resources.disk_mib,
        )


class NodeView(View):
    """`suspected` and `phi` as in `SiteView`, by its site. `maintenance` says what is being done to it; empty: nothing.

    `capacity` is what it has times its overcommit: at 200 percent everything is promised twice.
    """

    node: NodeId
    site: SiteId
    address: str
    state: PlaceState
    pid: int | None
    capacity: Amounts
    reserved: Amounts
    instances: int = 0
    suspected: bool = False
    phi: float = 0.0
    maintenance: str = ""
    overcommit_cpu_percent: int = 100
    overcommit_memory_percent: int = 100


class InstanceView(View):
    """`account` and `account_name` name the tenant; `since_ms` is when it came into `state`."""

    instance: InstanceId
    account: AccountId
    account_name: str
    app: AppName
    version: VersionId
    site: SiteId
    node: NodeId
    state: InstanceState
    pid: int | None
    since_ms: int
    address: str | None = None
    restarts: int = 0
    memory_bytes: int = 0
    detail: str = ""
    strains: tuple[Strain, ...] = ()


class VersionView(View):
    """A version without what it holds. `image` is its deployer's name for it, None for a Worker."""

    account: AccountId
    app: AppName
    version: VersionId
    number: int
    created_ms: int
    isolation: IsolationClass
    image: str | None = None
    image_digest: Digest | None = None
    port: int | None = None
    protocol: Protocol | None = None


RolloutState = Literal["none", "pending", "running", "paused", "done", "rolled_back", "blocked"]
"""none: nothing is deployed. pending: not decided yet. blocked: some of it found no place."""


class RolloutView(View):
    """How far the app's latest deployment is."""

    state: RolloutState
    wave: int = 0  # counts from 1
    waves: int = 0
    detail: str = ""


WaveState = Literal["done", "current", "waiting"]


class RolloutSiteView(View):
    """One city of a wave. `released`: it runs what the rollout brings, or is about to. `share` of the app's demand, 0 to 1."""

    site: SiteId
    wave: int
    released: bool
    ready: bool
    detail: str = ""
    share: float = 0.0


class WaveView(View):
    """`wave` counts from 1; `share` of the app's demand, 0 to 1."""

    wave: int
    state: WaveState
    sites: tuple[SiteId, ...]
    share: float


class RolloutDetail(View):
    """All of `skerry rollout APP`: how far each city is, and what the health gate has counted."""

    account: AccountId
    app: AppName
    rollout: RolloutView
    generation: int = 0  # of the plan that is released
    gated: bool = False  # False: it brings no new version, so nothing is held against one
    old_versions: tuple[VersionId, ...] = ()
    new_versions: tuple[VersionId, ...] = ()
    waves: tuple[WaveView, ...] = ()
    sites: tuple[RolloutSiteView, ...] = ()
    gate: GateNumbers = GateNumbers()
    since_ms: int | None = None  # when the current wave began


class AppView(View):
    """`version` is the newest one that takes traffic; `sites` are those with a serving instance.

    With a `public_port` it speaks TCP at that port of every site's address; `url` is one of them.
    """

    account: AccountId
    account_name: str
    app: AppName
    version: VersionId | None
    url: str
    rollout: RolloutView
    sites: tuple[SiteId, ...] = ()
    instances: int = 0
    serving: int = 0
    modified_ms: int = 0
    public_port: int | None = None


class Status(View):
    """All that `skerry status` shows, read at one moment; each tuple ordered by its names."""

    sites: tuple[SiteView, ...]
    nodes: tuple[NodeView, ...]
    instances: tuple[InstanceView, ...]
    apps: tuple[AppView, ...]
    now_ms: int = 0


class PlacementView(View):
    site: SiteId
    version: VersionId
    count: int
    serving: int = 0


class SiteVerdict(View):
    """What was decided about one site, and why. `reasons` are sentences."""

    site: SiteId
    chosen: bool
    reasons: tuple[str, ...] = ()
    terms: SiteTerms | None = None


class NodeVerdict(View):
    """Inside a site: why an instance is on this node, or why not."""

    node: NodeId
    instances: tuple[InstanceId, ...] = ()
    reasons: tuple[str, ...] = ()


class Explanation(View):
    """Where an app runs and why there: the plan in force in words."""

    account: AccountId
    app: AppName
    plan: str | None
    generation: int
    decided_ms: int | None
    cause: str  # of the evaluation that the plan answers
    placements: tuple[PlacementView, ...] = ()
    verdicts: tuple[SiteVerdict, ...] = ()
    nodes: tuple[NodeVerdict, ...] = ()  # of the site that was asked for
    rejections: tuple[Rejection, ...] = ()
    report: tuple[str, ...] = ()
    blocked_since_ms: int | None = None
    strains: tuple[StrainOf, ...] = ()  # of its instances; of the site that was asked for, if one was


class DrainView(View):
    """A drained or undrained place: `moving` instances have still to leave it."""

    target: str
    kind: Literal["site", "node"]
    state: PlaceState
    moving: int = 0


class MaintenanceStart(Record):
    """What an operator asks for. `task` is a name of `Node.tasks`. No `sites` and no `regions`: everywhere."""

    task: str
    max_unavailable_percent: int = 10
    sites: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


class MaintenanceNodeView(View):
    """`phase` as in `core.types.maintenance`; `instances`: what is still on it."""

    node: NodeId
    site: SiteId
    phase: WorkPhase
    since_ms: int
    instances: int = 0
    attempt: int = 1
    detail: str = ""


class MaintenanceSiteView(View):
    site: SiteId
    nodes: int
    done: int
    out_of_service: int


class MaintenanceView(View):
    """All of `skerry maintenance status`. `id` None: there never was one. `detail`: why it stopped, or what it waits for.

    `left_ms`: how much longer it takes, if it goes on as it did; None: not known yet, or over.
    """

    id: str | None = None
    task: str = ""
    state: JobState = "done"
    detail: str = ""
    max_unavailable_percent: int = 0
    author: str = ""
    canary: SiteId | None = None
    created_ms: int = 0
    changed_ms: int = 0
    now_ms: int = 0
    left_ms: int | None = None
    done: int = 0
    sites: tuple[MaintenanceSiteView, ...] = ()
    nodes: tuple[MaintenanceNodeView, ...] = ()


class AccountView(View):
    account: AccountId
    name: str
    created_ms: int


class TokenView(View):
    """`secret` is set once: in the answer that made the token."""

    token: TokenId
    name: str
    scope: str
    account: AccountId | None
    created_ms: int
    expires_ms: int | None = None
    secret: str | None = None


class WhoView(View):
    """The caller; `account` None: an operator. `accounts` are those it reaches."""

    token: TokenId
    name: str
    scope: str
    account: AccountId | None
    accounts: tuple[AccountView, ...]


class ScaleView(View):
    """What an app asks for: every field, those that somebody set, and what of it will not come as thought."""

    account: AccountId
    app: AppName
    scale: dict[str, Any]
    set_fields: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class RegionWay(View):
    """The mean round trip from a region's cities to the nearest one that runs the app, by demand; None: nothing runs."""

    region: str
    cities: int
    before_ms: float | None
    after_ms: float | None


class CityDemand(View):
    """Users who come in at one city, in requests per second, and the app's instances there by state.

    `rps` as last measured, `smoothed_rps` without its noise, `expected_rps` what to be ready for, `forecast_rps` what this time
    of the day brings (None: not known), `asked_rps` what placement plans for. `requests` and `errors` (5xx for the user) since
    the city's counters began.
    """

    site: SiteId
    rps: float
    smoothed_rps: float
    expected_rps: float
    forecast_rps: float | None = None
    asked_rps: float = 0.0
    requests: int = 0
    errors: int = 0
    instances: int = 0
    states: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class DemandView(View):
    """An app's demand over all cities; `cities` with users or instances, by id (none in a list of apps)."""

    account: AccountId
    account_name: str
    app: AppName
    rps: float
    expected_rps: float
    instances: int
    asked_rps: float = 0.0
    cities: tuple[CityDemand, ...] = ()


class AppDifference(View):
    """What another plan would mean for an app. `rejections` are those that it has not now.

    `cost` in nodes: what its instances take of a mean node of their city, half by cpu, half by memory. `weighed_by`: what the
    ways of a region's cities are weighed by.
    """

    account: AccountId
    app: AppName
    gained: tuple[SiteId, ...]
    lost: tuple[SiteId, ...]
    instances_before: int
    instances_after: int
    started: int
    ended: int
    reserved_before: Amounts
    reserved_after: Amounts
    cost_before: float = 0.0
    cost_after: float = 0.0
    weighed_by: Literal["demand", "users", "cities"] = "cities"
    ways: tuple[RegionWay, ...] = ()
    rejections: tuple[Rejection, ...] = ()


class PlanDifference(View):
    """Apps that would change; `left_out` were too many to look at; `remarks`: what of it brings about nothing."""

    apps: tuple[AppDifference, ...]
    looked_at: int
    left_out: int = 0
    remarks: tuple[str, ...] = ()
