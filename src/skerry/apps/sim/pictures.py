"""A report as pictures: what users had over time, and where on the world. Drawn with matplotlib, which nothing else needs."""

# pyright: reportUnknownMemberType=false
# Its keyword arguments have no types.

import re
from importlib.resources import files
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from skerry.apps.sim.report import SimReport

MINUTE_MS = 60_000
TIME_INCHES, MAP_INCHES = (11.0, 8.0), (11.0, 6.3)
DPI = 120
DOT_AREA_MAX = 260.0  # square points, of the place with the most demand
SLOW_MS = 200.0  # from here on a place has the map's last colour
_STEP = re.compile(r"([MmlLhvz])([^MmlLhvz]*)")
_NUMBER = re.compile(r"-?\d*\.?\d+")


def draw(report: SimReport, directory: Path) -> tuple[Path, Path]:
    """Writes `NAME-time.png` and `NAME-map.png` into a directory that is there. Raises `OSError`."""
    written = directory / f"{report.scenario}-time.png", directory / f"{report.scenario}-map.png"
    for path, figure in zip(written, (over_time(report), on_the_map(report)), strict=True):
        figure.savefig(path, dpi=DPI)
    return written


def over_time(report: SimReport) -> Figure:
    """Latency, what was refused and instances, a line for each method; events as dotted lines with their names."""
    figure = Figure(figsize=TIME_INCHES, layout="constrained")
    mean, p95, refused, instances = figure.subplots(4, 1, sharex=True)
    figure.suptitle(f"{report.scenario}: {report.about}")
    for method in report.methods:
        minutes = [point.at_ms / MINUTE_MS for point in method.points] + [report.duration_s / 60]
        columns = (
            (mean, [point.latency.mean_ms for point in method.points]),
            (p95, [point.latency.p95_ms for point in method.points]),
            (refused, [100 * point.refused_rps / point.offered_rps if point.offered_rps else 0.0 for point in method.points]),
            (instances, [float(point.instances) for point in method.points]),
        )
        for axes, values in columns:
            axes.step(minutes, [*values, *values[-1:]], where="post", label=method.method, linewidth=1.2)
    for axes, name in ((mean, "mean, ms"), (p95, "p95, ms"), (refused, "refused, %"), (instances, "instances")):
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        for event in report.methods[0].recoveries:
            axes.axvline(event.at_ms / MINUTE_MS, linestyle=":", color="black", linewidth=0.8)
    for event in report.methods[0].recoveries:
        where = (event.at_ms / MINUTE_MS, mean.get_ylim()[1])
        mean.annotate(event.event, where, fontsize=8, va="top", xytext=(3, -2), textcoords="offset points")
    mean.legend(loc="upper right", fontsize=8)
    instances.set_xlabel("virtual minutes")
    return figure


def on_the_map(report: SimReport) -> Figure:
    """Users by metro, over the whole run: area by demand, colour by mean latency, a ring where some were refused."""
    figure = Figure(figsize=MAP_INCHES, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(f"{report.scenario}: {report.methods[0].method}, mean latency of each metro's users")
    axes.set_facecolor("#eef3f7")
    _land(axes)
    asked = sorted((place for place in report.places if place.offered_rps > 0), key=lambda place: -place.offered_rps)
    most = asked[0].offered_rps if asked else 1.0
    areas = [6.0 + DOT_AREA_MAX * place.offered_rps / most for place in asked]
    lons, lats = [place.lon for place in asked], [place.lat for place in asked]
    shown = axes.scatter(
        lons, lats, s=areas, c=[place.mean_ms for place in asked], cmap="viridis", vmin=0, vmax=SLOW_MS, alpha=0.85, linewidths=0
    )
    short = [at for at, place in enumerate(asked) if place.refused_share > 0.001]
    rings = [areas[at] + 25 for at in short]
    axes.scatter([lons[at] for at in short], [lats[at] for at in short], s=rings, facecolors="none", edgecolors="red")
    figure.colorbar(
        shown, ax=axes, orientation="horizontal", shrink=0.5, pad=0.02, label="mean ms; red ring: above 0.1 % refused"
    )
    axes.set_xlim(-180, 180)
    axes.set_ylim(-60, 85)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect(1.2)
    return figure


def _land(axes: Axes) -> None:
    """The outlines of the control's map: each line a ring of relative steps over x = lon + 180, y = 90 - lat."""
    for line in files("skerry.wire.own").joinpath("web/land.txt").read_text("ascii").splitlines():
        ring = _points(line)
        if len(ring) > 2:
            axes.add_patch(PathPatch(Outline(ring, closed=True), facecolor="#d9d4c7", edgecolor="none"))


def _points(line: str) -> list[tuple[float, float]]:
    x = y = 0.0
    found: list[tuple[float, float]] = []
    for step, words in _STEP.findall(line):
        numbers = [float(word) for word in _NUMBER.findall(words)]
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=False):
            x, y = (dx, dy) if step in "ML" else (x + dx, y + dy)
            found.append((x - 180, 90 - y))
    return found
