"""A world directory's files into a `Problem`. Files come as lines of bytes: whoever calls does the reading."""

from collections.abc import Callable, Iterable

from skerry.core.types.problem import Problem, Weights
from skerry.core.worlds.applines import APPS, DATA, WEIGHTS, Known, parse_apps, parse_data, parse_weights
from skerry.core.worlds.faults import refuse
from skerry.core.worlds.places import METROS, RTT, SITES, parse_metros, parse_rtts, parse_sites

FILES = (SITES, METROS, RTT, APPS, DATA, WEIGHTS)
NEEDED = (SITES, METROS, APPS)
WEIGHTS_LINES_MAX = 1_000

Open = Callable[[str], Iterable[bytes] | None]


def parse_world(open_file: Open) -> Problem:
    """`open_file` gives the lines of a file of `FILES`, None where there is no such file; `NEEDED` have to be there.

    Raises `WorldError` at the first mistake, with file, line and field.
    """
    sites = parse_sites(_needed(open_file, SITES))
    metros = parse_metros(_needed(open_file, METROS))
    trips = parse_rtts(open_file(RTT) or (b"from,to,rtt_ms\n",), sites, metros)
    data = parse_data(open_file(DATA) or (), sites)
    apps, demand = parse_apps(_needed(open_file, APPS), Known.of(sites, metros, data))
    return Problem(
        sites=sites,
        metros=metros,
        rtt_ms=trips.rtt_ms,
        rtt_measured=trips.rtt_measured,
        site_rtt_ms=trips.site_rtt_ms,
        site_rtt_measured=trips.site_rtt_measured,
        apps=apps,
        demand=demand,
        data=data,
        weights=_weights(open_file(WEIGHTS)),
    )


def _weights(lines: Iterable[bytes] | None) -> Weights:
    if lines is None:
        return Weights()
    text = list(lines)
    if len(text) > WEIGHTS_LINES_MAX:
        refuse(WEIGHTS, 0, "", f"has more than {WEIGHTS_LINES_MAX} lines")
    return parse_weights(b"".join(text))


def _needed(open_file: Open, name: str) -> Iterable[bytes]:
    lines = open_file(name)
    if lines is None:
        refuse(name, 0, "", f"is not there; a world has {', '.join(NEEDED)}, and may have {RTT}, {DATA}, {WEIGHTS}")
    return lines
