"""Runs of one config that differ in nothing but the seed belong together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robotlearn.config.load import differences
from robotlearn.report.run import Points, Run

GRID = 100


@dataclass(frozen=True)
class Group:
    """Runs of one config, in the order they were named."""

    runs: tuple[Run, ...]

    @property
    def seeds(self) -> str:
        """Each once; of one that several runs have, how many: "0 twice, 1"."""
        times = Counter(run.config.seed for run in self.runs)
        words = {1: "", 2: " twice"}
        return ", ".join(f"{seed}{words.get(count, f' {count} times')}" for seed, count in times.items())

    def spread(self, figure: str) -> tuple[float, float, float] | None:
        """(median, lowest, highest) of a figure of `Summary` over the runs; None when not all of them have it."""
        values = [getattr(run.summary(), figure) for run in self.runs]
        return None if None in values else (statistics.median(values), min(values), max(values))


def same_but_seed(one: Run, other: Run) -> bool:
    return set(differences(one.config, other.config)) <= {"seed"}


def group(runs: Sequence[Run]) -> list[Group]:
    """The runs by their configs without the seed, groups and runs in the order of the first mention."""
    groups: list[list[Run]] = []
    for run in runs:
        own = next((members for members in groups if same_but_seed(members[0], run)), None)
        if own is None:
            groups.append([run])
        else:
            own.append(run)
    return [Group(tuple(members)) for members in groups]


def middle(curves: Sequence[Points]) -> tuple[Points, list[tuple[float, float, float]]]:
    """Median of several curves, and the band (x, lowest, highest), where all of them are; both empty for less than two.

    Between its points a curve is taken as straight.
    """
    if len(curves) < 2 or not all(curves):
        return [], []
    start, end = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    if end <= start:
        return [], []
    grid = np.linspace(start, end, GRID)
    values = np.stack([np.interp(grid, *np.array(curve, float).T) for curve in curves])
    lines = (grid.tolist(), np.median(values, 0).tolist(), values.min(0).tolist(), values.max(0).tolist())
    median, band = [], []
    for x, centre, low, high in zip(*lines, strict=True):
        median.append((x, centre))
        band.append((x, low, high))
    return median, band
