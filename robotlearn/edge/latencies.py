"""How long a policy takes for a batch, by the batch's size. Imports no torch."""

from collections import deque
from collections.abc import Mapping

import numpy as np

from robotlearn.edge.local import Latency

_LAST = 512  # batches of each size


class Latencies:
    """Of the last few hundred batches of each size."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}

    def add(self, size: int, seconds: float) -> None:
        """A batch of so many took so long."""
        self._took.setdefault(size, deque(maxlen=_LAST)).append(seconds)

    def by_size(self) -> dict[int, Latency]:
        """What is known, smallest batch first."""
        return {
            size: Latency(len(took), *(1000 * float(share) for share in np.quantile(took, (0.5, 0.99))))
            for size, took in sorted(self._took.items())
        }


def described(latencies: Mapping[int, Latency]) -> str:
    """`inference 12.1 ms (p99 15.0)`, and for several sizes `inference 1: 12.1 ms (p99 15.0), 4: ...`; "" for none."""
    each = {size: f"{one.p50_ms:.1f} ms (p99 {one.p99_ms:.1f})" for size, one in latencies.items()}
    if set(each) <= {1}:
        return "".join(f"inference {text}" for text in each.values())
    return f"inference {', '.join(f'{size}: {text}' for size, text in each.items())}"
