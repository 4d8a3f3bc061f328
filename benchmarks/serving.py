"""From observation to chunk through the policy server's process, for 1 to 8 robots at once.

The policy is a stand-in with a known cost, 20 ms and 2 ms more per further observation; robots ask again at once.
"""

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zmq

from benchmarks.report import report
from robotlearn.edge import local
from robotlearn.edge.policy_server import PolicyServer

BASE_S, EACH_S = 0.020, 0.002
REQUESTS = 25
ROUNDS = 3  # interleaved


def cost(robots: int) -> float:
    """Seconds that the policy takes for a batch."""
    return BASE_S + EACH_S * (robots - 1)


def _infer(requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
    time.sleep(cost(len(requests)))
    path, flags, probs = (
        local.Tensor.of(np.zeros(shape, dtype))
        for shape, dtype in (((3, 4, 8), np.float32), ((2,), bool), ((2, 4), np.float32))
    )
    return [
        local.ChunkAnswer(r.request, 0, local.Tensor.of(np.zeros((4, 8), np.float32)), path, flags, probs)
        for r in requests
    ]


def _serve(endpoint: str) -> None:
    PolicyServer(endpoint, _infer).serve(threading.Event())


def _robot(endpoint: str, name: str, gate: "threading.Barrier", latencies: list[float]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = local.local_socket(context, zmq.DEALER)
    socket.connect(endpoint)
    observations = local.tensors(
        {"observation.state": np.zeros(8, np.float32), "observation.environment_state": np.zeros(15, np.float32)}
    )
    gate.wait()
    for number in range(REQUESTS):
        begun = time.perf_counter()
        socket.send(local.encode(local.ChunkRequest(name, number, "lift", observations)))
        answer = local.decode(socket.recv())
        if answer.request != number:
            raise RuntimeError(f"{name} asked for chunk {number} and got {answer.request}")
        if number >= 5:
            latencies.append(time.perf_counter() - begun)
    socket.close()


def run() -> None:
    """Prints p50 and p99 beside the policy's own time for that many observations."""
    with tempfile.TemporaryDirectory(prefix="robotlearn-") as folder:
        endpoint = f"ipc://{Path(folder) / 'server'}"
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(endpoint,), daemon=True)
        process.start()
        try:
            latencies: dict[int, list[list[float]]] = {robots: [] for robots in (1, 2, 4, 8)}
            for _ in range(ROUNDS):
                for robots, found in latencies.items():
                    gate, each = threading.Barrier(robots), [[] for _ in range(robots)]
                    threads = [
                        threading.Thread(target=_robot, args=(endpoint, f"robot-{i}", gate, each[i]))
                        for i in range(robots)
                    ]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    found += each
            for robots, found in latencies.items():
                every = sorted(value for one in found for value in one)
                own = 1000 * cost(robots)
                report(f"serving.{robots}.p50", 1000 * statistics.median(every), "ms", "the policy alone", own)
                report(f"serving.{robots}.p99", 1000 * every[int(0.99 * len(every))], "ms", "the policy alone", own)
        finally:
            process.kill()
            process.join()
