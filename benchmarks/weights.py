"""From `publish` to weights applied in another process, against bare pyzmq; and what publishing costs a training loop.

Applied means: copied into a set of float32 arrays of the other process. The bare way takes a snapshot of the arrays
(the optimiser goes on changing them), sends it as one multi-part message without further copies, and copies each part
into its array on the other side; it checks nothing and serves one receiver.

Blocked means: what `publish` takes, and what `settle` takes before the weights may change, which a training loop calls
when it has computed its next gradient. Here it computes only the forward pass of 32 samples. Lost is what that takes
altogether beyond a forward pass alone: the copy and an edge that pulls work on the same cores meanwhile.
    python benchmarks/weights.py
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import zmq

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.buffer.store import SegmentStore
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.weights import WeightsClient

SIZES = {"1M": (16, 250, 101), "10M": (40, 500, 41), "100M": (100, 1000, 15)}  # square matrices with a bias; rounds
CONTRACT = {"bench": 1}
Arrays = dict[str, np.ndarray]


def make(size: str) -> Arrays:
    count, side, _ = SIZES[size]
    arrays: Arrays = {}
    for layer in range(count):
        arrays[f"layers.{layer}.weight"] = np.full((side, side), layer, np.float32)
        arrays[f"layers.{layer}.bias"] = np.full(side, layer, np.float32)
    return arrays


def forward(arrays: Arrays) -> None:
    """The layers one after the other, on 32 samples, with one thread."""
    layers = [torch.from_numpy(array) for array in arrays.values()]
    x = torch.ones(32, len(layers[0]))
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = torch.nn.functional.linear(x, weight, bias)
        x /= x.abs().max() + 1


def check(arrays: Arrays, version: int) -> None:
    if any(array.reshape(-1)[-1] != version for array in arrays.values()):
        raise SystemExit(f"the weights that were applied are not version {version}")


def edge(pipe: Connection, size: str, address: str) -> None:
    """Ours: apply each version as it comes, and say when."""
    arrays = make(size)
    client = WeightsClient(address, edge="edge", session=1, contract=CONTRACT)
    client.start()
    while (version := pipe.recv()) is not None:
        weights = client.wait(version, 60)
        if weights is None:
            raise SystemExit("no weights came")
        for name, tensor in weights.tensors.items():
            np.copyto(arrays[name], tensor)
        pipe.send(time.perf_counter())
        del weights, tensor
        check(arrays, version)
    client.close()


def bare_edge(pipe: Connection, size: str, address: str) -> None:
    """The bare way's other end."""
    arrays = make(size)
    socket = zmq.Context().socket(zmq.PULL)
    socket.connect(address)
    while (version := pipe.recv()) is not None:
        for array, part in zip(arrays.values(), socket.recv_multipart(copy=False), strict=True):
            np.copyto(array, np.frombuffer(part.buffer, np.float32).reshape(array.shape))
        pipe.send(time.perf_counter())
        check(arrays, version)


class Ours:
    """A learner's server and one edge process."""

    def __init__(self, size: str, folder: Path) -> None:
        self.store = SegmentStore(folder / "store", sync="process")
        self.publisher = Publisher()
        self.server = LearnerServer(
            "tcp://127.0.0.1:*", self.store, StalenessGate(1, 0), self.publisher, contract=CONTRACT, run="bench"
        )
        self.server.start()
        self.pipe, self.process = start(edge, size, self.server.address)

    def publish(self, version: int, arrays: Arrays) -> None:
        self.publisher.publish(version, arrays)

    def settle(self) -> None:
        self.publisher.settle()

    def close(self) -> None:
        self.server.close()
        self.store.close()


class Bare:
    """A PUSH socket and one process that applies what comes."""

    def __init__(self, size: str) -> None:
        self.socket = zmq.Context().socket(zmq.PUSH)
        address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.pipe, self.process = start(bare_edge, size, address)
        self.snapshot = make(size)
        self.tracker: zmq.MessageTracker | None = None

    def publish(self, version: int, arrays: Arrays) -> None:
        if self.tracker is not None:
            self.tracker.wait()
        for name, array in arrays.items():
            np.copyto(self.snapshot[name], array)
        self.tracker = self.socket.send_multipart([a.data for a in self.snapshot.values()], copy=False, track=True)

    def settle(self) -> None:
        """Its snapshot was taken before it was sent."""

    def close(self) -> None:
        self.socket.close()


def start(target: object, size: str, address: str) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(there, size, address))  # type: ignore[arg-type]
    process.start()
    return here, process


def blocked_by(side: Ours | Bare, version: int, arrays: Arrays) -> tuple[float, float]:
    """Seconds for which a training loop is blocked, and those with the forward pass in between."""
    begin = time.perf_counter()
    side.publish(version, arrays)
    published = time.perf_counter()
    forward(arrays)
    computed = time.perf_counter()
    side.settle()
    end = time.perf_counter()
    return published - begin + end - computed, end - begin


def measure(size: str) -> None:
    torch.set_num_threads(1)
    arrays = make(size)
    target = {name: array.copy() for name, array in arrays.items()}
    applied: dict[str, list[float]] = {"ours": [], "bare": []}
    blocked: list[float] = []
    lost: dict[str, list[float]] = {"ours": [], "bare": []}
    copied: list[float] = []
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-") as folder:
        ours, bare = Ours(size, Path(folder)), Bare(size)
        sides: dict[str, Ours | Bare] = {"ours": ours, "bare": bare}
        for version in range(1, 3 * (SIZES[size][2] + 2), 3):
            for array in arrays.values():
                array.fill(version)
            time.sleep(0.02)  # as before each publish: what waited finds cold caches
            begin = time.perf_counter()
            for name, array in arrays.items():
                np.copyto(target[name], array)
            copied.append(time.perf_counter() - begin)
            for name, side in sides.items():
                side.pipe.send(version)
                time.sleep(0.02)
                begin = time.perf_counter()
                side.publish(version, arrays)
                applied[name].append(side.pipe.recv() - begin)
            for name, side in sides.items():
                version += 1
                for array in arrays.values():
                    array.fill(version)
                side.pipe.send(version)
                time.sleep(0.02)
                forward(arrays)
                begin = time.perf_counter()
                forward(arrays)
                alone = time.perf_counter() - begin
                seconds, altogether = blocked_by(side, version, arrays)
                side.pipe.recv()
                lost[name].append(altogether - alone)
                if name == "ours":
                    blocked.append(seconds)
        for side in sides.values():
            side.pipe.send(None)
            side.process.join()
            side.close()
    warm = slice(2, None)  # the first ones make the memory and the connection
    ms = {name: 1e3 * statistics.median(times[warm]) for name, times in applied.items()}
    report(f"weights.{size}.vs_pyzmq", ms["ours"], "ms to applied", "bare pyzmq", ms["bare"])
    for name, value, reference, bound in (
        ("blocked", blocked, "one np.copyto of the same", copied),
        ("lost", lost["ours"], "bare pyzmq", lost["bare"]),
    ):
        value, bound = value[warm], bound[warm]
        report(
            f"weights.{size}.{name}_ms", 1e3 * statistics.median(value), "ms", reference, 1e3 * statistics.median(bound)
        )


def run() -> None:
    for size in SIZES:
        measure(size)


if __name__ == "__main__":
    run()
