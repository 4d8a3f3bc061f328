"""How much an edge records."""

import threading
import time
from collections import deque

OVER_S = 10.0
"""Segments come in bursts: over less, their rate would be that of a burst."""


class Traffic:
    """Bytes recorded in the last seconds, as they are and as they would be if nothing were encoded. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._marks: deque[tuple[float, int, int]] = deque()

    def add(self, recorded: int, arrays: int) -> None:
        """So many bytes of records were made of so many bytes of arrays."""
        with self._lock:
            self._marks.append((time.monotonic(), recorded, arrays))

    def rates(self, robots: int) -> dict[str, float]:
        """`robot_bytes` and `robot_array_bytes`: per second and robot."""
        with self._lock:
            now = time.monotonic()
            while self._marks and now - self._marks[0][0] > OVER_S:
                self._marks.popleft()
            recorded = sum(mark[1] for mark in self._marks)
            arrays = sum(mark[2] for mark in self._marks)
        share = robots * max(min(OVER_S, now - self._begun), 1.0)
        return {"robot_bytes": recorded / share, "robot_array_bytes": arrays / share}
