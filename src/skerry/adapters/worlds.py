"""Worlds on disk, the tables of the world that ship with the package, and worlds made from them.

problem = make_problem(cities=20, apps=50, seed=7, nodes_of_london=40, node_scale=0.125)
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path

from skerry.core.geo.cities import parse_cities_csv
from skerry.core.geo.demand import parse_users_csv
from skerry.core.placement.solve.solution import Solution
from skerry.core.types.problem import Problem
from skerry.core.worlds.faults import WorldError, meant
from skerry.core.worlds.generate import LOAD_DEFAULT, Catalogue, WorldAsk
from skerry.core.worlds.generate import make_problem as make
from skerry.core.worlds.ground import NODES_OF_LONDON
from skerry.core.worlds.plans import parse_plan
from skerry.core.worlds.read import FILES, parse_world
from skerry.core.worlds.tables import LINE_BYTES_MAX
from skerry.core.worlds.write import format_world

BYTES_MAX = 8 << 30  # of one file


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
    shared: float = 0.0,
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
        shared=shared,
    )
    return make(ask, load_catalogue())


def read_world(directory: Path) -> Problem:
    """Raises `WorldError` at the first mistake, with file, line and field."""
    if not directory.is_dir():
        raise WorldError(str(directory), 0, "", "is no directory; a world is one: `skerry world make --out DIR` makes an example")
    strange = sorted(path.name for path in directory.iterdir() if path.suffix in (".csv", ".jsonl") and path.name not in FILES)
    if strange:
        raise WorldError(strange[0], 0, "", f"is no file of a world; {meant(strange[0], FILES)}")
    return parse_world(lambda name: _open(directory / name))


def write_world(problem: Problem, directory: Path) -> None:
    """Write every file of a world; the directory is made. Each file is whole or not there. Raises `WorldError`."""
    with _said_where(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, lines in format_world(problem):
            _write(directory / name, lines)


def read_plan(path: Path, problem: Problem) -> Solution:
    """Raises `WorldError` where the file cannot be read, is no plan, or is of another world."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise WorldError(path.name, 0, "", f"has more than {BYTES_MAX} bytes")
        return parse_plan(path.name, path.read_bytes(), problem)
    except OSError as error:
        raise WorldError(str(path), 0, "", f"cannot be read: {error.strerror}; `skerry place` writes one") from error


def write_plan(path: Path, lines: Iterable[bytes]) -> None:
    """The file is whole or not there. Raises `WorldError`."""
    with _said_where(path):
        _write(path, lines)


@contextmanager
def _said_where(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise WorldError(str(path), 0, "", f"cannot be written: {error.strerror}; --out names another place") from error


def _write(path: Path, lines: Iterable[bytes]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines(lines)
    part.replace(path)


def _open(path: Path) -> Iterator[bytes] | None:
    if not path.exists():
        return None
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WorldError(path.name, 0, "", f"cannot be read: {error.strerror}") from error
    if size > BYTES_MAX:
        raise WorldError(path.name, 0, "", f"has {size} bytes; at most {BYTES_MAX}")
    return _read(path)


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX + 1):
                yield line
    except OSError as error:
        raise WorldError(path.name, 0, "", f"cannot be read: {error.strerror}") from error


def _lines(name: str) -> list[str]:
    return resources.files("skerry.data").joinpath(name).read_text("utf-8").splitlines()
