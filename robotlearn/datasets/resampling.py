"""Signals that came at any time, as they were at the ticks of a control loop. Times are int64 ns of one clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Interval = tuple[int, int]
NS = 1_000_000_000


def latest(times: Array, at: Array) -> Array:
    """For each of `at` the index of the last of `times` (sorted) that is not later; -1 where there is none."""
    return np.searchsorted(times, at, side="right") - 1


def active(times: Array, gap_s: float | None) -> list[Interval]:
    """From when to when these came, cut wherever nothing came for longer than `gap_s`; None: never cut."""
    if not len(times):
        return []
    cuts = [] if gap_s is None else np.flatnonzero(np.diff(times) > gap_s * NS).tolist()
    firsts, lasts = [0, *(cut + 1 for cut in cuts)], [*cuts, len(times) - 1]
    return [(int(times[first]), int(times[last])) for first, last in zip(firsts, lasts, strict=True)]


def common(signals: Sequence[Sequence[Interval]]) -> list[Interval]:
    """Where all of them are active at once, in order."""
    found = list(signals[0])
    for other in signals[1:]:
        found = [
            (max(start, begin), min(end, stop))
            for start, end in found
            for begin, stop in other
            if max(start, begin) < min(end, stop)
        ]
    return sorted(found)


def ticks(interval: Interval, hz: float) -> Array:
    """(T + 1,) ns: from the interval's start on, a period apart, as many as there is room for."""
    count = int((interval[1] - interval[0]) * hz / NS + 1e-6)
    return interval[0] + np.round(np.arange(count + 1) * (NS / hz)).astype(np.int64)


class SetPoint:
    """One joint's set-point over time: it jumps to a value, or goes there on a straight line; a new one takes over.

    Commands are given in the order of their times.
    """

    def __init__(self) -> None:
        self._times: list[int] = []
        self._values: list[float] = []
        self._ramps: list[bool] = []  # whether it comes from the knot before on a straight line

    @property
    def commanded(self) -> bool:
        """Whether there was any command."""
        return bool(self._times)

    def jump(self, time: int, value: float) -> None:
        """From `time` on it is `value`."""
        self._forget_after(time)
        self._add(time, value, ramp=False)

    def follow(self, time: int, points: Sequence[tuple[int, float]], start: float) -> None:
        """From `time` on it goes through (time, value) of these points; `start`: where it is before any command."""
        now = self.at(time, start)
        self._forget_after(time)
        self._add(time, now, ramp=False)
        for when, value in points:
            self._add(max(when, time), value, ramp=True)

    def at(self, time: int, otherwise: float) -> float:
        """What it is just before `time`; `otherwise` before the first command."""
        index = int(np.searchsorted(self._times, time, side="left"))
        if index < len(self._times) and self._ramps[index] and index:
            before, after = self._times[index - 1], self._times[index]
            share = (time - before) / max(after - before, 1)
            return self._values[index - 1] + share * (self._values[index] - self._values[index - 1])
        return self._values[index - 1] if index else otherwise

    def _add(self, time: int, value: float, *, ramp: bool) -> None:
        self._times.append(time)
        self._values.append(value)
        self._ramps.append(ramp)

    def _forget_after(self, time: int) -> None:
        keep = int(np.searchsorted(self._times, time, side="left"))
        if keep < len(self._times) and self._ramps[keep] and keep:
            self._values[keep], self._times[keep] = self.at(time, 0.0), time  # it got so far on its way
            keep += 1
        del self._times[keep:], self._values[keep:], self._ramps[keep:]
