"""The steps that one part of a batch is drawn from, and how they are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robotlearn.replay.growing import Growing
from robotlearn.replay.sum_tree import SumTree

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
How = Literal["uniform", "prioritized", "newest"]
_LEAST = 1e-6
"""Added to each error: a step whose estimate was once right must still be drawn."""


class Members(ABC):
    """Rows in the order in which they became known; `draw` gives places among them, `rows` what is there."""

    def __init__(self) -> None:
        self._known = Growing({"row": ((), np.int64)})

    def __len__(self) -> int:
        return len(self._known)

    @property
    def rows(self) -> Rows:
        return self._known["row"]

    def add(self, rows: Rows) -> None:
        self._known.extend(row=rows)

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        """Places (count,), with replacement; there must be members."""

    def chances(self, places: Rows) -> Floats:
        """How likely each was to be drawn, as a multiple of uniform chance, where that is to be made up for."""
        return np.ones(len(places))

    def prioritize(self, places: Rows, errors: Floats) -> None:
        """Take note of the size of the errors at these places, where that matters."""
        return

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Only these members stay, (n,)."""
        rows = self.rows[kept]
        self._known = Growing({"row": ((), np.int64)})
        self._known.extend(row=rows)

    def state(self) -> dict[str, NDArray[Any]]:
        """What isn't known from the rows alone."""
        return {}

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` gave, for members added since in the same order; later ones stay as they are."""
        return


class Uniform(Members):
    """Each as often."""

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        return rng.integers(len(self), size=count)


class Newest(Members):
    """The chance of the k-th member is in proportion to k: half of what is drawn is of the newest 29 %."""

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        return (len(self) * np.sqrt(rng.random(count))).astype(np.int64)


class Prioritized(Members):
    """In proportion to error^exponent (arXiv:1511.05952, 3.3, proportional), new ones with the largest so far."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self._exponent, self._tree, self._largest = exponent, SumTree(), 1.0

    def add(self, rows: Rows) -> None:
        super().add(rows)
        self._tree.extend(np.full(len(rows), self._largest))

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        # One from each of `count` equal stretches: as likely as before, and spread more evenly (3.3).
        return self._tree.find((np.arange(count) + rng.random(count)) * (self._tree.total / count))

    def chances(self, places: Rows) -> Floats:
        return self._tree.weights[places] * (len(self) / self._tree.total)

    def prioritize(self, places: Rows, errors: Floats) -> None:
        if not (finite := np.isfinite(errors)).all():  # of a step that the optimiser skipped, too: they say nothing
            places, errors = places[finite], errors[finite]
        weights = (np.abs(errors) + _LEAST) ** self._exponent
        self._largest = max(self._largest, float(weights.max(initial=0.0)))
        self._tree.set(places, weights)

    def keep(self, kept: NDArray[np.bool_]) -> None:
        weights = self._tree.weights[kept]
        super().keep(kept)
        self._tree = SumTree()
        self._tree.extend(weights)

    def state(self) -> dict[str, NDArray[Any]]:
        return {"weights": self._tree.weights.copy(), "largest": np.array(self._largest)}

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        weights = state["weights"][: len(self)]
        self._largest = float(state["largest"])
        self._tree.set(np.arange(len(weights)), weights)
        later = np.arange(len(weights), len(self))
        self._tree.set(later, np.full(len(later), self._largest))


def members(how: How, exponent: float) -> Members:
    """An empty set that is drawn from in that way."""
    return Prioritized(exponent) if how == "prioritized" else Newest() if how == "newest" else Uniform()
