"""Transitions with one camera from an edge process to a learner process, against LeRobot's own transition streaming.

Both send the same pictures: rendered while a Panda moves, with a sensor's noise. LeRobot's: its actor's and its
learner's functions, gRPC over loopback, images as it holds them (float32), in memory only. Ours: uint8, raw and
lossless, durable (fdatasync) at the edge before they are sent and at the learner before they are acknowledged. The rate
is that from the first message that has come to the last.
    python -m benchmarks transitions
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.payloads import CAMERA, WAYS, noisy, recorded
from benchmarks.report import report
from benchmarks.wire import CONTRACT, learner
from robotlearn import gl
from robotlearn.buffer.spool import Spool
from robotlearn.processes import freeze_heap
from robotlearn.wire import record
from robotlearn.wire.encodings import Encodings
from robotlearn.wire.segment import Segment
from robotlearn.wire.uplink import Uplink

RUNS = int(os.environ.get("BENCH_RUNS", "5"))
MESSAGES = 60
_spawn = multiprocessing.get_context("spawn")


def their_learner(pipe: Connection, total: int) -> None:
    """LeRobot's learner service, and the decoding that its learner does."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    import torch
    from lerobot.rl.learner_service import MAX_WORKERS, LearnerService
    from lerobot.transport import services_pb2_grpc
    from lerobot.transport.utils import MAX_MESSAGE_SIZE, bytes_to_transitions

    torch.set_num_threads(1)
    came: queue.Queue[bytes] = queue.Queue()
    over = threading.Event()
    service = LearnerService(over, queue.Queue(), 4.0, came, queue.Queue())
    limits = [("grpc.max_receive_message_length", MAX_MESSAGE_SIZE), ("grpc.max_send_message_length", MAX_MESSAGE_SIZE)]
    server = grpc.server(ThreadPoolExecutor(max_workers=MAX_WORKERS), options=limits)
    services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    seen = first = size = 0
    begun = 0.0
    while seen < total:
        message = came.get()
        begun = begun or time.perf_counter()
        size += len(message)
        seen += len(bytes_to_transitions(message))
        first = first or seen
    pipe.send(((seen - first) / (time.perf_counter() - begun), size / seen))
    over.set()
    server.stop(0)


def their_actor(port: int, pictures: NDArray[np.uint8], over: Any) -> None:
    """What LeRobot's actor does with the transitions of an episode."""
    import grpc
    import torch
    from lerobot.rl.actor import push_transitions_to_transport_queue, transitions_stream
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import grpc_channel_options
    from lerobot.utils.transition import Transition

    torch.set_num_threads(1)
    stub = services_pb2_grpc.LearnerServiceStub(
        grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options())
    )
    stub.Ready(services_pb2.Empty())
    outgoing: queue.Queue[bytes] = queue.Queue(maxsize=2)
    ended = threading.Event()
    seen = [
        {
            "observation.state": torch.randn(1, 8),
            "observation.image.front": torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).contiguous(),
        }
        for picture in pictures
    ]

    def produce() -> None:
        for _ in range(MESSAGES):
            episode = [
                Transition(
                    state=seen[step], action=torch.randn(1, 8), reward=0.0, next_state=seen[step + 1], done=False,
                    truncated=False, complementary_info={"is_intervention": False},
                )
                for step in range(len(seen) - 1)
            ]  # fmt: skip
            push_transitions_to_transport_queue(episode, outgoing)
        over.wait()
        ended.set()

    threading.Thread(target=produce, daemon=True).start()
    with contextlib.suppress(grpc.RpcError):  # the learner ends first
        stub.SendTransitions(transitions_stream(ended, outgoing, 0.01))


def theirs(segment: Segment) -> tuple[float, float]:
    """(transitions/s, bytes per transition)."""
    here, there = multiprocessing.Pipe()
    over = _spawn.Event()
    server = _spawn.Process(target=their_learner, args=(there, segment.steps * MESSAGES))
    server.start()
    actor = _spawn.Process(target=their_actor, args=(here.recv(), segment.observations[CAMERA], over))
    actor.start()
    found: tuple[float, float] = here.recv()
    over.set()
    for process in (actor, server):
        process.join(10)
        process.kill()
    return found


def ours(segment: Segment, way: str) -> tuple[float, float]:
    """(transitions/s, bytes per transition), from the first acknowledgement to the last."""
    segment = replace(segment, encodings=Encodings("zstd", other=WAYS[way]))
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")))
    here, there = multiprocessing.Pipe()
    process = _spawn.Process(target=learner, args=(there, str(folder)))
    process.start()
    try:
        with Spool(folder / "spool", edge="bench", sync="power", max_bytes=8 << 30) as spool:
            uplink = Uplink(here.recv(), spool, edge="bench", contract=CONTRACT)
            uplink.start()
            while uplink.state != "connected":
                time.sleep(0.01)
            freeze_heap()
            producer = threading.Thread(
                target=lambda: [spool.record(segment) for _ in range(MESSAGES)], daemon=True
            )
            producer.start()
            while not (first := spool.counts().acknowledged):
                time.sleep(0.0002)
            begun = time.perf_counter()
            while spool.counts().acknowledged < MESSAGES:
                uplink.check()
                time.sleep(0.0005)
            seconds = time.perf_counter() - begun
            uplink.close()
        here.send(None)
        if here.recv() != MESSAGES:
            raise SystemExit("not all segments were stored")
        size = len(record.encode(segment, session=1, sequence=1))
        return (MESSAGES - first) * segment.steps / seconds, size / segment.steps
    finally:
        process.join(10)
        process.kill()
        shutil.rmtree(folder)


def run() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for side in (84, 128):
        segment = noisy(recorded((side, side)))
        found: dict[str, list[tuple[float, float]]] = {"theirs": [], "raw": [], "lossless": []}
        for _ in range(RUNS):
            found["theirs"].append(theirs(segment))
            for way in ("raw", "lossless"):
                found[way].append(ours(segment, way))
        rates = {name: statistics.median(rate for rate, _ in values) for name, values in found.items()}
        sizes = {name: statistics.median(size for _, size in values) / 1024 for name, values in found.items()}
        for way in ("raw", "lossless"):
            name = f"transitions.{side}.{way}"
            report(f"{name}.rate", rates[way], "transitions/s", "LeRobot, in memory only", rates["theirs"])
            report(f"{name}.size", sizes[way], "KiB/transition", "LeRobot", sizes["theirs"])


if __name__ == "__main__":
    gl.choose()
    run()
