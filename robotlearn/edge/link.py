"""`Link`: what a client knows of its way to an arm: round trips, losses, and the difference of the two clocks."""

import math
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

_LOST_S = 1.0  # without an answer a message counts as lost
_KEPT = 1024  # round trips, and fates of messages
_CLOCK_S = 10.0  # the clocks' difference is that of the quickest round trip of so long


@dataclass(frozen=True)
class LinkState:
    """How a link is.

    rtt_median_ms, rtt_p99_ms  round trips of the last 1,024 messages that were answered; NaN before the first
    answered    share of the last 1,024 messages that were answered within 1 s; 1 before the first
    lost        messages that were not
    late        set-points that came after their deadline and were dropped at the arm
    old         set-points that came out of order, or twice, and were dropped at the arm
    superseded  set-points that were not sent because a newer one was there first
    states_missed  states of the arm that never came: dropped there because this side was slow
    images_late  states whose images in shared memory were overwritten before this side looked
    silent_s    since anything came from the arm
    frames      how its images come: `shared memory`, or `tcp (why)`; "" where none are asked for
    """

    rtt_median_ms: float
    rtt_p99_ms: float
    answered: float
    lost: int
    late: int
    old: int
    superseded: int
    states_missed: int
    images_late: int
    silent_s: float
    frames: str


class Link:
    """Times are this machine's monotonic clock [s]; the caller holds a lock."""

    def __init__(self) -> None:
        self.late = self.old = self.superseded = self.states_missed = self.images_late = self.lost = 0
        self.frames = ""
        self.heard_at = -math.inf
        self._sent: dict[int, float] = {}  # sequence and time of what isn't answered yet, oldest first
        self._fates: deque[bool] = deque(maxlen=_KEPT)
        self._rtt: deque[float] = deque(maxlen=_KEPT)
        # The quickest round trip and its difference of clocks: of this half of the time, and of the one before.
        self._best = self._before = (math.inf, 0.0)
        self._half = -math.inf

    def sent(self, sequence: int, now: float) -> None:
        """A message that is to be answered went out."""
        self._sent[sequence] = now

    def answered(self, sequence: int, at: float, now: float) -> None:
        """The arm's answer to it came, given `at` by the arm's clock."""
        then = self._sent.pop(sequence, None)
        if then is None:
            return  # it counts as lost already
        self._fates.append(True)
        rtt = now - then
        self._rtt.append(rtt)
        if now - self._half > _CLOCK_S / 2:
            self._before, self._best, self._half = self._best, (math.inf, 0.0), now
        self._best = min(self._best, (rtt, at - (then + now) / 2))

    def forget(self, now: float) -> None:
        """Give up what was not answered in time."""
        for sequence in [sequence for sequence, then in self._sent.items() if now - then > _LOST_S]:
            del self._sent[sequence]
            self._fates.append(False)
            self.lost += 1

    @property
    def ahead(self) -> float:
        """By how much the arm's monotonic clock is ahead of this one; wrong by half a round trip at most."""
        return min(self._best, self._before)[1]

    @property
    def share(self) -> float:
        """Of messages that were answered."""
        return sum(self._fates) / len(self._fates) if self._fates else 1.0

    def state(self) -> LinkState:
        rtt = np.array(self._rtt) * 1e3
        median, p99 = np.percentile(rtt, (50, 99)) if len(rtt) else (math.nan, math.nan)
        silent = time.monotonic() - self.heard_at
        return LinkState(
            float(median),
            float(p99),
            self.share,
            self.lost,
            self.late,
            self.old,
            self.superseded,
            self.states_missed,
            self.images_late,
            silent,
            self.frames,
        )
