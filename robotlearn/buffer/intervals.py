"""A set of non-negative integers kept as intervals: compact for numbers that come mostly in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class IntervalSet:
    """Numbers seen, as sorted disjoint half-open intervals. Not safe for use by two threads at once."""

    __slots__ = ("_ends", "_starts", "count")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """From intervals [start, end), in any order. Raises ValueError for an empty or negative one."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0  # numbers in the set
        for start, end in intervals:
            self.add_range(start, end)

    def add(self, number: int) -> bool:
        """Add one number; returns whether it was new."""
        if self._ends and number == self._ends[-1]:  # the common case: the next one
            self._ends[-1] += 1
            self.count += 1
            return True
        if number in self:
            return False
        self.add_range(number, number + 1)
        return True

    def add_range(self, start: int, end: int) -> int:
        """Add all of [start, end); returns how many were new."""
        if not 0 <= start < end:
            raise ValueError(f"[{start}, {end}) is not an interval of non-negative numbers")
        low = bisect_right(self._ends, start - 1)  # first interval that touches or follows
        high = bisect_right(self._starts, end)  # first interval strictly behind
        before = sum(self._ends[i] - self._starts[i] for i in range(low, high))
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        added = end - start - before
        self.count += added
        return added

    def remove(self, number: int) -> bool:
        """Take one number out; returns whether it was there."""
        index = bisect_right(self._starts, number) - 1
        if index < 0 or number >= self._ends[index]:
            return False
        start, end = self._starts[index], self._ends[index]
        parts = [(low, high) for low, high in ((start, number), (number + 1, end)) if low < high]
        self._starts[index : index + 1] = [low for low, _ in parts]
        self._ends[index : index + 1] = [high for _, high in parts]
        self.count -= 1
        return True

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number < self._ends[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The intervals [start, end), in order."""
        return zip(self._starts, self._ends, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"

    @property
    def intervals(self) -> int:
        """How many intervals it takes: the size of the set in memory."""
        return len(self._starts)

    @property
    def floor(self) -> int:
        """The lowest number that is not in the set."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def end(self) -> int:
        """One more than the highest number in the set, 0 when it is empty."""
        return self._ends[-1] if self._ends else 0

    def fill_below(self, floor: int) -> int:
        """Take everything below `floor` as seen, because it never comes (again); returns how many were new."""
        return self.add_range(0, floor) if floor > 0 else 0
