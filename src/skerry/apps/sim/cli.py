"""The commands of `skerry sim`."""

from typing import Annotated

import typer

from skerry.kit.record import encode

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
