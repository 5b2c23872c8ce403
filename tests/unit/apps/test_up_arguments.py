"""What `skerry up` accepts, what it refuses in which words, and who gets which address, directory and share."""

import inspect

import pytest

from skerry.apps.cli import up
from skerry.apps.config import DiskRates, Engines, ProgramsRules
from skerry.apps.node import market_settings
from skerry.apps.supervisor.cities import NODES_MAX, SITES_MAX, load_cities, parse_cities
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import (
    Layout,
    Options,
    controller_address,
    node_config,
    parse_disk,
    plan_layout,
    site_config,
    wanted_ports,
)
from skerry.core.policy.scale_fields import REGIONS
from skerry.core.types.resources import Resources

CITIES = load_cities()
MACHINE = Resources(cpu_millicores=2000, memory_mib=10_000, disk_mib=80_000)


def layout(cities: str = "lhr:3,cur:3,sin:2", **options: object) -> Layout:
    asked = Options(data_dir="/data", cities=cities, **options)  # type: ignore[arg-type]
    return plan_layout(asked, parse_cities(cities, CITIES), MACHINE)


def test_what_help_calls_the_default_is_the_default() -> None:
    """The command names it without reading the configuration's types at every start."""
    given = {name: one.default for name, one in inspect.signature(up).parameters.items()}
    rules = ProgramsRules()
    assert given["address_pool"] == rules.address_pool
    assert given["images_max"] == rules.images_mib_max
    assert parse_disk(given["disk_limits"]) == rules.disk
    assert (given["microvm_engine"], given["warm_microvms"]) == (rules.microvm.engine, rules.microvm.warm_machines_max)
    assert given["public_ports"] == Options(data_dir="/data", cities="lhr").public_ports


def test_the_table_knows_the_cities_of_the_world() -> None:
    assert len(CITIES) == 340
    assert {city.region for city in CITIES.values()} == set(REGIONS)
    assert all(-90 <= city.lat <= 90 and -180 <= city.lon <= 180 for city in CITIES.values())
    assert [CITIES[code].region for code in ("lhr", "waw", "jnb", "syd", "sin", "gru", "ewr", "lax", "dxb")] == [
        "weur", "eeur", "afr", "oc", "apac", "sam", "enam", "wnam", "me",
    ]  # fmt: skip
    assert CITIES["cur"].country == "CW"


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("lhr:3,cur:3,sin:2", [("lhr", 3), ("cur", 3), ("sin", 2)]),
        ("LHR", [("lhr", 1)]),
        (" lhr:1 , sin ", [("lhr", 1), ("sin", 1)]),
    ],
)
def test_cities_are_taken_in_the_order_given(text: str, asks: list[tuple[str, int]]) -> None:
    assert [(ask.city.code, ask.nodes) for ask in parse_cities(text, CITIES)] == asks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one city"),
        (",", "at least one city"),
        ("lhr:0", "1 to 100"),
        ("lhr:101", "1 to 100"),
        ("lhr:3,lhr:1", "lhr twice"),
        ("xyz:3", "'xyz'"),
        ("lhr:-1", "not CODE:NODES"),
        ("lhr:3;cur", "not CODE:NODES"),
        ("lhr:1,", "not CODE:NODES"),
        ("London", "not CODE:NODES"),
        ("lhr:²", "not CODE:NODES"),
        ("x" * 5000, "at least one city"),
        (",".join(f"{code}:1" for code in sorted(CITIES)[: SITES_MAX + 1]), f"at most {SITES_MAX}"),
        ("lhr:100,cur:100", f"at most {NODES_MAX}"),
    ],
)
def test_what_is_no_list_of_cities_is_refused_as_wrong_usage(text: str, said: str) -> None:
    with pytest.raises(UpError, match=said) as caught:
        parse_cities(text, CITIES)
    assert caught.value.code == 2
    assert caught.value.hint


def test_a_misspelt_city_is_guessed() -> None:
    for text in ("lhx:1", "london:3"):
        with pytest.raises(UpError) as caught:
            parse_cities(text, CITIES)
        assert "lhr (London)" in caught.value.hint


def test_every_site_and_node_has_an_address_of_its_own() -> None:
    planned = layout()
    assert [(site.id, site.address, site.peer_address, controller_address(site)) for site in planned.sites] == [
        ("lhr", "127.0.1.1:8080", "127.0.1.1:8081", "127.0.1.1:8082"),
        ("cur", "127.0.2.1:8080", "127.0.2.1:8081", "127.0.2.1:8082"),
        ("sin", "127.0.3.1:8080", "127.0.3.1:8081", "127.0.3.1:8082"),
    ]
    assert [(node.id, node.address) for node in planned.nodes_of(planned.sites[2].id)] == [
        ("sin-1", "127.0.3.11"),
        ("sin-2", "127.0.3.12"),
    ]
    wanted = [(one.host, one.port) for one in wanted_ports(planned)]
    assert len(set(wanted)) == len(wanted) == 2 + 3 * 4


def test_nodes_share_the_machine_and_leave_room_for_the_platform() -> None:
    planned = layout()
    assert sum(node.capacity.memory_mib for node in planned.nodes) <= MACHINE.memory_mib * 0.8
    assert sum(node.capacity.disk_mib for node in planned.nodes) <= MACHINE.disk_mib
    assert {node.capacity for node in planned.nodes} == {planned.nodes[0].capacity}
    own = layout(node_cpu_millicores=500, node_memory_mib=300).nodes[0].capacity
    assert (own.cpu_millicores, own.memory_mib) == (500, 300)


def test_a_node_promises_what_it_has_times_its_overcommit_and_divides_what_it_has() -> None:
    asked = layout(node_cpu_millicores=500, node_memory_mib=300, overcommit_cpu=2.0, overcommit_memory=1.5)
    node = asked.nodes[0]
    assert (node.capacity.cpu_millicores, node.capacity.memory_mib) == (1000, 450)
    assert (node.overcommit.cpu_percent, node.overcommit.memory_percent) == (200, 150)
    config = node_config(asked, node, Engines(workerd="w", haproxy="h", bwrap="b"))
    assert market_settings(config).market.capacity_millicores == 500
    planned = layout()
    shares = [market_settings(node_config(planned, node, Engines(workerd="w", haproxy="h", bwrap="b"))) for node in planned.nodes]
    assert sum(share.market.capacity_millicores for share in shares) <= MACHINE.cpu_millicores


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 0}, "--port 0"),
        ({"overcommit_cpu": 0.0}, "--overcommit-cpu 0"),
        ({"overcommit_memory": 65.0}, "--overcommit-memory 65"),
        ({"port": 65534}, "--port 65534"),
        ({"api_port": 65536}, "--api-port 65536"),
        ({"port": 9000, "api_port": 9000}, "both 9000"),
        ({"suffix": ""}, "--suffix"),
        ({"suffix": "a b"}, "--suffix"),
        ({"suffix": "-x.test"}, "--suffix"),
        ({"suffix": "Upper.test"}, "--suffix"),
        ({"suffix": "x\n.test"}, "--suffix"),
        ({"node_memory_mib": 0}, "memory"),
        ({"egress_allow": ("10.0.0.0/99",)}, "--allow-egress"),
        ({"answer_s_max": 0}, "--answer-seconds 0"),
    ],
)
def test_impossible_options_are_refused_as_wrong_usage(options: dict[str, object], said: str) -> None:
    with pytest.raises(UpError, match=said) as caught:
        layout(**options)
    assert caught.value.code == 2


@pytest.mark.parametrize("pool", ["8.8.8.0/16", "10.0.0.0/24", "10.0.0.1/8", "fd00::/8", "x", ""])
def test_addresses_of_programs_are_private_and_enough(pool: str) -> None:
    with pytest.raises(UpError, match="--address-pool") as caught:
        layout(programs=ProgramsRules(address_pool=pool))
    assert caught.value.code == 2


def test_what_programs_may_have_reaches_each_node() -> None:
    rules = ProgramsRules(images_mib_max=100, disk=parse_disk("1,2,3,4"), address_pool="10.96.0.0/12")
    planned = layout(programs=rules)
    configs = [node_config(planned, node, Engines(workerd="w", haproxy="h", bwrap="b")) for node in planned.nodes]
    assert {config.programs for config in configs} == {rules}
    assert rules.disk == DiskRates(read_mib_per_s=1, write_mib_per_s=2, read_ops_per_s=3, write_ops_per_s=4)
    assert parse_disk("none") is None


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "0,1,1,1", "-1,1,1,1", "1.5,1,1,1", "1,2,3,1000001", "None", "²,1,1,1"]
)
def test_what_are_no_disk_limits_is_refused_as_wrong_usage(text: str) -> None:
    with pytest.raises(UpError, match="--disk-limits") as caught:
        parse_disk(text)
    assert caught.value.code == 2


def test_a_site_knows_its_nodes_and_where_control_is() -> None:
    planned = layout(api_port=9999)
    config = site_config(planned, planned.sites[0], Engines(haproxy="/usr/sbin/haproxy"))
    assert config.nodes == ("lhr-1", "lhr-2", "lhr-3")
    assert config.control_url == "http://127.0.0.1:9999"
    assert config.shared_address == "127.0.0.1:8080"
    assert config.engines.haproxy == "/usr/sbin/haproxy"
