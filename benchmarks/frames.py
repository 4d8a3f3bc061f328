"""Three cameras of 480 x 640 at 30 Hz from an arm's process to its reader's: through shared memory and in messages.

What goes in messages is what goes to another machine. Latency is from the reading to its use; the processor's time is
that of both processes, the arm's loop included. Beside both stands the same without images.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import hal
from benchmarks.report import report
from hal.owned_loop import owned_loop
from hal.ownership import Ownership
from robotlearn.edge import remote
from robotlearn.edge.arm_server import ArmServer
from robotlearn.edge.remote import RemoteRobot

HZ = 30.0
CAMERAS = ("left", "right", "wrist")
READINGS, ROUNDS = 120, 5  # the rounds of all ways interleaved
MACHINE = remote.machine
WAYS = {
    "memory": ("ipc", CAMERAS, MACHINE),
    "ipc": ("ipc", CAMERAS, lambda: "elsewhere"),
    "tcp": ("tcp", CAMERAS, lambda: "elsewhere"),
    "no_images": ("ipc", (), MACHINE),
}


@dataclass
class Found:
    """Of one way: seconds from reading to use, and seconds of processor time for each, by round."""

    latency: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _spec() -> hal.RobotSpec:
    cameras = tuple({"name": name, "width": 640, "height": 480, "fps": HZ} for name in CAMERAS)
    changes = {"cameras": cameras, "control_hz": HZ, "driver_hz": HZ, "watchdog_s": 5.0}
    return hal.RobotSpec.model_validate(hal.load_spec("so101").model_dump() | changes)


class _Arm(hal.Robot):
    """Stands still and sees noise; its effort is the time of the reading."""

    def __init__(self) -> None:
        self.spec = _spec()
        rng = np.random.default_rng(0)
        self._images = [{name: rng.integers(0, 256, (480, 640, 3), np.uint8) for name in CAMERAS} for _ in range(4)]
        self._readings = 0

    def connect(self) -> None: ...
    def write(self, command: hal.Command) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> hal.Reading:
        self._readings += 1
        now, still = time.monotonic(), np.zeros(self.spec.dim)
        images = self._images[self._readings % len(self._images)]
        return hal.Reading(self.spec.home.copy(), still, now, time.time(), images, still + now)

    def health(self) -> hal.Health:
        return hal.Health("ok")


def _serve(pipe: Connection, scheme: str) -> None:
    with Ownership("bench") as owned:
        loop = owned_loop(_Arm(), owned, also=lambda: server.tick())
        address = f"ipc://{owned.folder}/arm" if scheme == "ipc" else "tcp://127.0.0.1:*"
        server = ArmServer(loop, address, name="bench")
        loop.connect()
        server.start()
        pipe.send(server.address)
        while pipe.recv():
            pipe.send(time.process_time())
        server.close()
        loop.close()


def _round(way: str, found: Found) -> None:
    scheme, cameras, remote.machine = WAYS[way]
    pipe, theirs = get_context("spawn").Pipe()
    child: Any = get_context("spawn").Process(target=_serve, args=(theirs, scheme), daemon=True)
    child.start()

    def cpu() -> float:
        pipe.send(True)
        return float(pipe.recv()) + time.process_time()

    try:
        with RemoteRobot(_spec(), address=pipe.recv(), cameras=cameras) as robot:
            for _ in range(15):
                robot.wait()
            expected = {"memory": "shared memory", "no_images": ""}.get(way, f"{scheme} (another machine)")
            if robot.link.frames != expected:
                raise RuntimeError(f"{way}: frames came by {robot.link.frames!r}")
            before, missed = cpu(), 0
            for _ in range(READINGS):
                missed += robot.wait()
                reading = robot.read()
                assert reading.effort is not None
                found.latency.append(time.monotonic() - reading.effort[0])
            found.cpu.append((cpu() - before) / (READINGS + missed))
    finally:
        pipe.send(False)
        child.join()


def run() -> None:
    """Medians of all readings and rounds, each beside that of tcp on the same machine."""
    found = {way: Found() for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="rl-") as folder:
        os.environ["ROBOTLEARN_RUNTIME_DIR"] = folder
        for _ in range(ROUNDS):
            for way, one in found.items():
                _round(way, one)
        del os.environ["ROBOTLEARN_RUNTIME_DIR"]
    remote.machine = MACHINE
    for way, one in found.items():
        for figure, name, unit in ((_p50, "p50", "ms late"), (_p99, "p99", "ms late"), (_cpu, "cpu", "ms of CPU each")):
            report(f"frames.{way}.{name}", 1e3 * figure(one), unit, "tcp", 1e3 * figure(found["tcp"]))


def _p50(one: Found) -> float:
    return statistics.median(one.latency)


def _p99(one: Found) -> float:
    return float(np.quantile(one.latency, 0.99))


def _cpu(one: Found) -> float:
    return statistics.median(one.cpu)
