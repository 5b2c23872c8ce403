"""What a developer deploys: app, version, deployment, and the worker or program inside a version."""

from typing import Literal

from skerry.core.types.ids import AccountId, AppName, DeploymentId, Digest, SiteId, VersionId
from skerry.core.types.program import IsolationClass, Program
from skerry.core.types.resources import Resources
from skerry.kit.record import Record

ModuleType = Literal["esm", "commonjs", "text", "data", "wasm", "json", "python"]


class Module(Record):
    """One file of a worker. `name` is what imports call it; the content is the blob `digest`."""

    name: str
    type: ModuleType
    digest: Digest
    size: int


class TextBinding(Record, tag_field="kind", tag="text"):
    """`env.NAME` is a string (wrangler's `vars`)."""

    name: str
    text: str


class SecretBinding(Record, tag_field="kind", tag="secret"):
    """As text, but never shown again by any API, log or file that others can read."""

    name: str
    text: str


class JsonBinding(Record, tag_field="kind", tag="json"):
    """`env.NAME` is the parsed value of `json`, which is valid JSON text."""

    name: str
    json: str


class BlobBinding(Record, tag_field="kind", tag="blob"):
    """`env.NAME` is made from an uploaded part: a string, an ArrayBuffer or a WebAssembly.Module."""

    name: str
    type: Literal["text", "data", "wasm"]
    digest: Digest


class AssetsBinding(Record, tag_field="kind", tag="assets"):
    """`env.NAME.fetch()` answers from the version's static assets."""

    name: str


class VersionMetadataBinding(Record, tag_field="kind", tag="version_metadata"):
    """`env.NAME` is `{id, tag, timestamp}` of the running version."""

    name: str


Binding = TextBinding | SecretBinding | JsonBinding | BlobBinding | AssetsBinding | VersionMetadataBinding


class AssetFile(Record):
    """One static file: `path` starts with a slash, is normal (no `.`, `..`, `//`), UTF-8."""

    path: str
    digest: Digest
    size: int
    content_type: str | None = None


class Assets(Record):
    """A version's static files and how requests map on them, in Cloudflare's words.

    `manifest` is the blob that holds the JSON array of `AssetFile`s, ordered by path (a version can have
    20,000 files). `headers` and `redirects` are the text of `_headers` and `_redirects`.
    """

    manifest: Digest
    file_count: int
    total_bytes: int
    html_handling: str = "auto-trailing-slash"
    not_found_handling: str = "none"
    run_worker_first: bool | tuple[str, ...] = False
    headers: str = ""
    redirects: str = ""


class Worker(Record):
    """The JavaScript half of a version. A version with assets alone has no Worker."""

    main_module: str
    modules: tuple[Module, ...]
    service_worker_syntax: bool = False  # `body_part` uploads: a script with addEventListener


class Limits(Record):
    """What one instance may use (enforced by cgroup) and what packing reserves for it."""

    memory_mib_max: int = 512  # 128 for the isolate's own heap; workerd around it grows to 225 under load (bench/workers.py)
    cpu_millicores_max: int = 1000
    reserve: Resources = Resources(cpu_millicores=10, memory_mib=12, disk_mib=1)


class Version(Record):
    """One immutable upload of an app. `number` counts from 1 inside the app.

    It has either a worker, assets or both, or a program. `isolation` is "sandbox" or "gvisor" for a worker, any but
    "sandbox" for a program. Text and secret bindings of a program are its environment.
    """

    id: VersionId
    account: AccountId
    app: AppName
    number: int
    created_ms: int
    digest: Digest  # of everything that decides behaviour: equal digest, equal behaviour
    compatibility_date: str
    compatibility_flags: tuple[str, ...] = ()
    worker: Worker | None = None
    assets: Assets | None = None
    program: Program | None = None
    isolation: IsolationClass = "sandbox"
    bindings: tuple[Binding, ...] = ()
    limits: Limits = Limits()
    etag: str = ""
    startup_time_ms: int = 0
    handlers: tuple[str, ...] = ()
    source: str = "api"
    author: str = ""
    message: str = ""
    tag: str = ""
    recorded: str = ""  # JSON object of settings as they were uploaded, to be shown again (placement, cpu_ms)

    def process_digests(self) -> frozenset[Digest]:
        """Blobs that an instance of this version starts from: modules and bindings, or its image; not assets."""
        modules = self.worker.modules if self.worker else ()
        bindings = [binding.digest for binding in self.bindings if isinstance(binding, BlobBinding)]
        image = self.program.image.blobs() if self.program else frozenset[Digest]()
        return frozenset((*(module.digest for module in modules), *bindings)) | image


class Share(Record):
    """`percent` of the traffic (0 < percent <= 100, hundredths allowed) for a version."""

    version: VersionId
    percent: float


class Deployment(Record):
    """Which versions serve which share; the shares add up to 100."""

    id: DeploymentId
    account: AccountId
    app: AppName
    created_ms: int
    shares: tuple[Share, ...]
    source: str = "api"
    author: str = ""
    message: str = ""


PRIORITY_NEUTRAL = 50
"""An app of this priority weighs its unserved and late demand once."""


class RegionMin(Record):
    """At least `count` instances in the sites of `region`."""

    region: str
    count: int


class DataCalls(Record):
    """`per_request` calls to a named database, bucket or object class for each request."""

    data: str
    per_request: float


class InstanceResources(Record):
    """What packing reserves for one instance; None: the platform's own number. Both stay within `Limits`."""

    cpu_millicores: int | None = None
    memory_mib: int | None = None


class Scale(Record):
    """How many instances, where, and what for. Empty `allow` allows every site; `deny` wins over it.

    Names in both are site ids, `country:GB` or `region:weur`. `min_per_site` 0 leaves the choice of sites to demand;
    above, every site that policy allows runs so many. Minimums, and `max_per_site`, count each version that has traffic for
    itself; `max_total` counts all of them. `jurisdiction` is one of a site's (`core.policy.jurisdiction`).
    """

    min_per_site: int = 1
    max_per_site: int | None = None
    min_total: int = 0
    max_total: int | None = None
    region_min: tuple[RegionMin, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    jurisdiction: str | None = None
    features: tuple[str, ...] = ()
    pin: tuple[SiteId, ...] = ()
    latency_objective_ms: float | None = None
    survive_sites: int = 0
    priority: int = PRIORITY_NEUTRAL
    rps_per_instance: float = 200.0
    calls: tuple[DataCalls, ...] = ()
    sticky: bool = False  # a user stays with the site and instance that answered first
    resources: InstanceResources | None = None


class App(Record):
    """The intent for one app. `generation` grows with every change of it."""

    account: AccountId
    name: AppName
    tag: str  # Cloudflare's script tag: 32 hex digits, stable over the app's life
    created_ms: int
    modified_ms: int
    generation: int
    deployment: DeploymentId | None = None  # None: uploaded, never deployed
    enabled: bool = True  # answers at its host name (wrangler's workers_dev)
    scale: Scale = Scale()
    observability: bool = False
    tags: tuple[str, ...] = ()
    next_number: int = 1
    public_port: int | None = None  # of a program that speaks TCP: where every city answers for it, in place of a host name
