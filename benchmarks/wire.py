"""Transitions from one edge process to durable and acknowledged in a learner process, against bare pyzmq and files.

Both ways make the same bytes durable (write, fdatasync) at both ends, in two processes over loopback TCP. The bare way
is given records that are already encoded, and writes, syncs and sends them in groups; it checks nothing.
    python benchmarks/wire.py
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from benchmarks.segments import STEPS, make_segment
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.processes import freeze_heap
from robotlearn.wire import record
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.uplink import Uplink

RUNS = int(os.environ.get("BENCH_RUNS", "7"))
WINDOW = 16 << 20
GROUPS = {"state": 128, "image": 4}  # records per group of the bare way: the best of 4 to 256 where this was written
COUNTS = {"state": 16000, "image": 150}
ARMS = {"state": 16, "image": 1}  # whose segments end at the same step, so that they are recorded together
CONTRACT = {"bench": 1}


def learner(pipe: Connection, folder: str) -> None:
    """Ours: a learner that stores what comes, and a training loop that takes it (and leaves it for later)."""
    store = SegmentStore(Path(folder) / "store", sync="power")
    server = LearnerServer(
        "tcp://127.0.0.1:*", store, StalenessGate(1 << 30, 0), Publisher(), contract=CONTRACT, run="bench",
        window_bytes=WINDOW,
    )  # fmt: skip
    server.start()
    freeze_heap()
    pipe.send(server.address)
    while not pipe.poll():
        server.take_stored(0.1)
    pipe.send(store.stored)
    server.close()
    store.close()


def ours(kind: str, folder: Path) -> float:
    """Seconds from the first record to the last acknowledgement."""
    segments = [make_segment(2 if kind == "image" else 0, seed) for seed in range(max(8, ARMS[kind]))]
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=learner, args=(there, str(folder)))
    process.start()
    spool = Spool(folder / "spool", edge="edge", sync="power", max_bytes=8 << 30)
    uplink = Uplink(here.recv(), spool, edge="edge", contract=CONTRACT)
    uplink.start()
    while uplink.state != "connected":
        time.sleep(0.01)
    freeze_heap()
    count = COUNTS[kind]
    start = time.perf_counter()
    for first in range(0, count, ARMS[kind]):
        ended = [segments[index % len(segments)] for index in range(first, first + ARMS[kind])]
        for episode, segment in enumerate(ended, first):
            segment.episode = episode
        spool.record_many(ended)
    while spool.pending:
        uplink.check()
        time.sleep(0.0005)
    seconds = time.perf_counter() - start
    here.send(None)
    stored = here.recv()
    if stored != count or spool.counts().acknowledged != count:
        raise SystemExit(f"{count} segments were recorded, {stored} stored: {uplink.stats()}")
    process.join()
    uplink.close()
    spool.close()
    return seconds


def bare_learner(pipe: Connection, folder: str, group: int) -> None:
    """The floor's other end: receive, write, fdatasync, answer."""
    socket = zmq.Context().socket(zmq.ROUTER)
    pipe.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
    file = os.open(Path(folder) / "bare-learner", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    frames: list[zmq.Frame] = []
    while True:
        identity, frame = socket.recv_multipart(copy=False)
        while True:
            if len(frame) == 0:
                pipe.recv()
                return
            frames.append(frame)
            if len(frames) == group:
                break
            try:
                identity, frame = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
        os.writev(file, [f.buffer for f in frames])
        os.fdatasync(file)
        socket.send_multipart([identity.bytes, len(frames).to_bytes(4, "little")])
        frames.clear()


def bare(kind: str, folder: Path) -> float:
    """The floor: seconds for the same bytes, without encoding, checking, counting or remembering anything."""
    group = GROUPS[kind]
    data = [
        bytes(record.encode(make_segment(2 if kind == "image" else 0, seed), session=1, sequence=seed))
        for seed in range(8)
    ]
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=bare_learner, args=(there, str(folder), group))
    process.start()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(here.recv())
    file = os.open(folder / "bare-edge", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    count = COUNTS[kind]
    limit = max(group, WINDOW // len(data[0]))
    sent = answered = 0
    time.sleep(0.2)
    start = time.perf_counter()
    while answered < count:
        while sent < count and sent - answered < limit:
            batch = [data[index % 8] for index in range(sent, min(sent + group, count))]
            os.writev(file, batch)
            os.fdatasync(file)
            for item in batch:
                socket.send(item, copy=len(item) < 65536)
            sent += len(batch)
            while socket.poll(0):
                answered += int.from_bytes(socket.recv(), "little")
        answered += int.from_bytes(socket.recv(), "little")
    seconds = time.perf_counter() - start
    socket.send(b"")
    here.send(None)
    process.join()
    return seconds


def measure(run: Callable[[str, Path], float], kind: str) -> float:
    """Transitions per second of one run in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        return COUNTS[kind] * STEPS / run(kind, folder)
    finally:
        shutil.rmtree(folder)


def run() -> None:
    for kind, target in (("state", 100_000), ("image", 1_500)):
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(RUNS):
            rates["ours"].append(measure(ours, kind))
            rates["bare"].append(measure(bare, kind))
        rate, floor = statistics.median(rates["ours"]), statistics.median(rates["bare"])
        report(f"wire.{kind}.vs_floor", rate, "transitions/s", "bare pyzmq, write and fdatasync", floor)
        report(f"wire.{kind}.rate", rate, "transitions/s", "wanted at least", target)


if __name__ == "__main__":
    run()
