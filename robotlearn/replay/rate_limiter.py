"""RateLimiter: optimiser steps per environment step, held at a number whatever the hardware."""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction

from robotlearn.errors import ConfigError

_LENGTHS = 100
"""Episodes whose mean length tells how many are under way in how many steps."""


class RateLimiter:
    """Says when an update is due, and how many episodes may be ahead of training.

    With S = steps_per_update / update_to_data environment steps per update, the k-th update (1, 2, ...) is due once
    starts_after + k S steps are there: optimiser steps never run ahead of the data. The other way round, edges are held
    by the learner's gate once (max_staleness + 1) S steps wait or are under way. An episode that has begun is never
    broken off, so beyond that bound lie at most the episodes that run. In between both go as fast as they can.
    """

    def __init__(
        self,
        update_to_data: float,
        steps_per_update: int,
        starts_after: int,
        *,
        max_staleness: float,
        episode_steps: int,
    ) -> None:
        """`episode_steps`: length of an episode before any has ended; `max_staleness` finite.

        Raises ConfigError for numbers with which learner and edges would wait for each other for ever.
        """
        staleness_works = math.isfinite(max_staleness) and max_staleness >= 0
        update_works = update_to_data > 0 and 0 < steps_per_update / update_to_data < math.inf
        if not (staleness_works and update_works and starts_after >= 0):
            raise ConfigError(
                f"{update_to_data} optimiser steps per environment step in updates of {steps_per_update}, after "
                f"{starts_after} steps, {max_staleness} updates ahead: no update would ever be due, or all at once, or "
                "edges never let go on"
            )
        self.update_to_data, self.steps_per_update, self.starts_after = update_to_data, steps_per_update, starts_after
        self.steps = self.updates = 0
        """Environment steps that are there; updates that were done."""
        # As it is written: with sums of rounded numbers an update would now and then be due a step late.
        self._per_update = steps_per_update / Fraction(str(update_to_data))
        self._window = (max_staleness + 1) * float(self._per_update)
        self._lengths: deque[int] = deque([max(1, episode_steps)], maxlen=_LENGTHS)

    @property
    def due(self) -> bool:
        """Whether the next update's data are there."""
        return self.missing <= 0

    @property
    def missing(self) -> int:
        """Environment steps until an update is due."""
        return math.ceil(self.starts_after + (self.updates + 1) * self._per_update - self.steps)

    @property
    def held(self) -> float:
        """Optimiser steps per environment step since training began; what `update_to_data` should be."""
        data = self.steps - self.starts_after
        return self.updates * self.steps_per_update / data if data > 0 else 0.0

    @property
    def episode_steps(self) -> float:
        """Mean length of the last episodes."""
        return sum(self._lengths) / len(self._lengths)

    def ended(self, steps: int) -> None:
        """An episode of that length ended."""
        self._lengths.append(max(1, steps))

    def ahead(self) -> tuple[int, int]:
        """How many episodes may wait or run, and how many wait, in the mean length of episodes.

        The first is always larger than the second while no update is due, so that somebody may go on. Before training
        begins nobody needs to wait.
        """
        mean = self.episode_steps
        window = max(self._window, self.starts_after) if self.steps < self.starts_after else self._window
        waiting = max(0.0, float(self.steps - self.starts_after - self.updates * self._per_update))
        return math.ceil(window / mean), math.floor(waiting / mean)
