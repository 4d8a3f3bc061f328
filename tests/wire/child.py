"""What the kill tests start and kill: `python -m tests.wire.child edge|learner FOLDER ADDRESS N [BYTES]`."""

import os
import signal
import sys
import threading
from collections.abc import Buffer, Sequence
from pathlib import Path

import numpy as np

from robotlearn.buffer.store import Outcome, SegmentStore
from tests.wire.make import make_segment
from tests.wire.rig import Edge, Learner


def run_edge(folder: Path, address: str, count: int, max_bytes: int = 2 << 20) -> None:
    """Record `count` segments, every tenth starred and every fiftieth such that it must be rejected; then wait."""
    rig = Edge(folder, address, max_bytes=max_bytes)
    for n in range(count):
        bad = {"reward": np.full(6, np.inf, np.float32)} if n % 50 == 49 else {}
        rig.spool.record(make_segment(seed=n, episode=n, starred=n % 10 == 0, last=n % 4 == 3, **bad))
    print("recorded", flush=True)
    threading.Event().wait()


class DyingStore(SegmentStore):
    """Kills its process when the batch number `dies_at` is stored and durable, and not yet answered."""

    dies_at = 0

    def append(self, batch: Sequence[Buffer], edges: Sequence[str | None] | None = None) -> list[Outcome]:
        outcomes = super().append(batch, edges)
        self.dies_at -= 1
        if self.dies_at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcomes


def run_learner(folder: Path, address: str, dies_at: int) -> None:
    """Store what comes; die after `dies_at` batches, 0 for never."""
    import tests.wire.rig as rig_module

    DyingStore.dies_at = dies_at
    rig_module.SegmentStore = DyingStore  # type: ignore[misc]
    rig = Learner(folder, bind=address, window_bytes=20_000)
    print("bound", flush=True)
    while True:
        rig.server.take_stored(1.0)


if __name__ == "__main__":
    {"edge": run_edge, "learner": run_learner}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
