"""The files an ingress comes back from. What decides is `state_file`, one atomic write; the others follow from it."""

import os
import resource
from pathlib import Path

from skerry.adapters.ingress.haproxy.config import render, render_map
from skerry.adapters.ingress.haproxy.layout import Assignment, Door, Layout, door_name
from skerry.adapters.ingress.haproxy.plan import MAPS
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.core.types.ids import AccountId, AppName
from skerry.kit.hashing import content_digest
from skerry.kit.record import Record, decode, encode


class State(Record):
    """The last table applied, in HAProxy's terms."""

    assignment: Assignment
    layout: Layout


def read_state(settings: Settings) -> State | None:
    """None if there is none yet, or one of another version of ours: the table will be applied anew."""
    try:
        return decode(Path(settings.state_file).read_bytes(), State)
    except (FileNotFoundError, ValueError):
        return None


def write_state(settings: Settings, state: State) -> None:
    """Durable when it returns: the state is synced, and what HAProxy reads is replaced file by file."""
    path = Path(settings.state_file)
    _replace(path, encode(state), sync=True)
    write_derived(settings, state.layout)


def write_derived(settings: Settings, layout: Layout) -> None:
    """The maps before the configuration that names them."""
    for name in MAPS:
        _replace(Path(settings.map_file(name)), render_map(getattr(layout, name)).encode(), sync=False)
    doors = {str(door.port): name for name, door in layout.doors.items()}
    _replace(Path(settings.map_file("doors")), render_map(doors).encode(), sync=False)
    _replace(Path(settings.config_file), _config(settings, layout).encode(), sync=False)


def fixed_digest(settings: Settings) -> str:
    """Changes when anything but the table does: then a running HAProxy has to read its file anew."""
    one = Door(port=1, account=AccountId(""), app=AppName(""))
    return content_digest(_config(settings, Layout(app_slots=1, peer_slots=1, doors={door_name(one): one})).encode())


def make_directories(settings: Settings) -> None:
    for directory in (
        settings.run_dir,
        settings.records_dir,
        str(Path(settings.state_file).parent),
        str(Path(settings.log).parent),
    ):
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_derived(settings: Settings) -> None:
    """All that only a running HAProxy needs."""
    for name in (settings.config_file, settings.map_file("doors"), *map(settings.map_file, MAPS)):
        Path(name).unlink(missing_ok=True)
    remove_sockets(settings)


def remove_sockets(settings: Settings) -> None:
    """Of a HAProxy that is no more: one killed leaves them, and killed while it binds also `NAME.PID.tmp` and `.bak`."""
    for socket in map(Path, (settings.stats_socket, settings.master_socket, settings.metrics_socket)):
        for path in (socket, *socket.parent.glob(f"{socket.name}.*.tmp"), *socket.parent.glob(f"{socket.name}.*.bak")):
            path.unlink(missing_ok=True)


def _config(settings: Settings, layout: Layout) -> str:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return render(settings, layout, descriptors=descriptors, root=os.geteuid() == 0)


def _replace(path: Path, data: bytes, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.rename(path)
    if sync:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
