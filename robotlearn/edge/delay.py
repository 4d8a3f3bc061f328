"""How long an arm waits for a chunk, measured."""

from collections import deque
from dataclasses import dataclass

OF_LATE = 8
_OPEN = 16  # requests that an answer may still come to


@dataclass(frozen=True)
class _Asked:
    with_plan: bool
    step: int
    at: float


class Delay:
    """The delay from a request to its answer in control steps: the longest of the last 8, as RTC has it.

    What happens once is not expected again. So no answer counts that is the first of its kind (with a plan, without
    one) from a policy server that has just started; nor one that is the first with new weights, unless the one before
    brought new weights, too: then that is how it goes. Used by one thread.
    """

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._of_late: deque[int] = deque(maxlen=OF_LATE)
        self._known: set[tuple[int, bool]] = set()
        self._version: int | None = None
        self._swapped = False
        self._waits: deque[float] = deque(maxlen=OF_LATE)

    @property
    def longest_s(self) -> float:
        """The longest wait of the last 8, seconds, whether they count or not."""
        return max(self._waits, default=0.0)

    @property
    def steps(self) -> int | None:
        """Longest of the last 8 that count; None before the first."""
        return max(self._of_late, default=None)

    def asked(self, request: int, with_plan: bool, step: int, now: float) -> None:
        """A request went out at control step `step`, `now` in seconds."""
        self._asked[request] = _Asked(with_plan, step, now)
        while len(self._asked) > _OPEN:
            del self._asked[next(iter(self._asked))]

    def restart(self) -> None:
        """Steps count anew: what was asked before can't be measured any more."""
        self._asked.clear()

    def answered(self, request: int, server: int, version: int, step: int, now: float) -> None:
        """Its answer is there at `step`, `now`: from that life of the server, with those weights; dropped or not."""
        one = self._asked.pop(request, None)
        if one is None:
            return
        self._waits.append(now - one.at)
        first = (server, one.with_plan) not in self._known
        if first and server not in {known for known, _ in self._known}:
            self._known.clear()  # the one before is gone
        self._known.add((server, one.with_plan))
        swapped, again = self._version not in (None, version), self._swapped
        self._version, self._swapped = version, swapped
        if not first and (again or not swapped):
            self._of_late.append(step - one.step)
