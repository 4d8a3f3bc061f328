"""How much may be sent by now, where a rate is not to be exceeded (a token bucket)."""

from __future__ import annotations

import math
import time

_BURST_S = 0.25


class Allowance:
    """Bytes at `rate` per second, at most a quarter of a second's worth at once; times are `time.monotonic`.

    A message is sent as a whole: it may overdraw what is left, and the next one waits for that.
    """

    def __init__(self, rate: float) -> None:
        """`rate` [bytes/s] may be inf: then there is no limit."""
        self.rate = rate
        self._left = rate * _BURST_S
        self._at = time.monotonic()

    def left(self, now: float) -> float:
        """What may be sent now, none if not positive."""
        if self.rate < math.inf:
            self._left = min(self._left + self.rate * (now - self._at), self.rate * _BURST_S)
            self._at = now
        return self._left

    def spend(self, size: int) -> None:
        """So much was sent."""
        self._left -= size

    def due(self, now: float) -> float:
        """In how many seconds something may be sent again; inf while something may be now."""
        return math.inf if self.left(now) > 0 else max(1e-3, -self._left / self.rate)
