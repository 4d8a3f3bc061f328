"""Episodes that wait to be learnt from, put together from the segments that the intake stored."""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robotlearn.algorithms.chunks import Episode, join
from robotlearn.algorithms.errors import EpisodeError
from robotlearn.buffer.log_files import Position
from robotlearn.replay.finished import Finished
from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)

EpisodeKey = tuple[str, int]
Stored = tuple[Segment, Position]


@dataclass(frozen=True)
class Waiting:
    """A complete episode; `oldest_version` and `newest_version` of its chunks, `positions` of its segments."""

    edge: str
    episode: Episode
    oldest_version: int
    newest_version: int
    positions: tuple[Position, ...]

    def finished(self) -> Finished:
        """What became of it."""
        one = self.episode
        return Finished(
            edge=self.edge,
            embodiment=one.embodiment,
            task=one.task,
            steps=len(one),
            success=bool(one.success[-1]),
            reward=float(one.reward.sum()),
            versions=one.version,
            intervened=int(one.intervention.sum()),
        )


@dataclass
class _Parts:
    stored: list[Stored]
    touched: float

    def complete(self) -> bool:
        # Segments may arrive in any order: complete when the last one is here and all steps before it are.
        last = [segment for segment, _ in self.stored if segment.last]
        return bool(last) and sum(segment.steps for segment, _ in self.stored) == last[0].first_step + last[0].steps


class EpisodePool:
    """Holds what was stored and not yet used: parts of unfinished episodes, and complete episodes.

    An episode is taken once. Too stale ones are skipped and counted; they stay stored in the log. Used by one thread.
    """

    def __init__(self, max_staleness: float, max_parts: int = 4096) -> None:
        """`max_parts` bounds the unfinished episodes: beyond it the longest untouched is dropped and counted."""
        self._max_staleness, self._max_parts = max_staleness, max_parts
        self._parts: dict[EpisodeKey, _Parts] = {}
        self._ready: list[Waiting] = []
        self._unfit = 0
        self.completed = self.skipped_stale = self.dropped_unfinished = 0

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, stored: Iterable[Stored]) -> list[Waiting]:
        """Sort stored segments in; returns the episodes that this completed."""
        before = len(self._ready)
        for segment, position in stored:
            key = (segment.edge, segment.episode)
            parts = self._parts.pop(key, None) or _Parts([], 0.0)
            parts.stored.append((segment, position))
            parts.touched = time.monotonic()
            self._parts[key] = parts
            if parts.complete():
                del self._parts[key]
                self._complete(parts.stored)
        return self._ready[before:]

    def _complete(self, stored: Sequence[Stored]) -> None:
        try:
            episode = join([segment for segment, _ in stored])
        except EpisodeError as error:
            # A faulty edge must not end the learner.
            log.warning("an episode of edge %s is dropped: %s", stored[0][0].edge, error)
            self._unfit += 1
            self.dropped_unfinished += 1
            return
        versions = episode.version.tolist()
        positions = tuple(position for _, position in stored)
        oldest, newest = min(versions, default=-1), max(versions, default=-1)
        self._ready.append(Waiting(stored[0][0].edge, episode, oldest, newest, positions))
        self.completed += 1

    def drop_unfinished(self, patience_s: float = 60.0) -> int:
        """Give up on episodes whose end came and whose middle did not, for `patience_s`; and on the longest untouched
        beyond the bound. Returns how many of them had ended (those the gate counts as waiting), and with them those
        whose segments did not fit together since the last call.
        """
        unfit, self._unfit = self._unfit, 0
        before = time.monotonic() - patience_s
        ended = {key for key, parts in self._parts.items() if any(segment.last for segment, _ in parts.stored)}
        late = [key for key in ended if self._parts[key].touched < before]
        excess = list(self._parts)[: max(0, len(self._parts) - self._max_parts)]
        dropped = {*late, *excess}
        for key in dropped:
            del self._parts[key]
        self.dropped_unfinished += len(dropped)
        return len(dropped & ended) + unfit

    def drop_stale(self, version: int) -> int:
        """Take out what is too stale for the weights `version`, or newer than they are: the work of another run's
        weights, from an edge that was cut off. Returns how many episodes were skipped.
        """
        return self._skip(
            [
                waiting
                for waiting in self._ready
                if version - waiting.oldest_version <= self._max_staleness and waiting.newest_version <= version
            ]
        )

    def take(self, count: int) -> tuple[list[Waiting], int]:
        """Take `count` episodes: under a staleness bound the stalest, which can wait least; without one the newest.

        Stalest first also keeps what is learnt from unbiased: in order of arrival, episodes that take long would be
        overtaken until they were too stale. Returns them and how many were skipped: without a bound those left over
        could only get staler. Raises ValueError when fewer are ready.
        """
        if len(self._ready) < count:
            raise ValueError(f"{count} episodes asked for, {len(self._ready)} are ready")
        if math.isinf(self._max_staleness):
            taken = self._ready[-count:]
            self._ready = self._ready[:-count]
            return taken, self._skip([])
        self._ready.sort(key=lambda waiting: waiting.oldest_version)
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken, 0

    def positions(self) -> list[Position]:
        """Where in the log everything lies that is held here, in the log's order; for a checkpoint."""
        found = [position for waiting in self._ready for position in waiting.positions]
        return sorted(found + [position for parts in self._parts.values() for _, position in parts.stored])

    def _skip(self, kept: list[Waiting]) -> int:
        skipped = len(self._ready) - len(kept)
        self._ready = kept
        self.skipped_stale += skipped
        return skipped
