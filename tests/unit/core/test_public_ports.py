"""Ranges of public ports as operators write them, and which one an app is given."""

import pytest

from skerry.core.policy.public_ports import free_port, holds, parse_ports, shown


@pytest.mark.parametrize("text", ["", "5432", "30000-30999", "5432,6379,30000-30999", "1-1,65535"])
def test_what_is_read_is_shown_again(text: str) -> None:
    assert shown(parse_ports(text)) == text.replace("1-1", "1")


def test_ranges_are_in_order_and_hold_their_ends() -> None:
    ranges = parse_ports(" 20-22 , 7")
    assert shown(ranges) == "7,20-22"
    assert [port for port in range(1, 30) if holds(ranges, port)] == [7, 20, 21, 22]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "neither a port nor a range"),
        ("1-2-3", "neither a port nor a range"),
        ("0", "not within 1 to 65535"),
        ("65536", "not within"),
        ("9-8", "ends before it begins"),
        ("1-5,5-9", "1-5 and 5-9 overlap"),
        ("1-10001", "more than 10,000 ports"),
        (",".join(str(port) for port in range(1, 35)), "at most 32"),
    ],
)
def test_what_is_no_list_of_ports_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_ports(text)


def test_an_app_is_given_the_first_free_port_from_its_own_place_on_and_around_once() -> None:
    ranges = parse_ports("7,20-22")
    assert [free_port(ranges, (), start=start) for start in range(5)] == [7, 20, 21, 22, 7]
    assert free_port(ranges, {22, 7}, start=3) == 20
    assert free_port(ranges, {7, 20, 21, 22}, start=1) is None
    assert free_port((), (), start=1) is None
