"""What `skerry world` prints."""

import numpy as np

from skerry.core.types.problem import Problem
from skerry.kit.record import Record, encode


class WorldCounts(Record):
    """A world in numbers. `load` is the share of all capacity, less reserves, that the demand takes (the scarcer of cpu and
    memory), counting parts of instances."""

    world: str
    sites: int
    nodes: int
    largest: str
    smallest: str
    metros: int
    apps: int
    data: int
    demand_rps: float
    demand_entries: int
    load: float
    pairs: int
    modelled_pairs: int
    seconds: float


def counts(problem: Problem, world: str, seconds: float) -> WorldCounts:
    by_size = sorted(problem.sites, key=lambda site: (site.nodes, site.id))
    measured = int(problem.rtt_measured.sum()) + int(problem.site_rtt_measured.sum())
    pairs = problem.rtt_measured.size + problem.site_rtt_measured.size
    return WorldCounts(
        world=world,
        sites=len(problem.sites),
        nodes=sum(site.nodes for site in problem.sites),
        largest=f"{by_size[-1].name} ({by_size[-1].nodes} nodes)",
        smallest=f"{by_size[0].name} ({by_size[0].nodes} nodes)",
        metros=len(problem.metros),
        apps=len(problem.apps),
        data=len(problem.data),
        demand_rps=round(float(problem.demand.rps.sum()), 3),
        demand_entries=len(problem.demand.rps),
        load=round(load_of(problem), 4),
        pairs=pairs,
        modelled_pairs=pairs - measured,
        seconds=round(seconds, 3),
    )


def load_of(problem: Problem) -> float:
    """Share of all capacity that the demand takes: the scarcer of cpu and memory."""
    need, have = np.zeros(2), np.zeros(2)
    start = problem.demand.start
    rps = np.add.reduceat(np.append(problem.demand.rps, 0.0), start[:-1]) if problem.apps else np.zeros(0)
    for app, total, empty in zip(problem.apps, rps.tolist(), (start[1:] == start[:-1]).tolist(), strict=True):
        instances = max(0.0 if empty else total / app.rps_per_instance, app.min_total)
        need += instances * np.array([app.reserve.cpu_millicores, app.reserve.memory_mib])
    for site in problem.sites:
        have += site.nodes * (1.0 - site.reserve) * np.array([site.node.cpu_millicores, site.node.memory_mib])
    return float((need / have).max())


def print_counts(said: WorldCounts, *, json: bool) -> None:
    if json:
        print(encode(said).decode())
        return
    print(f"{said.world}: {said.sites} sites with {said.nodes:,} nodes, from {said.smallest} to {said.largest}")
    print(f"  {said.metros} metros; {_trips(said)}")
    print(
        f"  {said.apps:,} apps with {said.demand_rps:,.0f} requests per second ({said.load:.0%} of capacity); {said.data:,} data"
    )
    print(f"  {said.seconds:.1f} s")


def _trips(said: WorldCounts) -> str:
    if said.modelled_pairs == said.pairs:
        return f"all {said.pairs:,} round trips modelled"
    return f"{said.pairs - said.modelled_pairs:,} of {said.pairs:,} round trips measured, the others modelled"
