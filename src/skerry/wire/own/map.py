"""The world map: its data without an app chosen, and its page.

The page is one file without a reference to anything outside; it reads `/v1/map`, `/v1/map/{account}/{app}` and `explain`, with
a token that its user gives. Its policy lets nothing run but its own script, which is named by its hash.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib import resources

from starlette.responses import Response

from skerry.core.types.view import AppView, Status
from skerry.core.types.view_map import MapApp, WorldMap

APPS_MAX = 2_000  # some 300 bytes each, every few seconds for every open map
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def world_map(status: Status) -> WorldMap:
    apps = sorted(status.apps, key=lambda app: (app.account_name, app.app))
    return WorldMap(
        sites=status.sites,
        apps=tuple(_map_app(app) for app in apps[:APPS_MAX]),
        apps_total=len(apps),
        now_ms=status.now_ms,
    )


def map_page() -> Response:
    page, policy = _page()
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
    }
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


def _map_app(app: AppView) -> MapApp:
    return MapApp(
        account=app.account,
        account_name=app.account_name,
        app=app.app,
        url=app.url,
        rollout=app.rollout.state,
        sites=len(app.sites),
        instances=app.instances,
        serving=app.serving,
    )


@cache
def _page() -> tuple[bytes, str]:
    """The page with style, script and outlines put in, and the policy that fits it."""
    script, style = _part("map.js"), _part("map.css")
    page = _part("map.html").replace("{{style}}", style).replace("{{land}}", _part("land.txt").strip())
    return page.replace("{{script}}", script).encode(), POLICY.format(script=_hash(script), style=_hash(style))


def _part(name: str) -> str:
    return resources.files("skerry.wire.own").joinpath("web", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
