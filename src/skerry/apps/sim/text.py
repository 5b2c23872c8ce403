"""Reports for people."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from skerry.apps.sim.fuzzing import BROKEN_SHOWN, FuzzReport, Played
from skerry.apps.sim.report import SimReport
from skerry.apps.sim.scenario import Scenario
from skerry.apps.tables import console

OUTCOMES_SHOWN = 10


def print_broken(played: Played) -> None:
    """The end of its trace, what it broke, and how to see it again."""
    print("\n".join(played.trace))
    print(f"\nseed {played.seed} broke:")
    for found in played.found:
        print(f"  at {found.at_ms} ms: {found.title}: {found.what}")
    print(f"again: {played.again}\n", flush=True)


def print_fuzz(report: FuzzReport) -> None:
    if report.played == 1 and not report.broken:
        print(f"seed {report.first}: every promise held; trace {report.digest}")
        return
    last = report.first + report.played - 1
    print(
        f"{report.played} worlds (seeds {report.first} to {last}), {report.virtual_s / 3600:.1f} virtual hours in "
        f"{report.seconds:.0f} s ({report.seeds_per_second:.1f} a second); traces {report.digest}"
    )
    print(f"broken: {len(report.broken)}" if report.broken else "every promise held")
    for played in report.broken[:BROKEN_SHOWN]:
        print(f"  seed {played.seed}: {played.found[0].title}: {played.again}")
    if len(report.broken) > BROKEN_SHOWN:
        print(f"  and {len(report.broken) - BROKEN_SHOWN} more")


def print_report(report: SimReport) -> None:
    """The numbers of every method side by side, then what happened and whether it is as expected."""
    out = console()
    hours = report.duration_s / 3600
    out.print(f"[bold]{report.scenario}[/bold]: {report.about}")
    out.print(
        f"{report.sites} cities, {report.nodes} nodes, {report.apps} apps, {hours:g} virtual hours, requests as {report.speed}; "
        f"trace {report.digest}"
    )
    out.print(_methods(report))
    out.print(_regions(report))
    _print_events(report)
    for verdict in report.verdicts:
        mark = {True: "[green]as expected[/green]", False: "[red]NOT as expected[/red]", None: "[dim]not measured[/dim]"}
        shown = (
            "never" if verdict.value is None and verdict.met is False else "-" if verdict.value is None else f"{verdict.value:g}"
        )
        out.print(f"{mark[verdict.met]}: {verdict.what} is {shown}, expected {verdict.wanted}")
    out.print("[dim]Taken for granted: " + "; ".join(report.assumptions) + ".[/dim]")


def _methods(report: SimReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("method", "mean ms", "p50", "p95", "p99", "refused", "CPU reserved", "load", "moves", "gap"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method in report.methods:
        latency, ratios = method.latency, report.ratios.get(method.method, {})
        over = f" ({ratios['mean_ms']:.2f}×)" if "mean_ms" in ratios else ""
        table.add_row(
            method.method,
            f"{latency.mean_ms:.1f}{over}",
            f"{latency.p50_ms:.0f}",
            f"{latency.p95_ms:.0f}",
            f"{latency.p99_ms:.0f}",
            f"{method.refused_share:.3%}",
            f"{method.utilisation_cpu:.0%}",
            f"{method.serving_load:.0%}",
            f"{method.moves:,}",
            "-" if method.gap is None else f"{method.gap:.2%}",
        )
    table.caption = "(×: the platform's mean over this method's)" if len(report.methods) > 1 else None
    return table


def _regions(report: SimReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("users in", "served rps", "mean ms", "p50", "p95", "p99"):
        table.add_column(name, justify="left" if name == "users in" else "right")
    for region in report.methods[0].regions:
        latency = region.latency
        table.add_row(
            region.region,
            f"{region.served_rps:,.0f}",
            f"{latency.mean_ms:.1f}",
            f"{latency.p50_ms:.0f}",
            f"{latency.p95_ms:.0f}",
            f"{latency.p99_ms:.0f}",
        )
    return table


def _print_events(report: SimReport) -> None:
    out = console()
    for method in report.methods:
        for event in method.recoveries:
            back = "not until the next" if event.recover_ms is None else f"after {event.recover_ms / 1000:g} s"
            out.print(
                f"{method.method}: {event.event} at {event.at_ms / 60_000:g} min: at most {event.refused_share_max:.2%} refused, "
                f"as before {back}; mean {event.mean_before_ms:.1f} → {event.mean_after_ms:.1f} ms"
            )
    for end in report.methods[0].outcomes[:OUTCOMES_SHOWN]:
        out.print(
            f"{end.app} ({end.version}): {end.state} after {end.seconds:g} s, {end.cities_reached} of {end.cities} cities "
            f"({end.demand_reached:.1%} of its instances) in {end.waves} waves"
        )


def print_scenarios(found: list[Scenario]) -> None:
    table = Table(box=SIMPLE_HEAD)
    for name in ("scenario", "virtual time", "cities", "apps", "what it is about"):
        table.add_column(name)
    for item in found:
        hours = item.story.duration_ms / 3_600_000
        cities = item.world.directory or str(item.world.cities)
        table.add_row(item.name, f"{hours:g} h", cities, str(item.world.apps), item.about)
    console().print(table)


def print_scenario(item: Scenario) -> None:
    out = console()
    out.print(f"[bold]{item.name}[/bold]: {item.about}\n{item.path}")
    wish = item.world
    made = f"{wish.cities} cities, {wish.apps} apps, seed {wish.seed}, load {wish.load:g}"
    out.print(f"world: {wish.directory or made}; {item.story.duration_ms / 3_600_000:g} virtual hours")
    for event in item.story.events:
        until = f" for {event.for_ms / 60_000:g} min" if event.for_ms else ""
        out.print(f"  at {event.at_ms / 60_000:g} min: {event.title()}{until}")
    for wanted in item.expect:
        limits = [f"at most {wanted.at_most:g}"] if wanted.at_most is not None else []
        limits += [f"at least {wanted.at_least:g}"] if wanted.at_least is not None else []
        against = f" over {wanted.against} baseline's" if wanted.against else ""
        out.print(f"  expected: {wanted.what}{against} {' and '.join(limits)}")
