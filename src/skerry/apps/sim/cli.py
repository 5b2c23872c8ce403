"""The commands of `skerry sim`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.kit.record import encode

if TYPE_CHECKING:
    from skerry.apps.sim.report import SimReport

app = typer.Typer(help="Rehearse a platform in virtual time.", no_args_is_help=True, rich_markup_mode=None)

SEEDS_MAX = 10_000_000
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command(epilog="Example: skerry sim fuzz --seeds 2000 --jobs 2")
def fuzz(
    *,
    seeds: Annotated[int, typer.Option(min=1, max=SEEDS_MAX, help="How many random worlds.")] = 100,
    first: Annotated[int, typer.Option("--from", min=0, metavar="SEED", help="The first seed.")] = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes side by side.", show_default="one for each CPU")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Begin no seed after so long.")] = None,
    trace_lines: Annotated[int, typer.Option(min=1, max=100_000, help="Lines to show of a broken seed's trace.")] = 60,
    json: JsonOption = False,
) -> None:
    """Play random worlds with random faults against the platform's promises. Exit status 1: one was broken."""
    from skerry.apps.sim import fuzzing
    from skerry.apps.sim.progress import progress
    from skerry.apps.sim.text import print_broken, print_fuzz

    workers = min(jobs or fuzzing.jobs_default(), seeds)
    with progress("worlds", seeds, quiet=json) as bar:

        def on_played(played: fuzzing.Played) -> None:
            bar.advance()
            if played.found and not json:
                print_broken(played)

        report = fuzzing.play_many(first, seeds, jobs=workers, minutes=minutes, trace_lines=trace_lines, on_played=on_played)
    if json:
        print(encode(report).decode(), flush=True)
    else:
        print_fuzz(report)
    raise typer.Exit(1 if report.broken else 0)


@app.command(epilog="Example: skerry sim run city-lost --baseline all")
def run(
    scenario: Annotated[str, typer.Argument(help="A file, or the name of a shipped scenario (`skerry sim list`).")],
    *,
    world: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A world directory instead of the scenario's.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the made world, instead of the scenario's.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Play this too: karmada, nomad, nearest, everywhere, or all. May be repeated."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write PNGs there: what users had over time, and on the map.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Play a scenario in virtual time. Exit status 1: something is not as the scenario expects."""
    from msgspec.structs import replace

    from skerry.apps.sim import run as module
    from skerry.apps.sim.progress import progress
    from skerry.apps.sim.scenario import find, read
    from skerry.apps.sim.text import print_report

    draw = _artist(pictures) if pictures is not None else None
    found = read(find(scenario))
    found = replace(found, world=replace(found.world, seed=found.world.seed if seed is None else seed))
    methods = module.methods_of(tuple(baseline or ()))
    problem = module.world_of(found.world, world)
    with progress(found.name, float(len(methods)), quiet=json) as bar:
        report = module.play(found, problem, methods, lambda name, share: bar.advance(share, f"{found.name}: {name}"))
    if json:
        print(encode(report).decode(), flush=True)
    else:
        print_report(report)
    if draw is not None and pictures is not None:
        for path in draw(report, pictures):
            print(path, file=sys.stderr)
    raise typer.Exit(1 if report.failed else 0)


def _artist(directory: Path) -> "Callable[[SimReport, Path], tuple[Path, ...]]":
    """What keeps it from drawing is told before the long run, not after it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        from skerry.apps.sim.pictures import draw
    except ImportError as error:
        raise typer.BadParameter(f"pictures need matplotlib ({error}): pip install matplotlib, or make setup-dev") from error
    except OSError as error:
        raise typer.BadParameter(f"pictures cannot be written to {directory}: {error.strerror}") from error
    return draw


@app.command("list", epilog="Example: skerry sim list")
def list_(json: JsonOption = False) -> None:
    """List the shipped scenarios."""
    from skerry.apps.sim.scenario import read, shipped
    from skerry.apps.sim.text import print_scenarios

    found = [read(path) for path in shipped()]
    if json:
        print(encode(found).decode(), flush=True)
    else:
        print_scenarios(found)


@app.command(epilog="Example: skerry sim show city-lost")
def show(
    scenario: Annotated[str, typer.Argument(help="A file, or the name of a shipped scenario.")], json: JsonOption = False
) -> None:
    """Check a scenario and tell what is in it."""
    from skerry.apps.sim.scenario import find, read
    from skerry.apps.sim.text import print_scenario

    found = read(find(scenario))
    if json:
        print(encode(found).decode(), flush=True)
    else:
        print_scenario(found)
