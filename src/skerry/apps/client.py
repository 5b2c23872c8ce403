"""The client of the own API, and how it finds the platform.

SKERRY_API_URL and SKERRY_API_TOKEN      another machine's platform
--data-dir, SKERRY_DATA_DIR, the default  the one that `skerry up` runs here; the option goes before all others
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

from skerry.apps.supervisor.lock import open_supervisor, read_platform
from skerry.core.types.view import (
    AccountView,
    AppView,
    DemandView,
    DrainView,
    Explanation,
    InstanceView,
    MaintenanceView,
    NodeView,
    PlanDifference,
    RolloutDetail,
    ScaleView,
    SiteView,
    Status,
    TokenView,
    VersionView,
    WhoView,
)
from skerry.core.types.view_map import AppMap, WorldMap
from skerry.core.types.view_placing import SettingsView
from skerry.kit.record import Record, decode, encode

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 << 20  # the status of 300 sites
DIALECT_PATH = "/client/v4"
MAP_PATH = "/map"

T = TypeVar("T", bound=Record)


class ClientError(Exception):
    """For people: what is wrong and what to do next. `exit_code`: 1 the caller's doing, 3 not reachable."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class NotReachable(ClientError):
    """No platform answers."""

    exit_code = 3


class Target(Record):
    """Where a platform answers, and the token for it."""

    api_url: str
    token: str
    default_account: str = "default"

    @property
    def map_url(self) -> str:
        return self.api_url + MAP_PATH

    @property
    def dialect_url(self) -> str:
        """What wrangler calls its API base."""
        return self.api_url + DIALECT_PATH


class Sites(Record, forbid_unknown_fields=False):
    sites: tuple[SiteView, ...]


class Nodes(Record, forbid_unknown_fields=False):
    nodes: tuple[NodeView, ...]


class Apps(Record, forbid_unknown_fields=False):
    apps: tuple[AppView, ...]


class Demands(Record, forbid_unknown_fields=False):
    demand: tuple[DemandView, ...]


class AccountList(Record, forbid_unknown_fields=False):
    accounts: tuple[AccountView, ...]


class Instances(Record, forbid_unknown_fields=False):
    instances: tuple[InstanceView, ...]


class Missing(Record, forbid_unknown_fields=False):
    missing: tuple[str, ...]


class PutBlob(Record, forbid_unknown_fields=False):
    digest: str


class Deleted(Record, forbid_unknown_fields=False):
    deleted: str


class TokenList(Record, forbid_unknown_fields=False):
    tokens: tuple[TokenView, ...]


class _Error(Record, forbid_unknown_fields=False):
    code: str = "unknown"
    message: str = ""
    hint: str = ""


class _ErrorAnswer(Record, forbid_unknown_fields=False):
    error: _Error


def find_target(data_dir: Path) -> Target:
    """Raises `NotReachable` when nothing runs on `data_dir`, `ClientError` when its token cannot be read."""
    url = os.environ.get("SKERRY_API_URL", "").rstrip("/")
    if url:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"SKERRY_API_URL={url}: not an http:// or https:// address")
        token = os.environ.get("SKERRY_API_TOKEN", "")
        if not token:
            raise ClientError("SKERRY_API_URL is set but SKERRY_API_TOKEN is not", hint="`skerry token create` makes one")
        return Target(api_url=url, token=token)
    return find_local(data_dir)


def find_local(data_dir: Path) -> Target:
    """The platform that runs on `data_dir`, whatever the environment names. Raises as `find_target`."""
    platform = read_platform(data_dir)
    supervisor = open_supervisor(platform) if platform else None
    if platform is None or supervisor is None:
        raise NotReachable(f"no platform runs on {data_dir}", hint="start one with `skerry up`, or name it with --data-dir")
    supervisor.close()
    path = Path(platform.admin_token_path)
    try:
        token = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise NotReachable("the platform is still starting", hint="try again in a moment") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{path}: {error}", hint="only the user who started the platform may read it") from error
    return Target(api_url=platform.api_url, token=token, default_account=platform.default_account)


class Client:
    """One method per request of the API; each raises `ClientError` or `NotReachable`."""

    def __init__(self, target: Target, *, transport: httpx.BaseTransport | None = None) -> None:
        self.target = target
        # Proxies of the environment are for the internet, not for the operator's own machines.
        self._http = httpx.Client(
            base_url=target.api_url,
            headers={"authorization": f"Bearer {target.token}"},
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def whoami(self) -> WhoView:
        return self._call("GET", "/v1/whoami", WhoView)

    def status(self) -> Status:
        return self._call("GET", "/v1/status", Status)

    def sites(self) -> tuple[SiteView, ...]:
        return self._call("GET", "/v1/sites", Sites).sites

    def nodes(self) -> tuple[NodeView, ...]:
        return self._call("GET", "/v1/nodes", Nodes).nodes

    def apps(self) -> tuple[AppView, ...]:
        return self._call("GET", "/v1/apps", Apps).apps

    def explain(self, account: str, app: str, site: str | None) -> Explanation:
        query = {} if site is None else {"site": site}
        return self._call("GET", f"/v1/apps/{_segment(account)}/{_segment(app)}/explain", Explanation, query=query)

    def demand(self, account: str, app: str) -> DemandView:
        return self._call("GET", f"/v1/apps/{_segment(account)}/{_segment(app)}/demand", DemandView)

    def settings(self) -> SettingsView:
        return self._call("GET", "/v1/settings", SettingsView)

    def change_settings(self, changes: Mapping[str, object], rtts_ms: Mapping[str, Mapping[str, float | None]]) -> SettingsView:
        return self._call("PATCH", "/v1/settings", SettingsView, body={"settings": dict(changes), "rtts_ms": dict(rtts_ms)})

    def demands(self) -> tuple[DemandView, ...]:
        return self._call("GET", "/v1/demand", Demands).demand

    def scale(self, account: str, app: str) -> ScaleView:
        return self._call("GET", f"/v1/apps/{_segment(account)}/{_segment(app)}/scale", ScaleView)

    def change_scale(self, account: str, app: str, changes: Mapping[str, object]) -> ScaleView:
        """`changes` by field; None takes the default back."""
        body = {"scale": dict(changes)}
        return self._call("PATCH", f"/v1/apps/{_segment(account)}/{_segment(app)}/scale", ScaleView, body=body)

    def plan(self, account: str, change: Mapping[str, object]) -> PlanDifference:
        return self._call("POST", "/v1/plan", PlanDifference, query={"account": account}, body=dict(change))

    def world_map(self) -> WorldMap:
        return self._call("GET", "/v1/map", WorldMap)

    def app_map(self, account: str, app: str) -> AppMap:
        return self._call("GET", f"/v1/map/{_segment(account)}/{_segment(app)}", AppMap)

    def rollout(self, account: str, app: str) -> RolloutDetail:
        return self._call("GET", f"/v1/apps/{_segment(account)}/{_segment(app)}/rollout", RolloutDetail)

    def change_rollout(self, account: str, app: str, action: str) -> RolloutDetail:
        path = f"/v1/apps/{_segment(account)}/{_segment(app)}/rollout"
        return self._call("POST", path, RolloutDetail, body={"action": action})

    def instances(self, account: str, app: str) -> tuple[InstanceView, ...]:
        return self._call("GET", f"/v1/apps/{_segment(account)}/{_segment(app)}/instances", Instances).instances

    def missing_blobs(self, account: str, digests: Sequence[str]) -> tuple[str, ...]:
        return self._call("POST", f"/v1/images/{_segment(account)}/missing", Missing, body={"digests": list(digests)}).missing

    def put_blob(self, account: str, digest: str, chunks: Iterable[bytes]) -> None:
        """A blob of any size, as it comes."""
        self._call("PUT", f"/v1/images/{_segment(account)}/blobs/{_segment(digest)}", PutBlob, chunks=chunks)

    def put_program(self, account: str, app: str, program: Mapping[str, object], *, deploy: bool = True) -> VersionView:
        query = {"deploy": "true" if deploy else "false"}
        return self._call(
            "PUT", f"/v1/apps/{_segment(account)}/{_segment(app)}/program", VersionView, query=query, body=dict(program)
        )

    def delete_app(self, account: str, app: str) -> None:
        self._call("DELETE", f"/v1/apps/{_segment(account)}/{_segment(app)}", Deleted)

    def drain(self, target: str) -> DrainView:
        return self._call("POST", "/v1/drain", DrainView, body={"target": target})

    def undrain(self, target: str) -> DrainView:
        return self._call("POST", "/v1/undrain", DrainView, body={"target": target})

    def maintenance(self) -> MaintenanceView:
        return self._call("GET", "/v1/maintenance", MaintenanceView)

    def start_maintenance(self, task: str, percent: int, sites: Sequence[str], regions: Sequence[str]) -> MaintenanceView:
        body = {"action": "start", "task": task, "max_unavailable_percent": percent, "sites": sites, "regions": regions}
        return self._call("POST", "/v1/maintenance", MaintenanceView, body=body)

    def change_maintenance(self, action: str) -> MaintenanceView:
        return self._call("POST", "/v1/maintenance", MaintenanceView, body={"action": action})

    def accounts(self) -> tuple[AccountView, ...]:
        return self._call("GET", "/v1/accounts", AccountList).accounts

    def create_account(self, name: str) -> AccountView:
        return self._call("POST", "/v1/accounts", AccountView, body={"name": name})

    def tokens(self, account: str | None) -> tuple[TokenView, ...]:
        query = {} if account is None else {"account": account}
        return self._call("GET", "/v1/tokens", TokenList, query=query).tokens

    def create_token(self, name: str, scope: str, account: str | None, expires_ms: int | None) -> TokenView:
        body = {"name": name, "scope": scope, "account": account, "expires_ms": expires_ms}
        return self._call("POST", "/v1/tokens", TokenView, body=body)

    def revoke_token(self, token: str) -> TokenView:
        return self._call("DELETE", f"/v1/tokens/{_segment(token)}", TokenView)

    def _call(
        self,
        method: str,
        path: str,
        as_type: type[T],
        *,
        query: dict[str, str] | None = None,
        body: object = None,
        chunks: Iterable[bytes] | None = None,
    ) -> T:
        content = chunks if chunks is not None else None if body is None else encode(body)
        kind = "application/json" if chunks is None else "application/octet-stream"
        try:
            answer = self._http.request(method, path, params=query, content=content, headers={"content-type": kind})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotReachable(
                f"{self.target.api_url} does not answer: {error}", hint="is the platform running? `skerry up` starts it"
            ) from error
        if not answer.is_success:
            raise _error_of(answer)
        try:
            return decode(answer.content[:ANSWER_BYTES_MAX], as_type)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"{self.target.api_url}{path} answers something else: {error}", hint="is it a Skerry API?"
            ) from error


def _error_of(answer: httpx.Response) -> ClientError:
    try:
        said = decode(answer.content, _ErrorAnswer).error
    except msgspec.DecodeError:
        return ClientError(f"{answer.url} answered {answer.status_code}", hint="is it a Skerry API?")
    return ClientError(said.message or f"error {answer.status_code}", hint=said.hint, code=said.code)


def _segment(text: str) -> str:
    """One segment of a path, whatever is in it. Dots alone would be another path."""
    from urllib.parse import quote

    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if quoted in (".", "..") else quoted or "%20"
