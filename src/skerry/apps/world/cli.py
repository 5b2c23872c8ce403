"""`skerry world`: make a world as files that anybody can edit, and check one."""

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Worlds for placement, as files.", no_args_is_help=True, rich_markup_mode=None)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CITIES_MAX = 340


@app.command(
    "make", epilog="Example: skerry world make --out my-world --cities 20 --apps 100\n\nThen: skerry world check my-world"
)
def make(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go; what a world there says is replaced.")],
    cities: Annotated[int, typer.Option(min=1, max=CITIES_MAX, help="How many; London and Curaçao first.")] = CITIES_MAX,
    apps: Annotated[int, typer.Option(min=0, max=500_000, help="How many.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Another seed, other apps in the same cities.")] = 1,
    load: Annotated[float, typer.Option(min=0.0, max=10.0, help="Share of all capacity that the busiest hour takes.")] = 0.7,
    hour: Annotated[
        float | None, typer.Option(min=0.0, max=24.0, help="Hour of the day (UTC).", show_default="the busiest")
    ] = None,
    london: Annotated[int, typer.Option(min=1, max=100_000, help="Nodes of London; other cities follow.")] = 2_000,
    node_scale: Annotated[float, typer.Option(min=0.001, max=100.0, help="How large nodes are, against 32 to 128 cores.")] = 1.0,
    shared: Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of the apps that call another app's data as well.")] = 0.0,
    json: JsonOption = False,
) -> None:
    """Write a world: cities as large as their users make them, round trips, apps with their demand.

    It uses the packaged tables: 340 cities and their internet users by time zone; round trips are modelled. The same
    options give the same files.
    """
    from skerry.adapters.worlds import make_problem, write_world
    from skerry.apps.world.text import counts, print_counts

    began = time.monotonic()
    problem = make_problem(
        cities=cities,
        apps=apps,
        seed=seed,
        load=load,
        hour=hour,
        nodes_of_london=london,
        node_scale=node_scale,
        shared=shared,
    )
    write_world(problem, out)
    print_counts(counts(problem, str(out), time.monotonic() - began), json=json)


@app.command("check", epilog="Example: skerry world check my-world")
def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The world.")],
    json: JsonOption = False,
) -> None:
    """Read a world: say what is in it, or the first mistake with its file, line and field."""
    from skerry.adapters.worlds import read_world
    from skerry.apps.world.text import counts, print_counts

    began = time.monotonic()
    problem = read_world(directory)
    print_counts(counts(problem, str(directory), time.monotonic() - began), json=json)
