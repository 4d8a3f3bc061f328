"""What an optimiser step costs the wire: deltas of bfloat16 weights after AdamW's first step, in bytes and seconds.

100 million weights N(0, 0.02^2), each moved by lr up or down, rounded to bfloat16 before and after, in chunks as they
are published, on one core. Then the same over the wire to a process on loopback, where an edge would pull whole chunks:
it is told that its link is slow, so that it asks for deltas. And how old weights are when a slow edge has applied them.
    python benchmarks/deltas.py
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.buffer.store import SegmentStore
from robotlearn.wire import delta
from robotlearn.wire.chunks import BF16, CHUNK_BYTES, to_bf16
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.pace import Pace
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.weights import WeightsClient

COUNT = 100_000_000
SHARES = {1e-6: 2.0, 1e-5: 9.0}  # learning rate to the percentage of the full size that is aimed at
CONTRACT = {"bench": 1}
ROUNDS = 6
EVERY_S, APPLY_S, AGES = 0.1, 0.5, 100


def weights(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count, np.float32) * np.float32(0.02)


def stepped(rng: np.random.Generator, before: np.ndarray, lr: float) -> np.ndarray:
    return before + np.where(rng.random(before.size, np.float32) < 0.5, np.float32(-lr), np.float32(lr))


def codec(lr: float) -> None:
    rng = np.random.default_rng(0)
    full = made_bytes = 0
    encoding = applying = 0.0
    numbers = CHUNK_BYTES // BF16.itemsize
    out = np.zeros(CHUNK_BYTES, np.uint8)
    old, new = np.zeros((2, numbers), BF16)
    for _ in range(-(-COUNT // numbers)):
        before = weights(rng, numbers)
        to_bf16(before, old)
        to_bf16(stepped(rng, before, lr), new)
        begin = time.perf_counter()
        made = delta.encode(old.view(np.uint8), new.view(np.uint8), BF16.itemsize)
        encoded = time.perf_counter()
        if made is None:
            raise SystemExit("a delta did not pay")
        delta.apply(old.view(np.uint8), made, out)
        applying += time.perf_counter() - encoded
        encoding += encoded - begin
        if not np.array_equal(out, new.view(np.uint8)):
            raise SystemExit("a delta did not give the weights that it is of")
        full += new.nbytes
        made_bytes += len(made)
    report(f"deltas.lr{lr:.0e}.share", 100 * made_bytes / full, "% of full", "aim", SHARES[lr])
    report(f"deltas.lr{lr:.0e}.encode_s", encoding, "s, one core")
    report(f"deltas.lr{lr:.0e}.apply_s", applying, "s, one core")


class SlowLink(Pace):
    """Always asks for deltas."""

    def wants_delta(self, nbytes: int) -> bool:
        return True

    def probes(self, nbytes: int, now: float) -> bool:
        return False


def edge(pipe: Connection, address: str, by_delta: bool) -> None:
    """Say when each version is here, and at last how many chunks came as deltas."""
    with WeightsClient(address, edge="edge", session=1, contract=CONTRACT) as client:
        if by_delta:
            client._pace = SlowLink()
        client.start()
        while (version := pipe.recv()) is not None:
            if client.wait(version, 300) is None:
                raise SystemExit("no weights came")
            pipe.send(time.monotonic())
        pipe.send(client.chunks_delta)


def slow_edge(pipe: Connection, address: str, rounds: int) -> None:
    """Take the newest and apply it, again and again; say how old each was when it was applied."""
    with WeightsClient(address, edge="edge", session=1, contract=CONTRACT) as client:
        client.start()
        client.wait(0, 60)
        ages = []
        for _ in range(rounds):
            newest = client.newest()
            if newest is None:
                raise SystemExit("no weights came")
            time.sleep(APPLY_S)
            ages.append(time.monotonic() - float(newest.tensors["published"]))
        pipe.send(ages)


@contextlib.contextmanager
def publishing_to(target: Callable[..., None], *arguments: object) -> Iterator[tuple[Publisher, Connection]]:
    """A learner's end of the wire here, and an edge in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-") as folder:
        store, publisher = SegmentStore(Path(folder) / "store", sync="process"), Publisher()
        server = LearnerServer(
            "tcp://127.0.0.1:*", store, StalenessGate(1, 0), publisher, contract=CONTRACT, run="bench"
        )
        server.start()
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=target, args=(there, server.address, *arguments))
        process.start()
        try:
            yield publisher, here
        finally:
            process.join()
            server.close()
            store.close()


def pushes(lr: float, *, by_delta: bool) -> float:
    """Seconds from `publish` until the edge has it, the median; the first is always whole."""
    rng = np.random.default_rng(0)
    numbers = weights(rng, COUNT)
    took = []
    with publishing_to(edge, by_delta) as (publisher, pipe):
        for version in range(ROUNDS):
            pipe.send(version)
            begin = time.monotonic()
            publisher.publish(version, {"w": numbers}, rounded={"w"})
            took.append(pipe.recv() - begin)
            publisher.settle()
            numbers = stepped(rng, numbers, lr)
        pipe.send(None)
        if by_delta != (pipe.recv() > 0):
            raise SystemExit("weights came otherwise than this measures")
    return statistics.median(took[1:])


def ages() -> None:
    """Versions come every 0.1 s; an edge needs 0.5 s to apply one, and takes the newest that is there."""
    with publishing_to(slow_edge, AGES) as (publisher, pipe):
        tensors = {"w": np.zeros(1_000_000, np.float32), "published": np.zeros((), np.float64)}
        version = 0
        while not pipe.poll(EVERY_S):
            publisher.settle()
            tensors["published"][...] = time.monotonic()
            publisher.publish(version, tensors)
            version += 1
        used = pipe.recv()
    report("weights.age_p50", float(np.quantile(used, 0.5)), "s when applied", "applying alone", APPLY_S)
    report("weights.age_p99", float(np.quantile(used, 0.99)), "s when applied", "applying alone", APPLY_S)


def run() -> None:
    for lr in SHARES:
        codec(lr)
    whole = pushes(1e-6, by_delta=False)
    for lr in SHARES:
        report(f"deltas.lr{lr:.0e}.push_s", pushes(lr, by_delta=True), "s to the edge", "whole", whole)
    ages()


if __name__ == "__main__":
    run()
