"""Normalisation as part of the weights: statistics are buffers, saved and published with them, never trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from policies.errors import StatisticsError

Features = Mapping[str, tuple[int, ...]]
Scale = Literal["mean_std", "min_max", "quantiles", "quantile10", "identity"]
"""What is brought to one size: mean and deviation, or the span from -1 to 1, as LeRobot's modes of normalisation."""
SCALES: tuple[Scale, ...] = get_args(Scale)
_SPANS = {"min_max": (0.0, 1.0), "quantiles": (0.01, 0.99), "quantile10": (0.1, 0.9)}


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per dimension of one feature, in the feature's own units, float64.

    (n,), or (E, n) with a row for each of a policy's E embodiments.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, data: ArrayLike, scale: Scale = "mean_std") -> "Statistics":
        """Statistics over the first axis of data (n, ...); for a span its middle and half its length: the same map."""
        rows = np.asarray(data, np.float64)
        if rows.ndim < 1 or len(rows) == 0:
            raise StatisticsError("statistics of no data: the mean would be undefined; give at least one row.")
        if scale == "mean_std":
            return cls(rows.mean(0), rows.std(0))
        if scale == "identity":
            return cls(np.zeros(rows.shape[1:]), np.ones(rows.shape[1:]))
        low, high = np.quantile(rows, _SPANS[scale], axis=0)
        return cls.spanning(low, high)

    @classmethod
    def spanning(cls, low: NDArray[np.floating], high: NDArray[np.floating]) -> "Statistics":
        """Those that bring `low` to -1 and `high` to 1."""
        return cls((low + high) / 2, (high - low) / 2)


def statistics(observations: Mapping[str, ArrayLike], actions: ArrayLike) -> dict[str, Statistics]:
    """Statistics of each observation feature, and of the actions (n, D) under the key "action"."""
    return {key: Statistics.of(rows) for key, rows in observations.items()} | {"action": Statistics.of(actions)}


class Normalizer(nn.Module):
    """x -> (x - mean) / std for vectors, and back; a row of statistics per group. Identity until `set`.

    Buffers `mean` and `std`, float32, (groups, dim).

    Args:
        dim: number of dimensions.
        floor: smallest std, in the units of the data: a dimension that never moved in the data would otherwise be blown
            up without bound when it moves later.
        groups: how many rows of statistics; with several, `forward` and `inverse` need to know each sample's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, floor: float = 1e-3, groups: int = 1) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(groups, dim))
        self.register_buffer("std", torch.ones(groups, dim))

    def set(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Fix the statistics, (groups, dim), or (dim,) for one group.

        Raises StatisticsError on another size, non-finite numbers or a negative std.
        """
        groups, dim = self.mean.shape
        rows = []
        for name, value in (("mean", mean), ("std", std)):
            array = np.asarray(value, np.float64)
            if array.shape != (groups, dim) and not (groups == 1 and array.shape == (dim,)):
                expected = (dim,) if groups == 1 else (groups, dim)
                raise StatisticsError(f"{name} has shape {array.shape}, expected {expected}.")
            if not np.isfinite(array).all() or (name == "std" and (array < 0).any()):
                raise StatisticsError(f"{name} holds a number that is not finite or a negative std: {array}.")
            rows.append(array.reshape(groups, dim))
        with torch.no_grad():
            self.mean.copy_(torch.as_tensor(rows[0]))
            self.std.copy_(torch.as_tensor(np.maximum(rows[1], self.floor)))

    def statistics(self) -> Statistics:
        """What is in use, the floor applied; (dim,) for one group."""
        mean, std = (buffer.double().cpu().numpy() for buffer in (self.mean, self.std))
        return Statistics(mean[0], std[0]) if len(mean) == 1 else Statistics(mean, std)

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Normalise x (B, ..., dim), sample b by the statistics of group[b] (B,); None: of the only one."""
        mean, std = self._rows(x, group)
        return (x - mean) / std

    def inverse(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Back into the data's units, (B, ..., dim)."""
        mean, std = self._rows(x, group)
        return x * std + mean

    def _rows(self, x: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
        if group is None:
            return self.mean, self.std
        shape = (len(group), *(1,) * (x.ndim - 2), x.shape[-1])
        return self.mean[group].view(shape), self.std[group].view(shape)
