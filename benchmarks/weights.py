"""From `publish` to weights applied in another process, against bare pyzmq, and how long `publish` holds up its caller.

Both ways take one snapshot, send it over loopback TCP, and copy it into the arrays of a model in the other process. The
bare way sends it as one message and checks nothing; ours announces, is pulled in chunks, and checks each by its hash.
"""

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np
import zmq

from benchmarks.report import report
from robotlearn.buffer.store import SegmentStore
from robotlearn.learner.gate import StalenessGate
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.server import LearnerServer
from robotlearn.wire.weights import WeightsClient

ROUNDS = 9
LAYERS = 16
SIZES = {"1M": 1_000_000, "10M": 10_000_000, "100M": 100_000_000}
CONTRACT = {"bench": 1}


def model(parameters: int) -> dict[str, np.ndarray]:
    """Arrays like a model's: `LAYERS` matrices of equal size and their biases."""
    rows = parameters // LAYERS // 1000
    rng = np.random.default_rng(0)
    return {
        name: array
        for layer in range(LAYERS)
        for name, array in (
            (f"{layer}.weight", rng.standard_normal((rows, 1000), dtype=np.float32)),
            (f"{layer}.bias", np.zeros(rows, np.float32)),
        )
    }


def _copy(source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> None:
    for name, array in target.items():
        np.copyto(array, source[name])


def _apply_ours(pipe: Connection, address: str, parameters: int) -> None:
    target = model(parameters)
    client = WeightsClient(address, edge="bench", session=1, contract=CONTRACT)
    client.start()
    version = 0
    while True:
        weights = client.wait(version, 60.0)
        if weights is None:
            raise SystemExit("no weights for a minute")
        _copy(dict(weights.tensors), target)
        pipe.send(time.monotonic())
        del weights
        version += 1
        if pipe.recv() is None:
            client.close()
            return


def _apply_bare(pipe: Connection, address: str, parameters: int) -> None:
    target = model(parameters)
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(address)
    while True:
        frame = socket.recv(copy=False)
        flat, start = np.frombuffer(frame.buffer, np.float32), 0
        for array in target.values():
            np.copyto(array.reshape(-1), flat[start : start + array.size])
            start += array.size
        pipe.send(time.monotonic())
        if pipe.recv() is None:
            return


def measure(name: str, parameters: int, folder: str) -> None:
    """One size, the two ways in turn."""
    spawn = multiprocessing.get_context("spawn")
    source = model(parameters)
    size = sum(array.size for array in source.values())
    store, publisher = SegmentStore(f"{folder}/{name}", sync="process"), Publisher()
    server = LearnerServer(
        "tcp://127.0.0.1:*", store, StalenessGate(1, 0), publisher, contract=CONTRACT, run="bench"
    )  # fmt: skip
    server.start()
    publisher.prepare(source)
    bare_socket = zmq.Context().socket(zmq.PAIR)
    bare_address = f"tcp://127.0.0.1:{bare_socket.bind_to_random_port('tcp://127.0.0.1')}"
    # Two snapshots, as a publisher needs them: one is filled while the other may still be read.
    snapshots = [np.zeros(size, np.float32) for _ in range(2)]
    pipes, processes = [], []
    for function, address in ((_apply_ours, server.address), (_apply_bare, bare_address)):
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=function, args=(there, address, parameters), daemon=True))
        processes[-1].start()
        pipes.append(here)
    ours, bare, blocked, copies = [], [], [], []
    for round_ in range(ROUNDS):
        for array in source.values():
            array += 1e-3
        begun = time.monotonic()
        publisher.publish(round_, source)
        blocked.append(time.monotonic() - begun)
        ours.append(pipes[0].recv() - begun)

        begun = time.monotonic()
        snapshot, start = snapshots[round_ % 2], 0
        for array in source.values():
            np.copyto(snapshot[start : start + array.size], array.reshape(-1))
            start += array.size
        copies.append(time.monotonic() - begun)
        bare_socket.send(snapshot, copy=False)
        bare.append(pipes[1].recv() - begun)
        last = round_ == ROUNDS - 1
        for pipe in pipes:
            pipe.send(None if last else round_)
    for process in processes:
        process.join()
    server.close()
    store.close()
    bare_socket.close(linger=0)

    def middle(values: list[float]) -> float:
        # The first round fills caches and touches pages on both sides.
        return 1000 * statistics.median(values[1:])

    report(f"weights.{name}.vs_pyzmq", middle(ours), "ms", "bare pyzmq", middle(bare))
    report(f"weights.{name}.blocked", middle(blocked), "ms", "one memory copy", middle(copies))


def run() -> None:
    """Prints each size."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="robotlearn-") as folder:
        for name, parameters in SIZES.items():
            measure(name, parameters, folder)
