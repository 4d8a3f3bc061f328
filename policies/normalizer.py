"""Normalisation as part of the weights: statistics are buffers, saved and published with them, never trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from policies.errors import ObservationError, StatisticsError

Features = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per dimension of one feature, in the feature's own units, float64."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, data: ArrayLike) -> "Statistics":
        """Statistics over the first axis of data (n, ...)."""
        rows = np.asarray(data, np.float64)
        if rows.ndim < 1 or len(rows) == 0:
            raise StatisticsError("statistics of no data: the mean would be undefined; give at least one row.")
        return cls(rows.mean(0), rows.std(0))


def statistics(observations: Mapping[str, ArrayLike], actions: ArrayLike) -> dict[str, Statistics]:
    """Statistics of each observation feature, and of the actions (n, D) under the key "action"."""
    return {key: Statistics.of(rows) for key, rows in observations.items()} | {"action": Statistics.of(actions)}


class Normalizer(nn.Module):
    """x -> (x - mean) / std for vectors, and back. Buffers `mean` and `std`, float32, (dim,); identity until `set`.

    Args:
        dim: number of dimensions.
        floor: smallest std, in the units of the data: a dimension that never moved in the data would otherwise be blown
            up without bound when it moves later.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Fix the statistics. Raises StatisticsError on another size, non-finite numbers or a negative std."""
        for name, value in (("mean", mean), ("std", std)):
            array = np.asarray(value, np.float64)
            if array.shape != tuple(self.mean.shape):
                raise StatisticsError(f"{name} has shape {array.shape}, expected {tuple(self.mean.shape)}.")
            if not np.isfinite(array).all() or (name == "std" and (array < 0).any()):
                raise StatisticsError(f"{name} holds a number that is not finite or a negative std: {array}.")
        with torch.no_grad():
            self.mean.copy_(torch.as_tensor(np.asarray(mean, np.float64)))
            self.std.copy_(torch.as_tensor(np.maximum(np.asarray(std, np.float64), self.floor)))

    def statistics(self) -> Statistics:
        """What is in use, the floor applied."""
        return Statistics(self.mean.double().cpu().numpy(), self.std.double().cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., dim)."""
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Back into the data's units, (..., dim)."""
        return x * self.std + self.mean


class ObservationNormalizer(nn.Module):
    """Observations {key: (B, n)} -> normalised features (B, sum of n), keys in the order of `features`.

    Values are bounded to +-`bound` standard deviations: a dimension that hardly moved in the demonstrations must not
    drown the others once reinforcement learning takes the robot elsewhere.
    """

    def __init__(self, features: Features, floor: float = 1e-3, bound: float = 10.0) -> None:
        super().__init__()
        if not features:
            raise ObservationError("no features: the network would be blind; name at least one observation key.")
        for key, shape in features.items():
            if len(shape) != 1 or shape[0] < 1:
                raise ObservationError(
                    f"feature {key!r} has shape {shape}: this network reads vectors, shape (n,) with n >= 1."
                )
        self.features = {key: tuple(shape) for key, shape in features.items()}
        self.bound = bound
        self.dim = sum(shape[0] for shape in self.features.values())
        self.normalizer = Normalizer(self.dim, floor)

    def set(self, stats: Mapping[str, Statistics]) -> None:
        """Fix the statistics of every feature. Raises StatisticsError when one is missing or has another shape."""
        for key, shape in self.features.items():
            if key not in stats:
                raise StatisticsError(
                    f"no statistics of feature {key!r}; there are {', '.join(sorted(stats)) or 'none'}."
                )
            if np.shape(stats[key].mean) != shape:
                raise StatisticsError(
                    f"statistics of {key!r} have shape {np.shape(stats[key].mean)}, expected {shape}."
                )
        chosen = [stats[key] for key in self.features]
        self.normalizer.set(np.concatenate([s.mean for s in chosen]), np.concatenate([s.std for s in chosen]))

    def statistics(self) -> dict[str, Statistics]:
        """What is in use, by feature."""
        whole, ends = self.normalizer.statistics(), np.cumsum([shape[0] for shape in self.features.values()])[:-1]
        means, stds = np.split(whole.mean, ends), np.split(whole.std, ends)
        return {key: Statistics(m, s) for key, m, s in zip(self.features, means, stds, strict=True)}

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Raises ObservationError when a feature is missing or has another shape."""
        parts = []
        for key, shape in self.features.items():
            part = obs.get(key)
            if part is None:
                raise ObservationError(f"observation lacks {key!r}; it has {', '.join(sorted(obs)) or 'nothing'}.")
            if part.ndim != 2 or part.shape[1] != shape[0]:
                raise ObservationError(f"{key!r} has shape {tuple(part.shape)}, expected (batch, {shape[0]}).")
            parts.append(part)
        x: Tensor = self.normalizer(parts[0] if len(parts) == 1 else torch.cat(parts, -1))
        return x.clamp(-self.bound, self.bound)
