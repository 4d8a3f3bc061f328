"""Figures of one update, collected on its way."""

from collections import defaultdict

from torch import Tensor


class Metrics:
    """Means over the steps of an update, largest values, single values."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._values: dict[str, float] = {}

    def set(self, name: str, value: Tensor | float) -> None:
        self._values[name] = _number(value)

    def peak(self, name: str, value: Tensor | float) -> None:
        self._values[name] = max(self._values.get(name, float("-inf")), _number(value))

    def add(self, name: str, value: Tensor | float) -> None:
        self._sums[name].append(_number(value))

    def result(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        return means | self._values


def _number(value: Tensor | float) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)
