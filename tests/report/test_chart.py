"""Charts: whatever is drawn stays inside, and says its values."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.report.chart import HEIGHT, WIDTH, Chart, Line, compact, figure, thinned, ticks

VALUES = st.floats(-1e100, 1e100) | st.sampled_from([0.0, 1.0, 1e-320, -1e-320, 1e100])
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=30).map(sorted)


@given(POINTS, POINTS, st.booleans())
def test_any_points_are_drawn_inside_the_picture(one: list, other: list, percent: bool) -> None:
    lines = [Line(one, "one"), Line(other, "other", 1, "dots", [(y, y) for _, y in other])]
    drawn = figure(Chart("title", "x", lines, percent=percent))
    ElementTree.fromstring(drawn)
    for pair in re.findall(r'points="([^"]*)"', drawn):
        for point in pair.split():
            x, y = map(float, point.split(","))
            assert -0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1


def test_hovering_tells_the_values_with_their_interval() -> None:
    line = Line([(0, 0.25), (1000, 0.5)], "rate", style="dots", intervals=[(0.2, 0.3), (0.4, 0.6)])
    drawn = figure(Chart("t", "steps", [line], percent=True))
    assert "<title>steps: 1,000\nrate: 50 % [40 %, 60 %]</title>" in drawn


def test_text_is_text() -> None:
    nasty = '<script>alert(1)</script>"&'
    lines = [Line([(0, 1), (1, 2)], nasty), Line([(0, 1), (1, 2)], nasty, style="thin")]
    drawn = figure(Chart(nasty, nasty, lines))
    assert "<script" not in drawn
    assert "".join(ElementTree.fromstring(drawn).itertext()).count("<script>") >= 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.05, "0.05"), (1.25, "1.25"), (88, "88"), (9999, "9999"), (144535, "145k"), (999_999, "1000k"),
        (1e6, "1M"), (12_345_678, "12.3M"), (0.00001, "1e-05"), (-0.02, "-0.02"), (1e40, "1e+40"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 567_517), (-0.05, -0.01), (3, 3.0001), (0, 1e-300), (-7, 1e90)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 * abs(high) <= value <= high * (1 + 1e-9) + 1e-9 for value in found)


def test_a_long_curve_keeps_its_extremes() -> None:
    points = [(float(x), float(x % 7)) for x in range(10_000)]
    points[5003] = (5003.0, 99.0)
    kept = thinned(points, 600)
    assert len(kept) <= 700 and kept[0] == points[0] and kept[-1] == points[-1] and (5003.0, 99.0) in kept
    assert list(kept) == sorted(kept)
