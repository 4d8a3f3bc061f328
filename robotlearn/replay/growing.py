"""Arrays that grow together, row by row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_FIRST = 1024  # rows


class Growing:
    """Named arrays of equal length. What `array[name]` gave before an `extend` may not see what comes after it."""

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        """`fields`: name to shape of a row and dtype."""
        self._rows = {name: np.zeros((_FIRST, *shape), dtype) for name, (shape, dtype) in fields.items()}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._rows[name][: self._length]

    def extend(self, **rows: NDArray[Any]) -> None:
        """Add rows of every array."""
        count = len(next(iter(rows.values()), ()))
        needed = self._length + count
        for name, array in self._rows.items():
            if needed > len(array):
                # zeros: pages that nothing was written to take no memory yet.
                larger = np.zeros((max(needed, 2 * len(array)), *array.shape[1:]), array.dtype)
                larger[: self._length] = array[: self._length]
                self._rows[name] = array = larger
            array[self._length : needed] = rows[name]
        self._length = needed
