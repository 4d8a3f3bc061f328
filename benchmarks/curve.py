"""What keys cost: records from an edge process to durable in a learner process, and weights the other way, with and
without CURVE.

Both ways are measured by turns in one run, over loopback TCP, so that the ratio (with keys by without) stands for any
machine; encryption and the checks of each message take part of a core at either end.
    python benchmarks/curve.py
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from benchmarks.segments import make_segment
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.processes import freeze_heap
from robotlearn.wire.door import Credentials, ServerKeys
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.keys import AllowList, Keys
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.uplink import Uplink
from robotlearn.wire.weights import WeightsClient

RUNS = int(os.environ.get("BENCH_RUNS", "7"))
COUNTS = {"state": 16000, "image": 150}  # records of one run
ARMS = {"state": 16, "image": 1}  # whose segments end at the same step, so that they are recorded together
VERSIONS, WEIGHTS_BYTES = 12, 40_000_000
CONTRACT = {"bench": 1}


def learner(pipe: Connection, folder: Path, secured: bool) -> None:
    """Stores what comes until it is told to publish weights, a version at each word."""
    keys = Keys(folder / "keys")
    store = SegmentStore(folder / "store", sync="power")
    publisher = Publisher()
    server = LearnerServer(
        "tcp://127.0.0.1:*", store, StalenessGate(1 << 30, 0), publisher, contract=CONTRACT, run="bench",
        keys=ServerKeys(keys.own("learner"), AllowList(keys)) if secured else None,
    )  # fmt: skip
    server.start()
    freeze_heap()
    arrays = {f"layer-{n}": np.zeros(WEIGHTS_BYTES // 40, np.float32) for n in range(10)}
    pipe.send(server.address)
    while True:
        if not pipe.poll():
            server.take_stored(0.05)
        elif (version := pipe.recv()) is None:
            break
        else:
            for array in arrays.values():
                array.fill(version)
            publisher.publish(version, arrays)
            publisher.settle()
    pipe.send(store.stored)
    server.close()
    store.close()


def measure(kind: str, secured: bool, folder: Path) -> tuple[float, float]:
    """MB/s of records and of weights, in one run with a learner of its own."""
    keys = Keys(folder / "keys")
    own = Credentials(keys.new("edge"), keys.new("learner").public)
    keys.allow("edge", own.own.public, ["edge"])
    proof = own if secured else None
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=learner, args=(there, folder, secured))
    process.start()
    address = here.recv()
    segments = [make_segment(2 if kind == "image" else 0, seed) for seed in range(8)]
    spool = Spool(folder / "spool", edge="edge", sync="power", max_bytes=8 << 30)
    uplink = Uplink(address, spool, edge="edge", contract=CONTRACT, keys=proof)
    weights = WeightsClient(address, edge="edge", session=spool.session, contract=CONTRACT, keys=proof)
    uplink.start()
    weights.start()
    while uplink.state != "connected" or weights.state != "connected":
        time.sleep(0.01)
    freeze_heap()
    count = COUNTS[kind]
    start = time.perf_counter()
    for first in range(0, count, ARMS[kind]):
        spool.record_many([segments[index % 8] for index in range(first, min(first + ARMS[kind], count))])
    while spool.pending:
        uplink.check()
        time.sleep(0.0005)
    records = uplink.stats()["sent_bytes"] / (time.perf_counter() - start)
    seconds = []
    for version in range(1, VERSIONS + 1):
        start = time.perf_counter()
        here.send(version)
        if weights.wait(version, 60) is None:
            raise SystemExit("no weights came")
        seconds.append(time.perf_counter() - start)
    here.send(None)
    if here.recv() != count:
        raise SystemExit(f"{count} segments were recorded, not all were stored: {uplink.stats()}")
    process.join()
    weights.close()
    uplink.close()
    spool.close()
    return records / 1e6, WEIGHTS_BYTES / statistics.median(seconds[2:]) / 1e6  # the first ones make the memory


def run() -> None:
    for kind in COUNTS:
        rates: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(RUNS):
            for secured, found in rates.items():
                folder = Path(tempfile.mkdtemp(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")))
                try:
                    found.append(measure(kind, secured, folder))
                finally:
                    shutil.rmtree(folder)
        (records, weights), (plain_records, plain_weights) = (
            map(statistics.median, zip(*found, strict=True)) for found in rates.values()
        )
        report(f"curve.{kind}", records, "MB/s with keys", "without keys", plain_records)
        if kind == "image":
            report("curve.weights", weights, "MB/s with keys", "without keys", plain_weights)


if __name__ == "__main__":
    run()
