"""Whom a program may call."""

import pytest

from skerry.core.policy.reach import may_ask, permits, policy_faults, reach_of
from skerry.core.types.program import NetworkPolicy


@pytest.mark.parametrize(
    ("policy", "networks", "names"),
    [
        (NetworkPolicy(), None, ()),
        (NetworkPolicy(allow=("1.2.3.4/32",)), None, ()),
        (NetworkPolicy(internet=False), (), ()),
        (NetworkPolicy(internet=False, allow=("1.2.3.4/32", "Example.ORG.")), ("1.2.3.4/32",), ("example.org",)),
        (NetworkPolicy(only_allowed=True, allow=("1.0.0.0/8", "1.2.3.4", "::1/128")), ("1.0.0.0/8",), ()),
        (NetworkPolicy(only_allowed=True), (), ()),
    ],
)
def test_reach(policy: NetworkPolicy, networks: tuple[str, ...] | None, names: tuple[str, ...]) -> None:
    reach = reach_of(policy)
    assert (reach.networks, reach.names) == (networks, names)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("example.org", True),
        ("EXAMPLE.org.", True),
        ("www.example.org", False),
        ("a.example.net", True),
        ("a.b.example.net", True),
        ("example.net", False),
        ("badexample.net", False),
        ("example.org.evil.com", False),
    ],
)
def test_names_that_may_be_asked(name: str, allowed: bool) -> None:
    assert may_ask(reach_of(NetworkPolicy(only_allowed=True, allow=("example.org", "*.example.net"))), name) is allowed


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.168.0.1", "100.100.100.200", "224.0.0.1",
     "255.255.255.255", "0.0.0.0", "198.18.0.1", "192.0.0.192", "192.88.99.1"],
)  # fmt: skip
def test_what_is_not_public_is_the_operators_to_open(address: str) -> None:
    assert not permits((), address)
    assert permits((f"{address}/32",), address)


def test_public_addresses_are_permitted() -> None:
    assert all(permits((), address) for address in ("8.8.8.8", "1.1.1.1", "172.32.0.1", "100.63.255.255", "11.0.0.1"))


@pytest.mark.parametrize("entry", ["", "example", "exa mple.org", "-a.org", "10.0.0.0/33", "*.org.*", "1.2.3", "a" * 64 + ".org"])
def test_entries_that_are_no_networks_and_no_names(entry: str) -> None:
    assert list(policy_faults(NetworkPolicy(only_allowed=True, allow=(entry,))))


def test_good_policies() -> None:
    assert not list(policy_faults(NetworkPolicy(only_allowed=True, allow=("10.0.0.0/8", "example.org", "*.s3.example.org"))))
    assert list(policy_faults(NetworkPolicy(egress_kbits_max=0)))
    assert list(policy_faults(NetworkPolicy(only_allowed=True, allow=("1.1.1.1",) * 65)))
    assert list(policy_faults(NetworkPolicy(only_allowed=True, allow=("2001:db8::/32",))))
    assert list(policy_faults(NetworkPolicy(allow=("example.org",))))
