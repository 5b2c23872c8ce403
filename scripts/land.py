#!/usr/bin/env python3
"""Write the outlines of the continents that the map is drawn on: `land.py land-110m.json`.

The input is TopoJSON of Natural Earth's 1:110m land (public domain), as npm's `world-atlas` 2.0.2 has it. The output is one
SVG path over degrees, x = longitude + 180 and y = 90 - latitude, rounded to a tenth of a degree (11 km).
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "src/skerry/wire/own/web/land.txt"
TURN = 3600  # tenths of a degree
SOUTH_MAX_TENTHS = 1500  # Antarctica below 60° S is left out: nobody is served there
Point = tuple[int, int]


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    topology = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    arcs = [decoded(arc, topology["transform"]) for arc in topology["arcs"]]
    polygons = [polygon for geometry in topology["objects"]["land"]["geometries"] for polygon in geometry["arcs"]]
    rings = [part for polygon in polygons for ring in polygon for part in unwrapped(outline(ring, arcs))]
    shown = [ring for ring in rings if len(ring) > 3 and min(y for _, y in ring) < SOUTH_MAX_TENTHS]
    OUT.write_text("\n".join(map(path, shown)) + "\n", "ascii")
    print(f"{OUT}: {len(shown)} outlines, {OUT.stat().st_size} bytes")
    return 0


def decoded(arc: list[list[int]], transform: dict[str, list[float]]) -> list[Point]:
    """A TopoJSON arc holds steps from point to point, in units of its own."""
    (scale_x, scale_y), (left, bottom) = transform["scale"], transform["translate"]
    points, x, y = [], 0, 0
    for step_x, step_y in arc:
        x, y = x + step_x, y + step_y
        points.append((round((x * scale_x + left + 180) * 10), round((90 - y * scale_y - bottom) * 10)))
    return points


def outline(ring: list[int], arcs: list[list[Point]]) -> list[Point]:
    """The ring's arcs end to end (~n is arc n backwards), without points that rounding put on top of each other."""
    points: list[Point] = []
    for number in ring:
        for point in arcs[number] if number >= 0 else reversed(arcs[~number]):
            if not points or points[-1] != point:
                points.append(point)
    return points


def unwrapped(ring: list[Point]) -> list[list[Point]]:
    """The ring in one piece, beyond the edge where it crosses 180°, and then once more at the other edge."""
    points, turn = [ring[0]], 0
    for (before, _), (x, y) in pairwise(ring):
        turn += TURN * ((before - x > TURN / 2) - (x - before > TURN / 2))
        points.append((x + turn, y))
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    shifts = [0, *([-TURN] if high > TURN else []), *([TURN] if low < 0 else [])]
    return [[(x + shift, y) for x, y in points] for shift in shifts]


def path(ring: list[Point]) -> str:
    """In steps, which are shorter than positions."""
    steps = [f"M{number(ring[0][0])} {number(ring[0][1])}l"]
    for (x, y), (next_x, next_y) in pairwise(ring[:-1]):
        steps.append(f"{number(next_x - x)} {number(next_y - y)} ")
    return "".join(steps).rstrip().replace(" -", "-") + "z"


def number(tenths: int) -> str:
    text = f"{tenths / 10:g}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


if __name__ == "__main__":
    sys.exit(main())
