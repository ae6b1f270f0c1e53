"""How figures are shown: one table for the terminal, and charts that can be read on light and on dark."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from bench.measure import Figure, Sample

HEADS = ("", "MEASURED", "MIDDLE HALF", "FLOOR OR PEER", "FACTOR", "AIM", "")
PAGE, LABEL = 110, 52  # characters
WIDTH, LEFT, RIGHT = 796, 366, 100
STYLE = """\
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.title { font-size: 15px; font-weight: 600 }
.line { stroke: #8c959f; stroke-width: 1 }
.a { fill: #0969da; stroke: #0969da }
.b { fill: #8c959f; stroke: #8c959f }
.c { fill: #bc4c00; stroke: #bc4c00 }
.d { fill: #1a7f37; stroke: #1a7f37 }
.e { fill: #8250df; stroke: #8250df }
.bad { fill: #cf222e; stroke: #cf222e }
path { fill: none !important }
path:not(.line) { stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.line { stroke: #656c76 }
.a { fill: #4493f8; stroke: #4493f8 }
.b { fill: #9198a1; stroke: #9198a1 }
.c { fill: #db6d28; stroke: #db6d28 }
.d { fill: #3fb950; stroke: #3fb950 }
.e { fill: #ab7df8; stroke: #ab7df8 }
.bad { fill: #f85149; stroke: #f85149 }
}
</style>"""


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def verdict(figure: Figure) -> str:
    """Whether the aim is met, in a word."""
    return "" if figure.met is None else "met" if figure.met else "MISSED"


def table(figures: Sequence[Figure]) -> str:
    """All figures as text, by family."""
    families = list(dict.fromkeys(figure.family for figure in figures))
    figures = sorted(figures, key=lambda figure: families.index(figure.family))
    rows = [HEADS]
    for figure in figures:
        value, floor, factor = figure.value, figure.floor, figure.factor
        middle = f"{number(value.low)} - {number(value.high)}" if value.count > 1 else ""
        rows.append(
            (
                f"  {figure.name}",
                f"{number(value.median)} {figure.unit}",
                middle,
                "" if floor is None else number(floor.median),
                "" if factor is None else f"{factor:.2f} x",
                str(figure.aim or ""),
                verdict(figure),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines, family = [_line(HEADS, widths)], ""
    for figure, row in zip(figures, rows[1:], strict=True):
        if figure.family != family:
            family = figure.family
            lines += ["", family]
        lines.append(_line(row, widths))
        for told in _told(figure):
            lines += wrap(told, PAGE, initial_indent=" " * 6, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if column in (0, 5, 6) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _told(figure: Figure) -> Iterator[str]:
    if figure.against:
        yield f"against: {figure.against}"
    if figure.note:
        yield figure.note


# charts


@dataclass(frozen=True)
class Bar:
    """One bar: its label, how long it is, its colour's class, and what stands behind it."""

    label: str
    length: float
    tone: str
    told: str


def bars(title: str, rows: Sequence[Bar], *, mark: float | None = None, below: str = "") -> str:
    """A chart of horizontal bars, with a line at `mark` if one is given."""
    longest = max((mark or 0.0, *(row.length for row in rows)))
    scale = (WIDTH - LEFT - RIGHT - 70) / longest
    height = 56 + 22 * len(rows) + (20 if below else 0)
    parts = [_text(12, 24, title, "title")]
    for place, row in enumerate(rows):
        top = 42 + 22 * place
        parts.append(_text(LEFT - 8, top + 13, row.label, "", "end"))
        width = max(1.0, row.length * scale)
        parts.append(
            f'<rect class="{row.tone}" x="{LEFT}" y="{top + 2}" width="{width:.1f}" height="14"/>'
        )
        beyond = max(row.length, mark or 0.0)  # so that no text stands on the mark
        parts.append(_text(LEFT + beyond * scale + 6, top + 13, row.told, "small"))
    if mark is not None:
        at = LEFT + mark * scale
        parts.append(f'<path class="line" d="M{at:.1f} 38V{46 + 22 * len(rows)}"/>')
    if below:
        parts.append(_text(12, height - 10, below, "small"))
    return _svg(height, title, parts)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its label, its colour's class, its points."""

    label: str
    tone: str
    points: Sequence[tuple[float, float]]


def curves(title: str, found: Sequence[Curve], units: tuple[str, str]) -> str:
    """A chart of lines, both axes logarithmic; `units` are what stands at the horizontal and the vertical one."""
    xs = [x for curve in found for x, _ in curve.points]
    ys = [y for curve in found for _, y in curve.points]
    low_x, high_x = math.log10(min(xs)), math.log10(max(xs))
    low_y, high_y = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    left, top, wide, high = 70, 44, 440, 240

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low_x) / max(high_x - low_x, 1e-9)
        up = (math.log10(y) - low_y) / max(high_y - low_y, 1)
        return left + wide * across, top + high * (1 - up)

    parts = [_text(12, 24, title, "title")]
    for power in range(low_y, high_y + 1):
        y = at(min(xs), 10.0**power)[1]
        parts.append(f'<path class="line" d="M{left} {y:.1f}h{wide}"/>')
        parts.append(_text(left - 8, y + 4, number(10.0**power), "small", "end"))
    parts += [
        _text(at(x, ys[0])[0], top + high + 18, number(x), "small", "middle")
        for x in sorted(set(xs))
    ]
    parts.append(_text(left + wide / 2, top + high + 36, units[0], "small", "middle"))
    parts.append(_text(left - 8, top - 6, units[1], "small", "end"))
    ends = sorted((at(*curve.points[-1])[1], curve.label) for curve in found)
    heights: dict[str, float] = {}
    for y, label in ends:  # labels at the ends of the lines, none over another
        heights[label] = max(y, max(heights.values(), default=0.0) + 15)
    for curve in found:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in curve.points))
        parts.append(f'<path class="{curve.tone}" d="M{line.replace(" ", "L")}"/>')
        parts += [
            f'<circle class="{curve.tone}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in (at(*point) for point in curve.points)
        ]
        parts.append(_text(left + wide + 10, heights[curve.label] + 4, curve.label, "small"))
    return _svg(top + high + 50, title, parts)


def _svg(height: int, title: str, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">'
    )
    return "\n".join((head, STYLE, *parts, "</svg>")) + "\n"


def _text(x: float, y: float, told: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(told)}</text>'
    )


# which charts there are


def charts(figures: Sequence[Figure]) -> dict[str, str]:
    """The charts that these figures suffice for, by the names of their files."""
    made = {
        "aims.svg": aims(figures),
        "exposure.svg": exposure(figures),
        "scale.svg": scale(figures),
        "scale-requests.svg": scale_requests(figures),
        "scale-memory.svg": scale_memory(figures),
    }
    return {name: chart for name, chart in made.items() if chart}


def aims(figures: Sequence[Figure]) -> str:
    """How much of each aim is used up: up to the line it is met."""
    rows = [
        Bar(
            f"{figure.family}: {figure.name.partition(' (')[0]}"[:LABEL],
            min(used, 3.0),
            "a" if figure.met else "bad",
            f"{number(figure.value.median)} {figure.unit} ({figure.aim})"
            + ("" if used <= 3 else " ..."),
        )
        for figure in figures
        if (used := _used(figure)) is not None
    ]
    return (
        bars("The aims: met by the bars that do not cross the line", rows, mark=1.0) if rows else ""
    )


def _used(figure: Figure) -> float | None:
    """What was measured, as a part of what the aim allows."""
    aim, value, floor = figure.aim, figure.value.median, figure.floor
    if aim is None:
        return None
    if aim.kind == "under" or floor is None:
        return value / aim.limit
    allowed = aim.limit * floor.median
    return allowed / value if aim.kind == "share" else value / allowed


def exposure(figures: Sequence[Figure]) -> str:
    """The exposure of a daemon beside its floor."""
    rows = []
    for figure in figures:
        if figure.family == "exposure" and figure.floor and "daemon" in figure.name:
            at = figure.name.partition(" at ")[2]
            for name, tone, sample in (
                ("rotator", "a", figure.value),
                ("floor", "b", figure.floor),
            ):
                rows.append(Bar(f"{at}, {name}", sample.median, tone, _spread(sample, figure.unit)))
    title = "Exposure, by ECGrid's latency: from the new key's commit until Vault shows it"
    return bars(title, rows) if rows else ""


def _spread(sample: Sample, unit: str) -> str:
    return f"{number(sample.median)} {unit}"


Points = dict[str, list[tuple[float, float]]]


def scale(figures: Sequence[Figure]) -> str:
    """What takes time, by the number of policies: beside reading the YAML alone."""
    points: Points = {}
    for figure in figures:
        found = re.fullmatch(r"(loading|idle tick|`status|`plan).* ([\d,]+) policies", figure.name)
        if found and figure.floor is not None:
            name, ms = found[1].strip("`"), 1e3 if figure.unit == "s" else 1.0
            points.setdefault(name, []).append((_size(found[2]), figure.value.median * ms))
            if name == "loading":
                alone = points.setdefault("YAML, C loader alone", [])
                alone.append((_size(found[2]), figure.floor.median))
    title = "What grows with the fleet while nothing is due: time"
    return _growing(title, points, "ms")


def scale_requests(figures: Sequence[Figure]) -> str:
    """What is asked of Vault, by the number of policies."""
    points: Points = {}
    for figure in figures:
        found = re.fullmatch(r"Vault, (.*), ([\d,]+) policies", figure.name)
        if found and figure.unit == "requests":
            name = found[1].replace("`", "")
            points.setdefault(name, []).append((_size(found[2]), figure.value.median))
    title = "What grows with the fleet while nothing is due: requests to Vault"
    return _growing(title, points, "requests")


def scale_memory(figures: Sequence[Figure]) -> str:
    """What the daemon takes of memory, by the number of policies: beside what it imports."""
    points: Points = {}
    for figure in figures:
        found = re.fullmatch(r"daemon, ([\d,]+) policies", figure.name)
        if found and figure.floor is not None:
            size = _size(found[1])
            points.setdefault("daemon", []).append((size, figure.value.median))
            points.setdefault("its imports alone", []).append((size, figure.floor.median))
    return _growing("What grows with the fleet: memory of the daemon", points, "MiB")


def _size(told: str) -> float:
    return float(told.replace(",", ""))


def _growing(title: str, points: Points, unit: str) -> str:
    tones = "abcde"
    found = [Curve(name, tones[place % 5], points[name]) for place, name in enumerate(points)]
    return curves(title, found, ("policies", unit)) if found else ""
