"""Decides, tick by tick, which action an arm takes next and when to ask for another chunk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Taken[C]:
    """What `ChunkExecutor.take` chose: an action (D,), and the chunk when this is the first action from it."""

    action: np.ndarray
    began: C | None
    first: int


class ChunkExecutor[C]:
    """Executes chunks of H actions without ever waiting for one.

    A request for the next chunk is due `ahead` actions before the running chunk ends, so that inference has that long;
    as many actions of the new chunk as were executed since its observation are skipped. When no action is left, `take`
    returns None: the arm holds and the tick counts as starved (a held arm does not move on, so nothing is skipped).
    Answers are known by their request; one to any but the open request is dropped and counted. Used by one thread.
    """

    def __init__(self, horizon: int, ahead: int) -> None:
        """Raises ValueError unless 0 <= ahead < horizon: with ahead = horizon no action of a chunk would ever run."""
        if not 0 <= ahead < horizon:
            raise ValueError(f"ahead must be between 0 and horizon - 1 = {horizon - 1}, not {ahead}")
        self._horizon, self._ahead = horizon, ahead
        self._request = -1
        self.starved = 0
        self.dropped = 0
        self.start()

    def start(self) -> None:
        """A new episode: forget the running chunk and any open request."""
        # Counts actions executed, not ticks: a starved tick moves nothing.
        self._done = 0
        self._actions: Sequence[np.ndarray] | np.ndarray = ()
        self._began_at = 0
        self._tag: C | None = None
        self._fresh = False
        self._asked_at: int | None = None
        self._next: tuple[np.ndarray, C, int] | None = None

    def due(self) -> int | None:
        """The number of a new request, when one should be sent with the newest observation; else None."""
        self._begin_next()
        left = self._began_at + len(self._actions) - self._done
        if self._asked_at is not None or self._next is not None or left > self._ahead:
            return None
        self._request += 1
        self._asked_at = self._done
        return self._request

    def offer(self, request: int, actions: np.ndarray, tag: C) -> bool:
        """An answer arrived: (H, D) actions, counted from its request's observation. False: dropped, it is not the open
        one's.
        """
        if request != self._request or self._asked_at is None:
            self.dropped += 1
            return False
        self._next, self._asked_at = (actions, tag, self._asked_at), None
        return True

    @property
    def ready(self) -> bool:
        """An action is there for the next tick."""
        return self._next is not None or self._done < self._began_at + len(self._actions)

    @property
    def asks(self) -> bool:
        """An answer is on its way, and no action is there before it."""
        return self._asked_at is not None and not self.ready

    def give_up(self) -> None:
        """The open request will not be answered (its server is gone): let the next `due` ask again."""
        self._asked_at = None

    def take(self) -> Taken[C] | None:
        """The action of this tick. None: starved, hold."""
        self._begin_next()
        index = self._done - self._began_at
        if index >= len(self._actions):
            self.starved += 1
            return None
        self._done += 1
        began = self._tag if self._fresh else None
        self._fresh = False
        return Taken(self._actions[index], began, index)

    def _begin_next(self) -> None:
        """Go over to the chunk that waits, once the running one is done: what is `due` then counts from its end."""
        if self._next is not None and self._done >= self._began_at + len(self._actions):
            self._actions, self._tag, self._began_at = self._next
            self._next, self._fresh = None, True
