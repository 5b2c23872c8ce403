"""Reports for people."""

from skerry.apps.sim.fuzzing import BROKEN_SHOWN, FuzzReport, Played


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
