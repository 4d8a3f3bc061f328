"""Episodes that wait to be learnt from, put together from the segments that the intake stored, and to groups."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from robotlearn.algorithms.chunks import Episode, join
from robotlearn.algorithms.errors import EpisodeError
from robotlearn.buffer.log_files import Position
from robotlearn.replay.finished import Finished
from robotlearn.wire.segment import Segment

log = logging.getLogger(__name__)

EpisodeKey = tuple[str, int]
GroupKey = tuple[str, int]
Stored = tuple[Segment, Position]


@dataclass(frozen=True)
class Waiting:
    """A complete episode; `oldest_version` and `newest_version` of its chunks, `positions` of its segments."""

    edge: str
    episode: Episode
    oldest_version: int
    newest_version: int
    positions: tuple[Position, ...]

    @property
    def began(self) -> int:
        """The version of its first chunk."""
        return int(self.episode.version[0]) if len(self.episode.version) else -1

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
    """Holds what was stored and not yet used: parts of unfinished episodes, complete ones, and incomplete groups.

    An episode is taken once. Too stale ones are skipped and counted; they stay stored in the log. Where `group`
    episodes belong together they are taken and skipped together; a group whose rest will not come is dropped and
    counted. Its length is how many episodes can be taken. Used by one thread.
    """

    def __init__(self, max_staleness: float, max_parts: int = 4096, group: int = 1) -> None:
        """`max_parts` bounds the unfinished episodes and the incomplete groups: beyond it the longest untouched, or the
        oldest, is dropped and counted.
        """
        self._max_staleness, self._max_parts, self._group = max_staleness, max_parts, group
        self._parts: dict[EpisodeKey, _Parts] = {}
        self._groups: dict[GroupKey, dict[int, Waiting]] = {}  # incomplete ones, by member
        self._quiet: dict[str, float] = {}  # since when nothing came from an edge that has such
        self._ready: list[tuple[Waiting, ...]] = []
        self._unfit = 0
        self.completed = self.skipped_stale = self.dropped_unfinished = 0
        self.groups_incomplete = self.dropped_incomplete = 0

    def __len__(self) -> int:
        return len(self._ready) * self._group

    @property
    def apart(self) -> int:
        """Complete episodes of incomplete groups."""
        return sum(map(len, self._groups.values()))

    def add(self, stored: Iterable[Stored]) -> list[Waiting]:
        """Sort stored segments in; returns the episodes that this completed."""
        completed = []
        for segment, position in stored:
            key = (segment.edge, segment.episode)
            parts = self._parts.pop(key, None) or _Parts([], 0.0)
            parts.stored.append((segment, position))
            parts.touched = time.monotonic()
            self._parts[key] = parts
            self._quiet.pop(segment.edge, None)
            if parts.complete():
                del self._parts[key]
                if (waiting := self._complete(parts.stored)) is not None:
                    completed.append(waiting)
                    self._put(waiting)
        return completed

    def _complete(self, stored: Sequence[Stored]) -> Waiting | None:
        try:
            episode = join([segment for segment, _ in stored])
        except EpisodeError as error:
            # A faulty edge must not end the learner.
            log.warning("an episode of edge %s is dropped: %s", stored[0][0].edge, error)
            self._unfit += 1
            self.dropped_unfinished += 1
            return None
        versions = episode.version.tolist()
        positions = tuple(position for _, position in stored)
        oldest, newest = min(versions, default=-1), max(versions, default=-1)
        self.completed += 1
        return Waiting(stored[0][0].edge, episode, oldest, newest, positions)

    def _put(self, waiting: Waiting) -> None:
        """To those that can be taken, or to its group."""
        if self._group == 1:
            self._ready.append((waiting,))
            return
        group = waiting.episode.group
        members = self._groups.setdefault((waiting.edge, group.id), {}) if group is not None else {}
        if group is None or group.member in members:
            # As above: a faulty edge.
            log.warning("an episode of edge %s is dropped: it is of no group, or its place is taken", waiting.edge)
            self._unfit += 1
            self.dropped_incomplete += 1
            return
        members[group.member] = waiting
        if len(members) < self._group:
            return
        del self._groups[waiting.edge, group.id]
        if len({one.began for one in members.values()}) > 1:
            log.warning("a group of edge %s is dropped: its episodes began under several versions", waiting.edge)
            self._unfit += self._drop_apart(members)
        else:
            self._ready.append(tuple(members[member] for member in sorted(members)))

    def _drop_apart(self, members: dict[int, Waiting]) -> int:
        self.groups_incomplete += 1
        self.dropped_incomplete += len(members)
        return len(members)

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
        weights, from an edge that was cut off; a group as a whole, if one of its episodes is. Returns how many episodes
        were skipped.
        """

        def fit(some: Iterable[Waiting]) -> bool:
            return all(
                version - one.oldest_version <= self._max_staleness and one.newest_version <= version for one in some
            )

        stale = [key for key, members in self._groups.items() if not fit(members.values())]
        apart = sum(len(self._groups.pop(key)) for key in stale)
        self.skipped_stale += apart
        return apart + self._skip([some for some in self._ready if fit(some)])

    def drop_incomplete(self, patience: Callable[[str], float]) -> int:
        """Give up on groups from whose edge, as seen from call to call, nothing has come for `patience(edge)` seconds,
        and on the oldest beyond the bound. Returns how many episodes that were; those of them that come later are a
        group of their own, as incomplete.
        """
        now = time.monotonic()
        waits = {edge: patience(edge) for edge, _ in self._groups}
        self._quiet = {edge: self._quiet.get(edge, now) for edge, wait in waits.items() if wait < math.inf}
        late = [key for key in self._groups if now - self._quiet.get(key[0], now) >= waits[key[0]]]
        excess = list(self._groups)[: max(0, len(self._groups) - self._max_parts)]
        return sum(self._drop_apart(self._groups.pop(key)) for key in {*late, *excess})

    def take(self, count: int) -> tuple[list[Waiting], int]:
        """Take `count` episodes, whole groups: under a staleness bound the stalest, which can wait least; without one
        the newest.

        Stalest first also keeps what is learnt from unbiased: in order of arrival, episodes that take long would be
        overtaken until they were too stale. Returns them and how many were skipped: without a bound those left over
        could only get staler. Raises ValueError when fewer are ready.
        """
        if len(self) < count or count % self._group:
            raise ValueError(f"{count} episodes asked for, {len(self)} are ready in groups of {self._group}")
        groups, skipped = count // self._group, 0
        if math.isinf(self._max_staleness):
            taken, self._ready = self._ready[-groups:], self._ready[:-groups]
            skipped = self._skip([])
        else:
            self._ready.sort(key=lambda some: min(one.oldest_version for one in some))
            taken, self._ready = self._ready[:groups], self._ready[groups:]
        return [one for some in taken for one in some], skipped

    def positions(self) -> list[Position]:
        """Where in the log everything lies that is held here, in the log's order; for a checkpoint."""
        held = (*self._ready, *(tuple(members.values()) for members in self._groups.values()))
        found = [position for some in held for waiting in some for position in waiting.positions]
        return sorted(found + [position for parts in self._parts.values() for _, position in parts.stored])

    def _skip(self, kept: list[tuple[Waiting, ...]]) -> int:
        skipped = (len(self._ready) - len(kept)) * self._group
        self._ready = kept
        self.skipped_stale += skipped
        return skipped
