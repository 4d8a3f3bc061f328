"""`Latency`: actions that take effect some control steps after they were sent."""

import numpy as np


class Latency:
    """Queues of actions for n arms, each with a delay of its own between 0 and `longest` control steps."""

    def __init__(self, n: int, dim: int, longest: int) -> None:
        self._queue = np.zeros((n, longest + 1, dim), np.float32)
        self._delay = np.zeros(n, np.int64)
        self._head = np.zeros(n, np.int64)

    def restart(self, ids: np.ndarray, delay: np.ndarray, rest: np.ndarray) -> None:
        """New episodes of the arms `ids` (indices): until the first action arrives, `rest` (k, D) is executed."""
        self._queue[ids], self._delay[ids], self._head[ids] = rest[:, None], delay, 0

    def pass_on(self, ids: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """(k, D) the actions to execute in this control step, in which `actions` (k, D) were sent."""
        length = self._queue.shape[1]
        self._queue[ids, self._head[ids]] = actions
        due = self._queue[ids, (self._head[ids] - self._delay[ids]) % length]
        self._head[ids] = (self._head[ids] + 1) % length
        return due
