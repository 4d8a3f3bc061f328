"""How soon an arm stops: pressed, its source silent, its policy server killed; against what is configured, in ticks.

The first two through LeRobot's driver to an emulated SO-101, at 50 and 250 ticks a second, by the times at which the
driver was called; the third by the control steps of a simulated Panda whose policy server is a process.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

import hal
from benchmarks.report import report
from benchmarks.ticks import emulated
from envs import ArmEnv, EnvOptions, make_task
from envs.scene import build_scene
from hal.control_loop import ControlLoop
from hal.emulators.presence import present
from hal.estop import EStop
from hal.owned_loop import owned_loop
from hal.ownership import Ownership
from hal.wrapper import Wrapper
from robotlearn.config.edge import ExecutionConfig
from robotlearn.edge import local
from robotlearn.edge.arm_loop import ArmLoop
from robotlearn.edge.policy_server import PolicyServer

TIMES = 30
HORIZON, DENOISING_STEPS = 4, 2


class Noted(Wrapper):
    """Keeps when it was commanded, and when it was told to stop."""

    def __init__(self, robot: hal.Robot) -> None:
        super().__init__(robot)
        self.written: list[float] = []
        self.stopped: list[float] = []

    def write(self, command: hal.Command) -> None:
        self.written.append(time.monotonic())
        super().write(command)

    def stop(self) -> None:
        self.stopped.append(time.monotonic())
        super().stop()


def run() -> None:
    """30 times each, at random moments within a control period."""
    with tempfile.TemporaryDirectory(prefix="rl-") as folder, ExitStack() as stack:
        os.environ["ROBOTLEARN_RUNTIME_DIR"] = folder
        stack.callback(os.environ.pop, "ROBOTLEARN_RUNTIME_DIR")
        stack.enter_context(emulated("so101", {**os.environ}))
        (announced,) = present()
        for hz in (50, 250):
            _serial(hz, announced["options"])
        _policy_server(Path(folder))


def _serial(hz: int, options: dict[str, Any]) -> None:
    rates = {"driver_hz": float(hz), "control_hz": 50.0, "watchdog_s": 0.2, "on_stop": "hold"}
    spec = hal.RobotSpec.model_validate(hal.load_spec("so101").model_dump() | rates)
    robot = Noted(hal.make_robot(spec, "lerobot", **options))
    rng = np.random.default_rng(0)
    with Ownership("stops") as owned, owned_loop(robot, owned) as loop, _presser() as press:
        assert loop.leases is not None
        loop.token = loop.leases.acquire("stops", 60.0).token
        estop = EStop("stops")
        home = loop.read().position
        pressed, silent = [], []
        for _ in range(TIMES):
            _command(loop, home, rng)
            time.sleep(rng.uniform(0, spec.dt))
            begun = press()
            _until(lambda: loop.activity == "stopped")
            time.sleep(5 * spec.dt)
            pressed.append(robot.written[-1] - begun)
            estop.clear()
            loop.rest()

            last = _command(loop, home, rng)
            _until(lambda: loop.activity == "stopped")
            silent.append(robot.stopped[-1] - last - spec.watchdog_s)
            loop.rest()
    tick = spec.dt_driver
    _report(f"stops.estop.{hz}", "from the press to the last command", pressed, tick)
    _report(f"stops.silent.{hz}", f"from a silent source to the stop, beyond {spec.watchdog_s} s", silent, tick)


@contextmanager
def _presser() -> Iterator[Callable[[], float]]:
    """Another process, as `robotlearn estop` is; pressing returns when it did so."""
    command = [sys.executable, "-m", "benchmarks.stops", "--press"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        told, answers = process.stdin, process.stdout

        def press() -> float:
            told.write("\n")
            return float(answers.readline())

        assert answers.readline() == "ready\n"
        yield press
        told.close()


def _press() -> None:
    estop = EStop("stops")
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.monotonic()
        estop.press("benchmark")
        print(begun, flush=True)


def _command(loop: ControlLoop, home: Any, rng: np.random.Generator) -> float:
    """Half a second of a wave; when its last command was given."""
    spec, begun = loop.spec, time.monotonic()
    wave = 0.1 * np.where(home > (spec.lower + spec.upper) / 2, -1, 1)
    loop.skip()
    end = begun + 0.5 + rng.uniform(0, 0.1)
    while True:
        target = home + wave * 0.5 * (1 - np.cos(2 * np.pi * (time.monotonic() - begun)))
        loop.write(hal.Command(target))
        if (now := time.monotonic()) > end:
            return now
        loop.wait()


def _policy_server(folder: Path) -> None:
    spec = hal.load_spec("panda")
    task = make_task("reach", spec)
    ends = {part: f"ipc://{folder}/{part}" for part in ("server", "station")}
    context = zmq.Context()
    logging.getLogger("robotlearn").setLevel(logging.CRITICAL)  # each stop is an error, and wanted here
    station = local.local_socket(context, zmq.ROUTER, queue=65536)
    station.bind(ends["station"])
    held, stopped = [], []
    with Ownership("stops-panda") as owned:
        loop = owned_loop(hal.make_robot(spec, scene=build_scene(spec, task)), owned)
        env = ArmEnv(loop, task, EnvOptions(episode_steps=1000))
        env.reset(seed=0)
        arm, stop = ArmLoop(env, loop, "arm", horizon=HORIZON, execution=ExecutionConfig(), **ends), threading.Event()
        thread = threading.Thread(target=arm.run, args=(stop,))
        thread.start()
        rng = np.random.default_rng(0)
        for episode in itertools.count(1):
            server = subprocess.Popen([sys.executable, "-m", "benchmarks.stops", "--server", ends["server"]])
            lines = _episode(station, episode, server, rng.uniform(1.0, 2.0))
            server.wait()
            end = next(i for i, line in enumerate(lines) if line.held)
            began = max(i for i, line in enumerate(lines[:end]) if line.chunk is not None)
            left = HORIZON - lines[began].first
            held.append(lines[end].monotonic - lines[began].monotonic - left * spec.dt)
            stopped.append(lines[-1].monotonic - lines[end - 1].monotonic - spec.watchdog_s)
            assert lines[-1].stopped
            if len(held) == TIMES:
                break
        stop.set()
        thread.join()
        arm.close()
    context.destroy(linger=0)
    _report("stops.server.hold", "from the chunk's last action to the hold", held, spec.dt)
    _report("stops.server.stop", f"from there to the stop, beyond {spec.watchdog_s} s", stopped, spec.dt)


def _episode(station: Any, episode: int, server: subprocess.Popen[bytes], killed_after: float) -> list[local.Line]:
    """Its steps; the policy server is killed in the midst of it."""
    lines: list[local.Line] = []
    started, kill_at, asked_at = False, float("inf"), 0.0
    while not lines or not (lines[-1].terminated or lines[-1].truncated):
        if time.monotonic() > asked_at + 0.5:
            asked_at = time.monotonic()
            _send(station, local.Hold("benchmark", 5.0))
        if time.monotonic() > kill_at:
            kill_at = float("inf")
            server.kill()
        if not station.poll(5):
            continue
        message = local.decode(station.recv_multipart()[1])
        match message:
            case local.ArmState(state="resting", token=int(token)) if not started:
                started = True
                _send(station, local.Start(episode, token))
            case local.Begin(episode=number) if number == episode:
                kill_at = time.monotonic() + killed_after
            case local.Line(episode=number) if number == episode:
                lines.append(message)
    return lines


def _send(station: Any, message: local.AnyMessage) -> None:
    station.send_multipart([b"arm", local.encode(message)])


def _serve(endpoint: str) -> None:
    """In the policy server's process: chunks of small random actions, until it is killed."""
    rng = np.random.default_rng(0)
    dim = hal.load_spec("panda").dim

    def infer(requests: Sequence[local.ChunkRequest]) -> list[local.ChunkAnswer]:
        return [_answer(request.request, rng.uniform(-0.2, 0.2, (HORIZON, dim))) for request in requests]

    PolicyServer(endpoint, infer).serve(threading.Event())


def _answer(request: int, actions: Any) -> local.ChunkAnswer:
    path = np.zeros((DENOISING_STEPS + 1, *actions.shape), np.float32)
    path[-1] = actions
    parts = (path[-1], path, np.ones(DENOISING_STEPS, bool), np.zeros((DENOISING_STEPS, HORIZON), np.float32))
    return local.ChunkAnswer(request, 0, *map(local.Tensor.of, parts))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the arm didn't stop")
        time.sleep(0.002)


def _report(name: str, what: str, seconds: Sequence[float], tick: float) -> None:
    ms = sorted(1000 * x for x in seconds)
    for key, value in (("min", ms[0]), ("median", statistics.median(ms)), ("max", ms[-1])):
        report(f"{name}.{key}", value, f"ms {what}", "a tick", 1000 * tick)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--server")
    parser.add_argument("--press", action="store_true")
    chosen = parser.parse_args()
    if chosen.press:
        _press()
    else:
        _serve(chosen.server)
