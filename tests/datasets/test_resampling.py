"""Signals at the ticks of a loop: the latest ones, silences, set-points that jump, are followed, are taken over."""

from __future__ import annotations

import numpy as np
import pytest

from robotlearn.datasets.resampling import NS, SetPoint, active, common, latest, ticks


def test_the_latest_at_or_before() -> None:
    times = np.array([10, 20, 20, 30])
    assert latest(times, np.array([9, 10, 19, 20, 29, 99])).tolist() == [-1, 0, 0, 2, 2, 3]


def test_a_longer_silence_cuts() -> None:
    times = (np.array([0.0, 1.0, 2.0, 4.0, 5.0]) * NS).astype(np.int64)
    assert active(times, None) == [(0, 5 * NS)]
    assert active(times, 2.0) == [(0, 5 * NS)]
    assert active(times, 1.5) == [(0, 2 * NS), (4 * NS, 5 * NS)]
    assert active(times[:0], 1.0) == []


def test_where_all_are_active() -> None:
    assert common([[(0, 10), (20, 30)], [(5, 25)], [(0, 22), (23, 40)]]) == [(5, 10), (20, 22), (23, 25)]
    assert common([[(0, 10)], [(10, 20)]]) == []


def test_ticks_are_periods_apart() -> None:
    grid = ticks((7, 7 + NS), 3.0)
    assert grid.tolist() == [7, 7 + 333333333, 7 + 666666667, 7 + NS]
    assert len(ticks((0, NS - 2000), 3.0)) == 3 and len(ticks((0, 5), 10.0)) == 1


def test_a_command_counts_from_the_tick_after_it_on() -> None:
    point = SetPoint()
    assert not point.commanded and point.at(5, 0.25) == 0.25
    point.jump(10, 1.0)
    point.jump(20, 2.0)
    assert point.commanded
    assert [point.at(time, 0.25) for time in (5, 10, 11, 20, 21, 99)] == [0.25, 0.25, 1.0, 1.0, 2.0, 2.0]


def test_a_way_is_followed_until_another_command_takes_over() -> None:
    point = SetPoint()
    point.follow(10, [(20, 1.0), (40, 3.0)], 0.0)
    assert [point.at(time, 0.0) for time in (10, 15, 20, 30, 40, 50)] == pytest.approx([0.0, 0.5, 1.0, 2.0, 3.0, 3.0])
    point.follow(30, [(40, 0.0)], 0.0)
    assert [point.at(time, 0.0) for time in (25, 30, 35, 40, 60)] == pytest.approx([1.5, 2.0, 1.0, 0.0, 0.0])
    point.jump(35, 7.0)
    assert [point.at(time, 0.0) for time in (32, 35, 36, 60)] == pytest.approx([1.6, 1.0, 7.0, 7.0])
