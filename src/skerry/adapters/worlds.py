"""The tables of the world that ship with the package, and worlds made from them.

problem = make_problem(cities=20, apps=50, seed=7, nodes_of_london=40, node_scale=0.125)
"""

from functools import cache
from importlib import resources

from skerry.core.geo.cities import parse_cities_csv
from skerry.core.geo.demand import parse_users_csv
from skerry.core.types.problem import Problem
from skerry.core.worlds.generate import LOAD_DEFAULT, Catalogue, WorldAsk
from skerry.core.worlds.generate import make_problem as make
from skerry.core.worlds.ground import NODES_OF_LONDON


@cache
def load_catalogue() -> Catalogue:
    """Edge cities and their users."""
    return Catalogue(
        cities=parse_cities_csv(_lines("edge-cities.csv")),
        users=parse_users_csv(_lines("metro-users.csv")),
    )


def make_problem(
    *,
    cities: int = 340,
    apps: int = 1_000,
    seed: int = 1,
    load: float = LOAD_DEFAULT,
    hour: float | None = None,
    metros: int | None = None,
    nodes_of_london: int = NODES_OF_LONDON,
    node_scale: float = 1.0,
) -> Problem:
    """A made world, from the packaged tables alone; see `WorldAsk` for what each argument means. Deterministic."""
    ask = WorldAsk(
        cities=cities,
        apps=apps,
        seed=seed,
        load=load,
        hour=hour,
        metros=metros,
        nodes_of_london=nodes_of_london,
        node_scale=node_scale,
    )
    return make(ask, load_catalogue())


def _lines(name: str) -> list[str]:
    return resources.files("skerry.data").joinpath(name).read_text("utf-8").splitlines()
