"""Sampling: what every batch is made of, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robotlearn.config.replay import PartConfig
from robotlearn.replay.members import Members, Rows, members

ONLINE, DEMONSTRATION, FORMER = 0, 1, 2
"""Where steps come from: edges of this run, demonstrations, former runs."""


class Steps(NamedTuple):
    """Steps of one episode that can be drawn from now on, or whose episode has ended.

    rows: (n,), ascending. intervened: (n,) bool, whether a person did the whole chunk that begins there.
    success: of the episode, None while it isn't over.
    """

    rows: Rows
    intervened: NDArray[np.bool_]
    origin: int
    embodiment: str
    task: str
    success: bool | None


class _Drawn(NamedTuple):
    members: Members
    places: Rows


class Draw(NamedTuple):
    """Rows of one batch (B,), and for each the weight that makes up for how often it is drawn, 1 at most."""

    rows: Rows
    weight: NDArray[np.float32]
    drawn: tuple[_Drawn, ...]

    def prioritize(self, errors: NDArray[np.floating]) -> None:
        """The sizes of the errors (B,) of the batch."""
        start = 0
        for each, places in self.drawn:
            each.prioritize(places, np.asarray(errors[start : start + len(places)], np.float64))
            start += len(places)


class Part:
    """One part of every batch: the steps that it takes, in groups that are drawn from equally often."""

    def __init__(self, config: PartConfig, exponent: float) -> None:
        self.config = config
        self._exponent = exponent
        self._groups: dict[tuple[str | bool | None, ...], Members] = {}
        self._ended = "success" in config.balance or config.source in ("successes", "failures")

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, steps: Steps) -> None:
        """Take of these what belongs here. Each step comes twice: once it can be drawn, and with its episode's end."""
        config = self.config
        if self._ended != (steps.success is not None):
            return
        if config.robot not in (None, steps.embodiment) or (config.task or "") not in steps.task:
            return
        if config.source == "demonstrations" and steps.origin != DEMONSTRATION:
            return
        if config.source in ("online", "successes", "failures") and steps.origin != ONLINE:
            return
        if config.source in ("successes", "failures") and steps.success != (config.source == "successes"):
            return
        rows = steps.rows
        if config.source == "interventions":
            rows = rows[steps.intervened] if steps.origin != DEMONSTRATION else rows[:0]
        if not len(rows):
            return
        values = {"robot": steps.embodiment, "task": steps.task, "success": steps.success}
        group = tuple(values[name] for name in config.balance)
        if group not in self._groups:
            self._groups[group] = members(config.how, self._exponent)
        self._groups[group].add(rows)

    def draw(self, count: int, rng: np.random.Generator) -> list[_Drawn]:
        """`count` of its steps; there must be some."""
        # In an order of their own: what came first may be gone when a run is resumed.
        groups = [self._groups[name] for name in sorted(self._groups, key=repr) if len(self._groups[name])]
        each = np.full(len(groups), count // len(groups))
        if left := count % len(groups):  # whose turn it is to get one more
            each[rng.permutation(len(groups))[:left]] += 1
        return [_Drawn(group, group.draw(int(n), rng)) for group, n in zip(groups, each, strict=True) if n]

    def keep(self, alive: NDArray[np.bool_]) -> None:
        """Forget the rows that aren't `alive` (all rows,)."""
        for group in self._groups.values():
            group.keep(alive[group.rows])

    def state(self) -> dict[str, NDArray[Any]]:
        """What isn't known from the stored steps alone."""
        found = {}
        for key, group in self._groups.items():
            found.update({f"{key}.{name}": value for name, value in group.state().items()})
        return found

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` gave, with the same steps added in the same order before."""
        for key, group in self._groups.items():
            prefix = f"{key}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if own:
                group.load(own)


class Sampling:
    """What batches are drawn from. A part of which nothing is known yet leaves its share to the others."""

    def __init__(self, parts: Sequence[PartConfig], *, exponent: float = 0.6, correction: float = 0.4) -> None:
        """`exponent`, `correction`: alpha and beta of prioritized parts."""
        self.parts = [Part(config, exponent) for config in parts]
        self._correction = correction

    def __len__(self) -> int:
        """How many steps can be drawn, those of several parts counted in each."""
        return sum(map(len, self.parts))

    def add(self, steps: Steps) -> None:
        for part in self.parts:
            part.add(steps)

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """Raises ValueError when nothing is known yet."""
        parts = [part for part in self.parts if len(part)]
        if not parts:
            raise ValueError("no step of any part of a batch is known yet: there is nothing to draw")
        drawn: list[_Drawn] = []
        for part, share in zip(parts, _shares([part.config.share for part in parts], count), strict=True):
            if share:
                drawn += part.draw(share, rng)
        chances = np.concatenate([each.chances(places) for each, places in drawn])
        weight = chances**-self._correction
        weight /= weight.max()
        rows = np.concatenate([each.rows[places] for each, places in drawn])
        return Draw(rows, weight.astype(np.float32), tuple(drawn))

    def keep(self, alive: NDArray[np.bool_]) -> None:
        """Forget the rows that aren't `alive` (all rows,)."""
        for part in self.parts:
            part.keep(alive)

    def state(self) -> dict[str, NDArray[Any]]:
        """What a resumed run needs besides the stored steps, to draw the same."""
        return {f"{i}.{name}": value for i, part in enumerate(self.parts) for name, value in part.state().items()}

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` gave, with the same steps added in the same order before."""
        for i, part in enumerate(self.parts):
            prefix = f"{i}."
            part.load({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})


def _shares(shares: Sequence[float], count: int) -> list[int]:
    """`count` in these proportions, in whole numbers: the largest remainders are rounded up."""
    exact = [share / sum(shares) * count for share in shares]
    whole = [int(n) for n in exact]
    for i in sorted(range(len(whole)), key=lambda i: whole[i] - exact[i])[: count - sum(whole)]:
        whole[i] += 1
    return whole
