"""How much of the weights may be on its way to an edge, and whether deltas would be there sooner."""

from __future__ import annotations

from typing import NamedTuple

AHEAD_S = 2.0  # what comes within this time may be on its way: a link that turns slow has no more to work off
LIMITED_AHEAD_S = 0.5  # where a limit is set others want the link, so bursts are short
SMALLEST = 16 << 10  # bytes; parts of a chunk are no smaller
_FIRST = 4 * SMALLEST  # on its way at most before anything is known of the link
_DELTA_RATE = 100e6  # bytes of weights per second of which a learner makes deltas
_DELTA_S = 0.002  # what one costs beside that
_PROBE_SHARE = 100  # of the time, one part goes to looking whether the link is fast by now


class Asked(NamedTuple):
    """When something was asked for, and how much had come until then."""

    at: float
    came: int


class Pace:
    """Measures how fast weights come, from what came between asking and getting; used by one thread."""

    def __init__(self, limit: float | None = None) -> None:
        """`limit`: bytes per second over time, None for none."""
        self.limit = limit
        self.rate: float | None = None  # bytes per second, lately
        self._came = 0
        self._free_at = 0.0
        self._link: float | None = None  # bytes per second that came of whole weights, which wait for no delta
        self._best = 0.0
        self._raw_at = 0.0  # when whole weights came last

    @property
    def ahead(self) -> int:
        """Bytes that may be on their way."""
        if self.rate is None:
            return _FIRST
        ahead = AHEAD_S * self.rate
        return max(SMALLEST, int(ahead if self.limit is None else min(ahead, LIMITED_AHEAD_S * self.limit)))

    @property
    def part(self) -> int:
        """The most to ask for at once, so that something comes often, however slow the link."""
        return max(SMALLEST, self.ahead // 4)

    def debt_s(self, now: float) -> float:
        """How long to ask for nothing, by the limit."""
        return max(0.0, self._free_at - now)

    def asks(self, now: float) -> Asked:
        """To be given to `came` with the answer."""
        return Asked(now, self._came)

    def came(self, asked: Asked, nbytes: int, now: float, *, raw: bool) -> None:
        """An answer has come: weights as they are (`raw`), a delta, or nothing as nothing has changed."""
        self._came += nbytes
        if self.limit is not None:
            self._free_at = max(self._free_at, now) + nbytes / self.limit
        if not nbytes:
            return
        seconds = max(now - asked.at, 1e-6)
        rate = (self._came - asked.came) / seconds
        self.rate = rate if self.rate is None else self.rate + (rate - self.rate) / 4
        if raw:
            self._best = max(self._best, rate)
            self._raw_at = now

    def complete(self) -> None:
        """A set of weights is complete."""
        if self._best:
            self._link, self._best = self._best, 0.0

    def wants_delta(self, nbytes: int) -> bool:
        """Whether a delta to a chunk of `nbytes` is likely to be there before the chunk would be."""
        link = self._link or self._best
        return not link or nbytes / link > nbytes / _DELTA_RATE + _DELTA_S

    def probes(self, nbytes: int, now: float) -> bool:
        """Whether to take that chunk as it is even so: deltas don't show how fast the link is by now."""
        link = self._link or self._best
        due = bool(link) and now - self._raw_at > max(1.0, _PROBE_SHARE * nbytes / link)
        if due:
            self._raw_at = now
        return due

    def forget(self) -> None:
        """The connection was lost: what is known may not hold for the next."""
        self.rate = None
