"""Eviction: which episodes go out of a store, and taking them out of its files.

The order: the oldest first, by when their last segment was stored. Never one in which a person intervened (starred),
and never what somebody still needs. Without the share that a file must gain, one small old episode after the other
would have a whole file written anew.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robotlearn.buffer.index import EpisodeEntry, EpisodeKey, SegmentIndex
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import SegmentStore

logger = logging.getLogger("robotlearn.buffer")

LEAST = 0.25
"""The share of a file that must go, or it is not written anew for it."""


@dataclass(frozen=True)
class Needs:
    """What must stay, where it is: everything from `keep_from` on, and `positions`. The files of both are left alone,
    so that whoever holds these positions (a learner, a checkpoint) need not follow.

    `keep_from` None: nothing but `positions`. At the end of what is stored it holds back nothing.
    """

    keep_from: Position | None = None
    positions: Collection[Position] = ()

    def files(self, sizes: Mapping[int, int]) -> set[int]:
        """The files that are left alone, of those with these sizes."""
        held = {position.file for position in self.positions}
        if self.keep_from is not None:
            file, offset, _ = self.keep_from
            held |= {number for number, size in sizes.items() if number > file or (number == file and size > offset)}
        return held


    @classmethod
    def of(cls, facts: Sequence[Mapping[str, Any]]) -> Needs:
        """All that any of these facts, of checkpoints or of a feed, would read again, or names as damaged."""
        ends = [Position(*one["end"]) for one in facts if "end" in one]
        named = [each for one in facts for key in ("unused", "damaged") for each in one.get(key, ())]
        own = [place for one in facts for log, *place in one.get("unreadable", ()) if log == 0]
        return cls(min(ends, default=None), [Position(*each) for each in (*named, *own)])


NOTHING = Needs()


@dataclass(frozen=True)
class Plan:
    """What is to go, `gone` by file, and what stays of these files.

    `starred` and `needed`: episodes that would have gone but for this. An episode goes whole or not at all.
    """

    gone: dict[int, list[Position]]
    kept: dict[int, list[Position]]
    episodes: int
    starred: int
    needed: int

    @property
    def segments(self) -> int:
        return sum(map(len, self.gone.values()))

    @property
    def nbytes(self) -> int:
        return sum(position.length for positions in self.gone.values() for position in positions)


@dataclass(frozen=True)
class Evicted:
    """What went. `moved`: for each position in a file that was worked on where its segment is now, None for what went;
    whoever holds positions must follow. `episodes`: those of which anything went.
    """

    moved: dict[Position, Position | None] = field(default_factory=dict)
    episodes: int = 0
    segments: int = 0
    nbytes: int = 0


def evict(
    store: SegmentStore, index: SegmentIndex, max_bytes: int, *, needs: Needs = NOTHING, limit_s: float = math.inf
) -> Evicted:
    """Take out the oldest episodes until the store has at most `max_bytes`, or nothing may go any more.

    For a live learner, between updates: after `limit_s` [s] no file but the first is begun (one takes about a tenth of
    a second); a later call goes on. `index` is of the store, and follows it.

    Raises LogError when the disk fails or is full; what was evicted then is, and counted.
    """
    excess = store.bytes - max_bytes
    if excess <= 0:
        return Evicted()
    return carry_out(store, index, lambda sizes: oldest(index, sizes, excess, needs), limit_s=limit_s)


def carry_out(
    store: SegmentStore,
    index: SegmentIndex,
    choose: Callable[[Mapping[int, int]], Plan],
    *,
    limit_s: float = math.inf,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Evicted:
    """Do what `choose` plans for files of these sizes. See `evict`; `progress(files done, of how many)`."""
    until = time.monotonic() + limit_s
    index.update(limit_s)  # of a file that it doesn't know yet nothing goes
    plan = choose(store.records.file_sizes())
    if store.end.file in plan.gone:
        store.rotate()
        index.update(max(0.0, until - time.monotonic()))
        plan = choose(store.records.file_sizes())
    # What came since is in no plan that was made: its file is left to a later call.
    work = {file: (plan.kept[file], len(gone)) for file, gone in plan.gone.items() if file != store.end.file}
    if not work:
        return Evicted()
    keys = {position: key for file in work for position, key in index.episodes_of(file)}
    found = store.keep_only(work, until - time.monotonic(), progress)
    index.update(limit_s)
    gone = [position for file in found for position in plan.gone[file]]
    moved: dict[Position, Position | None] = dict.fromkeys(gone)
    for places in found.values():
        moved.update(places)
    episodes = len({keys[position] for position in gone})
    return Evicted(moved, episodes, len(gone), sum(position.length for position in gone))


def oldest(index: SegmentIndex, sizes: Mapping[int, int], nbytes: int, needs: Needs = NOTHING) -> Plan:
    """The oldest episodes that free at least `nbytes`, or all that may go."""
    plan = _oldest(index, sizes, nbytes, needs, LEAST)
    return plan if plan.nbytes >= nbytes else _oldest(index, sizes, nbytes, needs, 0.0)


def chosen(
    index: SegmentIndex, sizes: Mapping[int, int], episodes: Iterable[EpisodeEntry], needs: Needs = NOTHING
) -> Plan:
    """These episodes, but those that never go."""
    choice = _Choice(index, sizes, needs, least=0.0)
    for episode in episodes:
        choice.add(episode)
    return choice.plan()


def _oldest(index: SegmentIndex, sizes: Mapping[int, int], nbytes: int, needs: Needs, least: float) -> Plan:
    choice, target = _Choice(index, sizes, needs, least), nbytes
    for episode in index.episodes():
        if choice.nbytes >= target:
            lacking = nbytes - sum(map(_nbytes, choice.whole().values()))
            if lacking <= 0:
                break
            target = choice.nbytes + max(lacking, choice.nbytes // 8)  # or each step would look at all of it again
        choice.add(episode)
    return choice.plan()


class _Choice:
    """Episodes that may go, as they are chosen one by one."""

    def __init__(self, index: SegmentIndex, sizes: Mapping[int, int], needs: Needs, least: float) -> None:
        self._index, self._sizes, self._least = index, sizes, least
        self._held = needs.files(sizes)
        self._fits: dict[int, bool] = {}
        self._episodes: dict[EpisodeKey, list[Position]] = {}
        self.nbytes = self._starred = self._needed = 0

    def add(self, episode: EpisodeEntry) -> None:
        if episode.starred:
            self._starred += 1
            return
        positions = self._index.of_episode(episode.key)
        if any(position.file in self._held or not self._known(position.file) for position in positions):
            self._needed += 1
            return
        self._episodes[episode.key] = positions
        self.nbytes += episode.nbytes

    def whole(self) -> dict[EpisodeKey, list[Position]]:
        """The episodes but those in files of which too little would go; without them it may be too little of others."""
        left = dict(self._episodes)
        while True:
            share: dict[int, float] = {}
            for positions in left.values():
                for position in positions:
                    share[position.file] = share.get(position.file, 0.0) + position.length / self._sizes[position.file]
            spared = {file for file, gone in share.items() if gone < self._least}
            if not spared:
                return left
            left = {
                key: positions
                for key, positions in left.items()
                if not any(position.file in spared for position in positions)
            }

    def plan(self) -> Plan:
        left = self.whole()
        gone: dict[int, list[Position]] = {}
        for positions in left.values():
            for position in positions:
                gone.setdefault(position.file, []).append(position)
        kept = {}
        for file, positions in gone.items():
            positions.sort()
            going = set(positions)
            kept[file] = [position for position in self._index.of_file(file) if position not in going]
        return Plan(gone, kept, len(left), self._starred, self._needed)

    def _known(self, file: int) -> bool:
        """Whether the index knows every byte of a file: what it doesn't know is damage, which a repair is to find."""
        if file not in self._fits:
            self._fits[file] = self._index.covers(file, self._sizes.get(file, 0))
        return self._fits[file]


def _nbytes(positions: Iterable[Position]) -> int:
    return sum(position.length for position in positions)
