"""The configuration that HAProxy gets."""

import msgspec
import pytest

from skerry.adapters.ingress.haproxy.config import connections, render, render_map
from skerry.adapters.ingress.haproxy.layout import Door, Layout, Server, door_name
from skerry.adapters.ingress.haproxy.settings import Limits, Settings
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Site

SITE = Site(
    id=SiteId("lhr"),
    city="Stoke d'Abernon 100%",
    country="GB",
    region="weur",
    lat=51.0,
    lon=0.0,
    address="127.0.1.1:80",
    peer_address="127.0.1.1:81",
)
SETTINGS = Settings(site=SITE, run_dir="/run/x", state_file="/s", records_dir="/r", log="/l", tag="t")
LAYOUT = Layout(app_slots=2, peer_slots=1, servers={"app0001": (Server(name="i1", address="127.0.0.1:1", weight=7),)})


def test_every_slot_is_there_with_its_servers() -> None:
    text = render(SETTINGS, LAYOUT, descriptors=20_000, root=False)
    for backend in ("app0000 from app\n", "app0001 from app\n", "peer00 from peer\n", "peer00once from peeronce\n"):
        assert f"backend {backend}" in text
    assert "(txn.seat) eq 0 }\n  server i1 127.0.0.1:1 weight 7 check " in text
    assert "uid " not in text
    assert "  uid 65534\n" in render(SETTINGS, LAYOUT, descriptors=20_000, root=True)


def test_every_public_port_is_bound_at_the_sites_own_address_alone() -> None:
    door = Door(port=30_001, account=AccountId("a"), app=AppName("db"))
    settings = msgspec.structs.replace(SETTINGS, shared=("127.0.0.1:80",))
    layout = msgspec.structs.replace(LAYOUT, doors={door_name(door): door})
    text = render(settings, layout, descriptors=20_000, root=False)
    assert [line.strip() for line in text.splitlines() if ":30001" in line] == ["bind 127.0.1.1:30001"]
    assert "accept-proxy" not in text.split("frontend tcpagain")[0]
    assert "frontend tcppeers" not in text, "it has no address for that"
    site = msgspec.structs.replace(SITE, peer_tcp_address="127.0.1.1:83")
    assert "bind 127.0.1.1:83 accept-proxy" in render(
        msgspec.structs.replace(settings, site=site), LAYOUT, descriptors=20_000, root=False
    )


def test_a_city_may_be_called_anything() -> None:
    text = render(SETTINGS, LAYOUT, descriptors=20_000, root=False)
    assert "Stoke d\\u0027Abernon 100%%" in text


def test_connections_leave_descriptors_for_the_rest() -> None:
    assert connections(Limits(), 1 << 20) == Limits().connections_max
    assert 2 * connections(Limits(), 20_000) < 18_000
    assert 2 * connections(Limits(), 20_000, servers=3_000) < 15_000
    assert connections(Limits(), 256) == 100


def test_maps_are_sorted_lines() -> None:
    assert render_map({"b": "2", "a": "1"}) == "a 1\nb 2\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_dir", "/a b"),
        ("run_dir", "/" + "x" * 90),
        ("run_dir", "relative"),
        ("shared", ("localhost:1",)),
        ("shared", ("1.1.1.1",)),
    ],
)
def test_settings_that_would_not_be_understood_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"run_dir|address"):
        msgspec.structs.replace(SETTINGS, **{field: value})
