"""The keys of control's records. One function per kind; nothing else spells a key."""

from skerry.core.types.ids import AccountId, AppName, DeploymentId, Digest, EvaluationId, NodeId, SiteId, VersionId

APPS = "apps/"
VERSIONS = "versions/"
DEPLOYMENTS = "deployments/"
EVALUATIONS = "evaluations/"
PLANS = "plans/"
PLAN_HEADS = "plan-heads/"
RELEASES = "releases/"
BLOCKED = "blocked/"
SITES = "sites/"
LEDGERS = "site-ledgers/"
RESERVATIONS = "reservations/"
ACCOUNTS = "accounts/"
IMAGE_BLOBS = "image-blobs/"
PUBLIC_PORTS = "public-ports/"
DECIDED_DEMAND = "decided-demand/"
DAILY_DEMAND = "daily-demand/"
SETTINGS = "settings/"
PRICES = "prices/"
REBALANCES = "rebalances/"
RTTS = "rtts/"
SILENCES = "silences/"
MAINTENANCE = "maintenance/"
MAINTENANCE_NOW = "maintenance/now"  # the latest one; there is one at a time

PLACEMENT_SETTINGS = f"{SETTINGS}placement"
LAST_REBALANCE = f"{REBALANCES}last"
COURSES = "courses/"


def app(account: AccountId, name: AppName) -> str:
    return f"{APPS}{account}/{name}"


def version(account: AccountId, name: AppName, version_id: VersionId) -> str:
    return f"{VERSIONS}{account}/{name}/{version_id}"


def deployment(account: AccountId, name: AppName, created_ms: int, deployment_id: DeploymentId) -> str:
    """Keys of an app's deployments are in the order of their making."""
    return f"{DEPLOYMENTS}{account}/{name}/{created_ms:013d}-{deployment_id}"


def evaluation(account: AccountId, name: AppName, evaluation_id: EvaluationId) -> str:
    return f"{EVALUATIONS}{account}/{name}/{evaluation_id}"


def course(course_id: EvaluationId) -> str:
    return f"{COURSES}{course_id}"


def plan(account: AccountId, name: AppName, generation: int) -> str:
    return f"{PLANS}{account}/{name}/{generation:010d}"


def plan_head(account: AccountId, name: AppName) -> str:
    return f"{PLAN_HEADS}{account}/{name}"


def release(account: AccountId, name: AppName) -> str:
    return f"{RELEASES}{account}/{name}"


def decided_demand(account: AccountId, name: AppName) -> str:
    return f"{DECIDED_DEMAND}{account}/{name}"


def daily_demand(account: AccountId, name: AppName) -> str:
    return f"{DAILY_DEMAND}{account}/{name}"


def blocked(account: AccountId, name: AppName) -> str:
    return f"{BLOCKED}{account}/{name}"


def site(site_id: SiteId) -> str:
    return f"{SITES}{site_id}"


def ledger(site_id: SiteId) -> str:
    return f"{LEDGERS}{site_id}"


def silence(site_id: SiteId) -> str:
    return f"{SILENCES}{site_id}"


def reservation(site_id: SiteId, account: AccountId, name: AppName) -> str:
    return f"{RESERVATIONS}{site_id}/{account}/{name}"


def prices(site_id: SiteId) -> str:
    return f"{PRICES}{site_id}"


def rtts(site_id: SiteId) -> str:
    return f"{RTTS}{site_id}"


def site_of_node(node: NodeId) -> SiteId:
    return SiteId(node.rpartition("-")[0])


def public_port(port: int) -> str:
    """In the order of the numbers."""
    return f"{PUBLIC_PORTS}{port:05d}"


def image_blob(account: AccountId, digest: Digest) -> str:
    return f"{IMAGE_BLOBS}{account}/{digest}"
