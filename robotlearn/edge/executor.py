"""Decides, tick by tick, which action an arm takes next and when to ask for another chunk."""

from dataclasses import dataclass, replace

import numpy as np

from robotlearn.config.edge import ExecutionConfig


@dataclass(frozen=True)
class Taken[C]:
    """What `ChunkExecutor.take` chose: an action (D,), and the chunk when this is the first action from it."""

    action: np.ndarray
    began: C | None
    first: int


@dataclass(frozen=True)
class _Chunk[C]:
    """Actions (H, D), the first of them at action `start` of the episode; may take over from action `over` on.

    `way`: (H, R) where they lead, in the entries that are deltas; None: nowhere in particular.
    """

    actions: np.ndarray
    tag: C
    start: int
    over: int
    way: np.ndarray | None

    def left(self, done: int, moved: np.ndarray) -> np.ndarray:
        """(L, D) what is left after `done` actions, whose deltas came to `moved`: the first leads back to the way."""
        index = done - self.start
        actions = self.actions[index:]
        if self.way is not None and len(actions):
            actions = actions.copy()
            actions[0, : len(moved)] = self.way[index] - moved
        return actions


class ChunkExecutor[C]:
    """Executes chunks of H actions without ever waiting for one.

    A request for the next chunk is due `ahead` actions before the running one ends. Actions of the new chunk that were
    executed since its observation are skipped. When no action is left, `take` returns None: the arm holds and the tick
    counts as starved (a held arm does not move on, so nothing is skipped). Answers are known by their request; one to
    any but the open request is dropped and counted. Used by one thread. By `execution.way` the new chunk takes over

    - wait, hold: when the running one is done;
    - overlap: at once; as long as chunks overlap, their mean is executed with weights exp(-decay i), i = 0 for the
      oldest (ACT, arXiv:2304.13705);
    - rtc, prefix: at once; its request carries what the running one has left. Of these and of overlap, a chunk's deltas
      lead from where its observation was made: what others did meanwhile is made up for, or what it corrects at its
      beginning, while it was computed, would never be done;
    - vlash: after the actions that its request calls committed: those of the expected delay. Its own first action is
      the one after them (arXiv:2512.01031).
    """

    def __init__(self, horizon: int, execution: ExecutionConfig, deltas: int = 0) -> None:
        """`deltas`: so many entries of an action, the first, are relative to what was executed before.

        Raises ValueError unless ahead < horizon: with ahead = horizon no action of a chunk would ever run."""
        if not execution.ahead < horizon:
            raise ValueError(f"ahead must be between 0 and horizon - 1 = {horizon - 1}, not {execution.ahead}")
        self._way, self._decay, self._deltas = execution.way, execution.decay, deltas
        self._ahead = 0 if execution.way == "wait" else execution.ahead
        self._request = -1
        self.starved = 0
        self.dropped = 0
        self.start()

    def start(self) -> None:
        """A new episode: forget the running chunk and any open request."""
        # Counts actions executed, not ticks: a starved tick moves nothing.
        self._done = 0
        self._chunks: list[_Chunk[C]] = []  # the running one is the last; those before it still overlap
        self._fresh = False
        self._interrupted = False
        self._asked_at: int | None = None
        self._starts = 0
        self._moved = np.zeros(self._deltas)  # what all deltas that were executed came to
        self._from: np.ndarray | None = None  # that at the open request's observation, where its chunk leads from there
        self._next: _Chunk[C] | None = None

    def due(self, delay: int | None = None) -> int | None:
        """The number of a new request, when one should be sent with the newest observation; else None.

        `delay`: the steps that its answer is expected to take; None: nobody knows, as long as the chunk lasts.
        """
        self._begin_next()
        if self._asked_at is not None or self._next is not None or self._left > self._ahead:
            return None
        self._request += 1
        self._asked_at = self._starts = self._done
        self._from = self._moved if self._way in ("overlap", "rtc", "prefix") else None
        if self._way == "vlash":
            self._starts += len(self.plan(delay))
        return self._request

    def plan(self, count: int | None = None) -> np.ndarray:
        """(L, D) what the running chunk has left, the next action first; its first `count` at most.

        Nothing where it makes no plan: where somebody else acted since it began, or a number isn't finite.
        """
        if self._interrupted or not self._left:
            return np.zeros((0, 0), np.float32)
        left = self._chunks[-1].left(self._done, self._moved)[:count]
        return left if np.isfinite(left).all() else left[:0]

    def offer(self, request: int, actions: np.ndarray, tag: C) -> bool:
        """An answer arrived: (H, D) actions, counted from its request's observation. False: dropped, it is not the open
        one's.
        """
        if request != self._request or self._asked_at is None:
            self.dropped += 1
            return False
        over = self._done + self._left if self._way in ("wait", "hold") else self._starts
        way = None if self._from is None else self._from + np.cumsum(actions[:, : self._deltas], 0)
        self._next, self._asked_at = _Chunk(actions, tag, self._starts, over, way), None
        return True

    @property
    def ready(self) -> bool:
        """An action is there for the next tick."""
        return self._next is not None or self._left > 0

    @property
    def asks(self) -> bool:
        """An answer is on its way, and no action is there before it."""
        return self._asked_at is not None and not self.ready

    def give_up(self) -> None:
        """The open request will not be answered (its server is gone): let the next `due` ask again."""
        self._asked_at = None

    def interrupt(self) -> None:
        """Somebody else acted in this tick: what chunks have left is no plan any more, until the next one begins."""
        self._interrupted = True
        # Nor is the arm to go back to where they lead.
        self._chunks = [replace(chunk, way=None) for chunk in self._chunks[-1:]]
        self._next = None if self._next is None else replace(self._next, way=None)
        self._from = None

    def executed(self, action: np.ndarray) -> None:
        """What a tick came to, after safety and whoever acted: (D,)."""
        self._moved = self._moved + action[: self._deltas]

    def take(self) -> Taken[C] | None:
        """The action of this tick. None: starved, hold."""
        self._begin_next()
        actions = [left[0] for chunk in self._chunks if len(left := chunk.left(self._done, self._moved))]
        if not actions:
            self.starved += 1
            return None
        running = self._chunks[-1]
        taken = Taken(self._mean(actions), running.tag if self._fresh else None, self._done - running.start)
        self._fresh = False
        self._done += 1
        return taken

    def _mean(self, actions: list[np.ndarray]) -> np.ndarray:
        if len(actions) == 1:
            return actions[0]
        weights = np.exp(-self._decay * np.arange(len(actions)))
        return np.average(actions, 0, weights).astype(np.float32)

    @property
    def _left(self) -> int:
        """Actions of the running chunk that are not executed yet."""
        return self._chunks[-1].start + len(self._chunks[-1].actions) - self._done if self._chunks else 0

    def _begin_next(self) -> None:
        """Go over to the chunk that waits, once it may: what is `due` then counts from its end."""
        if self._next is None or (self._left and self._done < self._next.over):
            return
        overlap = self._way == "overlap" and not self._interrupted
        kept = [chunk for chunk in self._chunks if len(chunk.left(self._done, self._moved))] if overlap else []
        self._chunks, self._next = [*kept, self._next], None
        self._fresh, self._interrupted = True, False
