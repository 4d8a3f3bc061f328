"""What on-policy algorithms learn from: whole episodes, each once, by weights that are not too old."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.chunks import Episode
from robotlearn.algorithms.errors import EpisodeError
from robotlearn.buffer.compact import Evicted
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.config.config import Config
from robotlearn.config.learner import LearnerConfig
from robotlearn.errors import LogError
from robotlearn.inputs import Inputs
from robotlearn.learner.episodes import EpisodePool, Waiting
from robotlearn.learner.feed import Feed, Heard
from robotlearn.replay.finished import Finished
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.intake import StoredSegment

log = logging.getLogger(__name__)

UNBOUNDED_UPDATES = 4
"""With max_staleness = inf so many updates' worth of episodes may wait or run; more could only get staler."""


QUIET_S = 5.0
"""An edge that runs nothing and sent nothing for so long has lost what its groups lack."""
AWAY_S = 60.0
"""As long may an edge be away until what it has begun is given up."""


def episode_gate(config: Config) -> StalenessGate:
    """The gate of a run that learns from whole episodes."""
    settings = config.learner
    batch, unbounded = settings.episodes_per_update, settings.max_staleness == math.inf
    most = UNBOUNDED_UPDATES * batch if unbounded else None
    return StalenessGate(batch, settings.max_staleness, max_pending=most, group=config.group)


class EpisodeFeed(Feed):
    """Puts segments together to episodes; an update takes `learner.episodes_per_update` of them."""

    def __init__(
        self,
        algorithm: OnPolicy,
        settings: LearnerConfig,
        inputs: Inputs,
        store: SegmentStore,
        until: Position,
        gate: StalenessGate,
        heard: Heard,
    ) -> None:
        """`store` holds what came before `until`, which nobody will `take`."""
        self._algorithm, self._inputs, self._store, self._gate, self._heard = algorithm, inputs, store, gate, heard
        self._batch = settings.episodes_per_update
        self._pool = EpisodePool(settings.max_staleness, group=algorithm.group)
        self._read_to = until
        """What is stored from here on is not in the pool yet."""
        self._used: tuple[int, int] = (0, 0)
        self._lost = self._unusable = 0

    def begin(self, facts: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> str:
        if facts is None:
            return ""
        # What was stored and not used before the checkpoint, and everything that was stored after it.
        ended = 0
        for unused in facts["unused"]:
            position = Position(*unused)
            try:
                segment = self._store.read(position)
            except LogError as error:
                log.error("an episode is lost to damage in the log: %s", error)
                self._lost += 1
                continue
            ended += segment.last
            self._pool.add([(segment, position)])
        self.env_steps = int(facts["env_steps"])
        for position, segment in self._store.scan(Position(*facts["end"])):
            self.env_steps += segment.steps
            ended += segment.last
            self._pool.add([(segment, position)])
        # Every episode whose end is stored waits, as the gate counts them, also one whose middle is still to come.
        self._gate.restore(ended)
        return f"{len(self._pool) + self._pool.apart} episodes wait in the log"

    def take(self, stored: Sequence[StoredSegment]) -> None:
        for one in stored:
            self._read_to = Position(one.position.file, one.position.offset + one.position.length, 0)
            self.env_steps += one.header.steps
            try:
                segment = one.segment
            except LogError as error:
                # What an edge sent must not end the run; of its episode the other segments wait in vain.
                log.error("an episode of edge %s is lost: %s", one.edge, error)
                self._gate.skipped(int(one.header.last))
                continue
            completed = self._pool.add([(segment, one.position)])
            self._heard(segment, [waiting.finished() for waiting in completed])
        pool = self._pool
        self._gate.skipped(
            pool.drop_stale(self.version) + pool.drop_unfinished() + pool.drop_incomplete(self._patience)
        )

    def _patience(self, edge: str) -> float:
        """For how long what an edge's groups lack may still come [s]."""
        if self._gate.running_at(edge):
            return math.inf
        return QUIET_S if self._gate.knows(edge) else AWAY_S

    @property
    def due(self) -> bool:
        return len(self._pool) >= self._batch

    @property
    def waits_for(self) -> str:
        apart = f", {self._pool.apart} in groups that are not complete" if self._pool.apart else ""
        return f"episodes: {len(self._pool)} of {self._batch}{apart}"

    def update(self, before_change: Callable[[], None]) -> tuple[dict[str, float], Sequence[Finished]] | None:
        taken, skipped = self._pool.take(self._batch)
        self._used = len(taken), skipped
        try:
            metrics = self._algorithm.update([self._shown(one) for one in taken], self.version, before_change)
        except EpisodeError as error:
            # It changed nothing; edges that send such episodes must not end the run, now or at its resume.
            log.error("%d episodes are of no use: %s", len(taken), error)
            self._unusable += len(taken)
            return None
        return metrics, [waiting.finished() for waiting in taken]

    def published(self) -> None:
        taken, skipped = self._used
        self._gate.consumed(taken)
        self._gate.skipped(skipped)

    def moved(self, evicted: Evicted) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        unused = [list(position) for position in self._pool.positions()]
        return {"unused": unused, "end": list(self._read_to), "env_steps": self.env_steps}

    def counts(self) -> dict[str, int]:
        return {
            "episodes_lost": self._lost,
            "episodes_unusable": self._unusable,
            "episodes_skipped_stale": self._pool.skipped_stale,
            "episodes_dropped_unfinished": self._pool.dropped_unfinished,
        } | (
            {"groups_incomplete": self._pool.groups_incomplete, "episodes_incomplete": self._pool.dropped_incomplete}
            if self._algorithm.group > 1
            else {}
        )

    def close(self) -> None:
        pass

    def _shown(self, waiting: Waiting) -> Episode:
        """The episode with what the policy was shown of it, in place of what the arm observed."""
        one = waiting.episode
        return replace(one, observations=self._inputs.observations(one.embodiment, one.observations, one.task))
