"""What must hold between two slices for the same place: a generation never goes back, and names one content."""

from collections import Counter

from msgspec.structs import replace

from skerry.core.types.slices import NodeSlice, SiteSlice
from skerry.kit.record import encode

Slice = SiteSlice | NodeSlice


def slice_violations(before: Slice | None, after: Slice) -> tuple[str, ...]:
    """Every promise that handing out `after` after `before` breaks; `before` None: the first one."""
    found = list(_inside(after))
    if before is None:
        return tuple(found)
    if _place(before) != _place(after):
        found.append(f"a slice for {_place(after)} follows one for {_place(before)}")
    if after.generation < before.generation:
        found.append(f"generation {after.generation} follows {before.generation}")
    if after.generation == before.generation and _content(before) != _content(after):
        found.append(f"generation {after.generation} has two contents")
    return tuple(found)


def _inside(slice_: Slice) -> list[str]:
    if isinstance(slice_, NodeSlice):
        return [f"instance {name} stands twice" for name in _repeated([entry.id for entry in slice_.instances])]
    names = [f"{app.account}/{app.app}" for app in slice_.apps]
    hosts = [host for app in slice_.apps for host in app.hosts]
    found = [f"app {name} stands twice" for name in _repeated(names)]
    found += [f"host {name} has two apps" for name in _repeated(hosts)]
    ports = [str(app.public_port) for app in slice_.apps if app.public_port is not None]
    found += [f"public port {port} has two apps" for port in _repeated(ports)]
    for app in slice_.apps:
        found += [f"version {name} stands twice in {app.app}" for name in _repeated([e.version.id for e in app.versions])]
        if slice_.site in app.fallbacks:
            found.append(f"{app.app} falls back on its own site")
    return found


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _place(slice_: Slice) -> str:
    return slice_.node if isinstance(slice_, NodeSlice) else slice_.site


def _content(slice_: Slice) -> bytes:
    return encode(replace(slice_, generation=0))
