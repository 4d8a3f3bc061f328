"""A control loop of 200 Hz that records, while its learner stands still for 3 s, or needs 1 s for each insert.

The loop keeps an absolute clock, as an arm's does, records segments of 32 steps into a spool (durable, fdatasync by the
uplink's thread), and knows nothing of the learner. Counted are its ticks, those that came more than one period late,
and what the learner has in the end: each recorded segment once.
    python -m benchmarks outage
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from benchmarks.segments import make_segment
from benchmarks.wire import CONTRACT
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.processes import freeze_heap
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.uplink import Uplink

SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
HZ, STEPS = 200, 32
_spawn = multiprocessing.get_context("spawn")


class SlowStore(SegmentStore):
    """Needs a second for each insert."""

    def append(self, batch: Sequence[Any], edges: Sequence[str | None] | None = None) -> Any:
        time.sleep(1.0)
        return super().append(batch, edges)


def learner(pipe: Connection, folder: str, slow: bool) -> None:
    """Stores what comes until told to stop; tells how many segments, and how many came twice."""
    store = (SlowStore if slow else SegmentStore)(Path(folder) / "store", sync="power")
    server = LearnerServer(
        "tcp://127.0.0.1:*", store, StalenessGate(1 << 30, 0), Publisher(), contract=CONTRACT, run="bench"
    )
    server.start()
    pipe.send(server.address)
    while not pipe.poll():
        server.take_stored(0.1)
    server.close()
    keys = [(segment.edge, segment.session, segment.sequence) for _, segment in store.scan()]
    pipe.send((len(keys), len(keys) - len(set(keys))))
    store.close()


def edge(pipe: Connection, address: str, folder: str) -> None:
    """The control loop; tells (ticks, late ones, worst lateness [s], recorded segments)."""
    segments = [make_segment(1, seed) for seed in range(8)]
    spool = Spool(Path(folder) / "spool", edge="edge", sync="power", max_bytes=8 << 30)
    uplink = Uplink(address, spool, edge="edge", contract=CONTRACT)
    uplink.start()
    while uplink.state != "connected":
        time.sleep(0.01)
    freeze_heap()
    pipe.send("ready")
    ticks = late = 0
    worst = 0.0
    start = time.monotonic()
    while (due := start + ticks / HZ) < start + SECONDS:
        time.sleep(max(0.0, due - time.monotonic()))
        lateness = time.monotonic() - due
        late += lateness > 1 / HZ
        worst = max(worst, lateness)
        ticks += 1
        if ticks % STEPS == 0:
            spool.record(segments[ticks // STEPS % 8])
    while spool.pending:
        time.sleep(0.01)
    pipe.send((ticks, late, worst, spool.counts().recorded))
    uplink.close()
    spool.close()


def measure(what: str) -> None:
    folder = tempfile.mkdtemp(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR"))
    to_learner, learners = multiprocessing.Pipe()
    to_edge, edges = multiprocessing.Pipe()
    there = _spawn.Process(target=learner, args=(learners, folder, what == "slow"))
    there.start()
    here = _spawn.Process(target=edge, args=(edges, to_learner.recv(), folder))
    here.start()
    try:
        to_edge.recv()
        if what == "paused":
            time.sleep(SECONDS / 3)
            os.kill(there.pid or 0, signal.SIGSTOP)
            time.sleep(3.0)
            os.kill(there.pid or 0, signal.SIGCONT)
        ticks, late, worst, recorded = to_edge.recv()
        to_learner.send(None)
        stored, doubled = to_learner.recv()
    finally:
        for process in (here, there):
            process.join(10)
            process.kill()
        shutil.rmtree(folder)
    wanted = round(SECONDS * HZ)
    report(f"outage.{what}.ticks", ticks, "ticks", f"in {SECONDS:g} s at {HZ} Hz", wanted)
    report(f"outage.{what}.late", late, "ticks later than a period", "of", ticks)
    report(f"outage.{what}.worst", worst * 1000, "ms late at most", "a period", 1000 / HZ)
    report(f"outage.{what}.lost", recorded - stored, "segments lost", "recorded", recorded)
    report(f"outage.{what}.doubled", doubled, "segments twice", "recorded", recorded)


def run() -> None:
    for what in ("undisturbed", "paused", "slow"):
        measure(what)


if __name__ == "__main__":
    run()
