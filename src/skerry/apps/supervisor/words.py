"""Texts that more than one screen shows."""

from skerry.apps.supervisor.layout import Layout, default_data_dir
from skerry.core.types.view import AppView


def urls_of(layout: Layout, app: AppView) -> list[tuple[str, str]]:
    """(city code, how to reach the app there) for every city."""
    if app.public_port is not None:
        return [(site.id, f"tcp://{site.address.rpartition(':')[0]}:{app.public_port}") for site in layout.sites]
    host = app.url.removeprefix("http://").rpartition(":")[0] or app.url.removeprefix("http://")
    port = layout.options.port
    return [(site.id, f"curl --connect-to ::{site.address} http://{host}:{port}/") for site in layout.sites]


def env_line(layout: Layout) -> str:
    """The one line that points wrangler at this platform."""
    option = "" if layout.data == default_data_dir() else f" --data-dir {layout.data}"
    return f'eval "$(skerry env{option})"'


def exit_text(status: int | None) -> str:
    if status is None:
        return "unknown"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
