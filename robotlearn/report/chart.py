"""Line charts as inline SVG: text stays text, colours come from the page's style sheet, hovering shows the values."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Literal

Points = Sequence[tuple[float, float]]
Style = Literal["line", "thin", "thick", "dashed", "dots"]

WIDTH, HEIGHT = 480.0, 264.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 40.0
SMALLEST = 1e-100
MOST_POINTS = 600
"""Of one line; a longer one keeps the extremes of each stretch."""
MOST_COLUMNS = 120
"""Places along x that show their values when the pointer is over them."""


@dataclass(frozen=True)
class Line:
    """One curve. `colour` counts the palette of the style sheet. A thin one is told by hovering over it, not listed."""

    points: Points
    label: str
    colour: int = 0
    style: Style = "line"
    intervals: Sequence[tuple[float, float]] = ()
    """(low, high) of each point, drawn as its error bar."""


@dataclass(frozen=True)
class Band:
    """The area between the (x, low, high), around a line that says what it is."""

    points: Sequence[tuple[float, float, float]]
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """What one figure shows. Without `y_range` the axis fits the values."""

    title: str
    x_label: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    y_range: tuple[float, float] | None = None
    percent: bool = False

    @property
    def empty(self) -> bool:
        return not any(line.points for line in self.lines)

    @property
    def listed(self) -> list[Line]:
        """What the legend names and the stripes tell the values of."""
        return [line for line in self.lines if line.points and line.style != "thin"]


def compact(value: float, digits: int = 3) -> str:
    """A number for a tick or a tile: 1.25M, 40k, 0.053, 1.2e-05."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        return f"{value:.{digits - 1}g}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            scaled = value / (1e3 if letter == "k" else unit)
            return f"{float(f'{scaled:.{digits}g}'):g}{letter}"  # twice: 999.9 must not become 1e+03
    return f"{value:.0f}" if value == int(value) or size >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def figure(chart: Chart) -> str:
    """The chart as a <figure>, with its title and legend in HTML and the drawing in SVG."""
    keys = "".join(
        f'<li><i class="key {line.style} c{line.colour}"></i>{escape(line.label)}</li>' for line in chart.listed
    )
    return (
        f"<figure><figcaption>{escape(chart.title)}</figcaption>"
        f'<ul class="legend">{keys}</ul>{_drawing(chart)}</figure>'
    )


def spark(curves: Sequence[Points], label: str) -> str:
    """Curves of rates, in the colours of the palette, in the height of a line of text: for a table's cell."""
    xs = [x for curve in curves for x, _ in curve]
    first, width = min(xs, default=0.0), (max(xs, default=0.0) - min(xs, default=0.0)) or 1.0
    drawn = ""
    for colour, curve in enumerate(curves):
        path = " ".join(f"{118 * (x - first) / width + 1:.1f},{23 - 22 * y:.1f}" for x, y in thinned(curve, 120))
        drawn += f'<polyline class="line c{colour}" points="{path}"/>'
    return (
        f'<svg class="spark" viewBox="0 0 120 24" role="img"><title>{escape(label)}</title>'
        f'<path class="grid" d="M0 1H120M0 23H120"/>{drawn}</svg>'
    )


def thinned(points: Points, most: int) -> Points:
    """At most about `most` of the points: first, lowest, highest and last of each stretch, in their order."""
    if len(points) <= most:
        return points
    stretch = math.ceil(4 * len(points) / most)
    kept = []
    for start in range(0, len(points), stretch):
        part = range(start, min(start + stretch, len(points)))
        ends = {part[0], part[-1], min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
        kept += [points[index] for index in sorted(ends)]
    return kept


def _drawing(chart: Chart) -> str:
    x_low, x_high, y_low, y_high = _ranges(chart)

    def at_x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - x_low) / (x_high - x_low)

    def at_y(value: float) -> float:
        share = (min(max(value, y_low), y_high) - y_low) / (y_high - y_low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [_axes(chart, ticks(x_low, x_high), ticks(y_low, y_high), at_x, at_y)]
    for band in chart.bands:
        edge = [(x, high) for x, _, high in band.points] + [(x, low) for x, low, _ in reversed(band.points)]
        parts.append(f'<polygon class="band c{band.colour}" points="{_path(edge, at_x, at_y)}"/>')
    parts += _columns(chart, at_x)  # below the curves, so that these can be pointed at too
    for line in chart.lines:
        parts += _line(line, at_x, at_y)
    label = escape(f"{chart.title}, over {chart.x_label}")
    return f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ranges(chart: Chart) -> tuple[float, float, float, float]:
    xs = [x for line in chart.lines for x, _ in line.points] or [0.0, 1.0]
    ys = [y for line in chart.lines for _, y in line.points]
    ys += [bound for line in chart.lines for interval in line.intervals for bound in interval]
    ys += [bound for band in chart.bands for _, low, high in band.points for bound in (low, high)]
    x_low, x_high = min(xs), max(xs)
    if x_low > 0 and x_low < 0.5 * x_high:
        x_low = 0.0
    if _equal(x_low, x_high):
        x_high = x_low + max(abs(x_low), 1.0)
    if chart.y_range is not None:
        return x_low, x_high, *chart.y_range
    y_low, y_high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    if 0 < y_low < 0.6 * y_high:
        y_low = 0.0
    if _equal(y_low, y_high):
        margin = 0.5 * abs(y_high) if abs(y_high) > SMALLEST else 0.5
        y_low, y_high = y_low - margin, y_high + margin
    margin = 0.05 * (y_high - y_low)
    return x_low, x_high, y_low - (margin if y_low != 0 else 0), y_high + margin


def _equal(low: float, high: float) -> bool:
    """Too near to each other for an axis of their own."""
    return high - low <= max(1e-9 * abs(high), 1e-9 * abs(low), SMALLEST)


def _axes(
    chart: Chart,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    at_x: Callable[[float], float],
    at_y: Callable[[float], float],
) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = "".join(f"M{LEFT:.0f} {at_y(value):.1f}H{right:.0f}" for value in y_ticks)
    marks = "".join(f"M{at_x(value):.1f} {bottom:.0f}v4" for value in x_ticks)
    texts = [
        f'<text x="{LEFT - 7:.0f}" y="{at_y(value) + 4:.1f}" class="end">{_shown(chart, 3, value)}</text>'
        for value in y_ticks
    ]
    for value in x_ticks:
        # Near the right border a centred label would be cut off.
        place, style = at_x(value), "middle"
        if place > right - 12:
            place, style = WIDTH - 1, "end"
        texts.append(f'<text x="{place:.1f}" y="{bottom + 18:.0f}" class="{style}">{compact(value)}</text>')
    texts.append(
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 5:.0f}" class="middle label">{escape(chart.x_label)}</text>'
    )
    return (
        f'<path class="grid" d="{grid}"/><path class="axis" d="M{LEFT:.0f} {bottom:.0f}H{right:.0f}{marks}"/>'
        + "".join(texts)
    )


def _line(line: Line, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> list[str]:
    parts = []
    for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
        bar = f"M{at_x(x):.1f} {at_y(low):.1f}V{at_y(high):.1f}"
        caps = "".join(f"M{at_x(x) - 3:.1f} {at_y(bound):.1f}h6" for bound in (low, high))
        parts.append(f'<path class="bar c{line.colour}" d="{bar}{caps}"/>')
    path = _path(thinned(line.points, MOST_POINTS), at_x, at_y)
    title = f"<title>{escape(line.label)}</title>" if line.style == "thin" else ""
    parts.append(f'<polyline class="{line.style} c{line.colour}" points="{path}">{title}</polyline>')
    if line.style == "dots" or len(line.points) == 1:
        parts += [
            f'<circle class="dot c{line.colour}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5"/>'
            for x, y in line.points
        ]
    return parts


def _path(points: Points, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> str:
    return " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)


def _columns(chart: Chart, at_x: Callable[[float], float]) -> list[str]:
    """Invisible stripes over the drawing, each with the values around its x as its title."""
    xs = sorted({x for line in chart.listed for x, _ in line.points})
    xs = xs[:: math.ceil(len(xs) / MOST_COLUMNS)] if xs else []
    shown = partial(_shown, chart, 4)
    parts = []
    for index, x in enumerate(xs):
        left = (xs[index - 1] + x) / 2 if index else x
        right = (x + xs[index + 1]) / 2 if index + 1 < len(xs) else x
        start, end = max(at_x(left), LEFT), min(at_x(right), WIDTH - RIGHT)
        if index in (0, len(xs) - 1):
            start, end = max(start - 6 * (index == 0), LEFT), min(end + 6 * (index > 0), WIDTH - RIGHT)
        texts = [f"{chart.x_label}: {x:,.6g}"]
        for line in chart.listed:
            nearest = _nearest(line.points, x)
            if left <= line.points[nearest][0] <= right:
                text = f"{line.label}: {shown(line.points[nearest][1])}"
                if nearest < len(line.intervals):
                    low, high = line.intervals[nearest]
                    text += f" [{shown(low)}, {shown(high)}]"
                texts.append(text)
        parts.append(
            f'<rect class="hit" x="{start:.1f}" y="{TOP:.0f}" width="{max(end - start, 2):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM:.0f}"><title>{escape(chr(10).join(texts))}</title></rect>'
        )
    return parts


def _shown(chart: Chart, digits: int, value: float) -> str:
    return f"{float(f'{100 * value:.{digits}g}'):g} %" if chart.percent else compact(value, digits)


def _nearest(points: Points, x: float) -> int:
    index = bisect_left(points, x, key=lambda point: point[0])
    around = [i for i in (index - 1, index) if 0 <= i < len(points)]
    return min(around, key=lambda i: abs(points[i][0] - x))
