"""An interval set behaves as a set, whatever is added in whatever order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.buffer.intervals import IntervalSet

NUMBERS = st.integers(0, 60)
STEPS = st.lists(st.one_of(NUMBERS, st.tuples(NUMBERS, st.integers(1, 12)).map(lambda p: (p[0], p[0] + p[1]))))


@given(STEPS)
def test_it_holds_what_a_set_holds(steps: list[int | tuple[int, int]]) -> None:
    intervals, model = IntervalSet(), set()
    for step in steps:
        if isinstance(step, int):
            assert intervals.add(step) is (step not in model)
            model.add(step)
        else:
            added = set(range(*step))
            assert intervals.add_range(*step) == len(added - model)
            model |= added
        assert intervals.count == len(model)
    assert {n for start, end in intervals for n in range(start, end)} == model
    assert all((n in intervals) is (n in model) for n in range(80))
    pairs = list(intervals)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(pairs)), "neighbours are merged"
    assert intervals.end == max(model, default=-1) + 1
    assert intervals.floor == next(n for n in range(100) if n not in model)
    assert IntervalSet(reversed(pairs)) == intervals


@given(STEPS, st.lists(NUMBERS))
def test_numbers_can_be_taken_out(steps: list[int | tuple[int, int]], out: list[int]) -> None:
    intervals = IntervalSet((step, step + 1) if isinstance(step, int) else step for step in steps)
    model = {number for start, end in intervals for number in range(start, end)}
    for number in out:
        assert intervals.remove(number) is (number in model)
        model.discard(number)
    assert {number for start, end in intervals for number in range(start, end)} == model
    assert intervals.count == len(model) and intervals == IntervalSet((number, number + 1) for number in model)


def test_numbers_in_order_stay_one_interval() -> None:
    intervals = IntervalSet()
    assert all(intervals.add(n) for n in range(1000))
    assert intervals.intervals == 1 and not intervals.add(500)


def test_filling_below_a_floor_closes_the_holes_there_only() -> None:
    intervals = IntervalSet([(0, 2), (4, 5), (9, 10)])
    assert intervals.fill_below(7) == 4
    assert list(intervals) == [(0, 7), (9, 10)] and intervals.floor == 7


@pytest.mark.parametrize("interval", [(3, 3), (4, 2), (-1, 2)])
def test_what_is_no_interval_is_refused(interval: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        IntervalSet([interval])
