"""What a node's network left when its agent was killed: found by the names alone, without its records."""

from pathlib import Path

from skerry.adapters.network.linux import devices, lease, namespaces, steps
from skerry.adapters.network.linux.addresses import device_prefix
from skerry.adapters.network.linux.kernel import Hands
from skerry.adapters.network.linux.settings import Places
from skerry.ports.network import NetworkError


def find(data: Path, run: Path) -> tuple[str, ...]:
    """Devices, tables and namespaces of the node whose directories these are. Blocks."""
    return namespaces.in_thread(lambda: _find(Places(data, run)))


def remove(data: Path, run: Path) -> None:
    """All of them; its processes are others' business (see `detached.kill_tagged`). Blocks. Raises `NetworkError`."""
    namespaces.in_thread(lambda: _remove(Places(data, run)))


def _find(places: Places) -> tuple[str, ...]:
    spaces = tuple(str(path) for path in sorted(places.instances.glob("*/netns")))
    try:
        hands = Hands()
    except (NetworkError, OSError):  # not root: then it made none
        return spaces
    try:
        names = devices.names_with(hands.route, device_prefix(places.tag))
        tables = (f"nftables {places.tag}",) if places.tag in lease.tags(hands.nft) else ()
        return (*names, *tables, *spaces)
    finally:
        hands.close()


def _remove(places: Places) -> None:
    hands = Hands()
    try:
        steps.remove_everything(hands, places)
    finally:
        hands.close()
