"""How punctual the control loop is: lateness at 50, 100 and 250 Hz for four arms, alone and beside training.

Each loop runs in a process of its own, as an arm process does, against an arm in another one; it is commanded 50 times
a second, and reads and writes at each tick. Beside each figure stands the lateness of a bare sleep by the same clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import report

ROOT = Path(__file__).parents[1]
ROS = ROOT / ".venv-ros" / "bin" / "python"
ARMS = ("mujoco", "lerobot", "dds", "ros2")
RATES = (50, 100, 250)
SECONDS = 60.0
COMMAND_HZ = 50.0


def run() -> None:
    """60 s of each arm at each rate, alone; at 100 Hz beside a training run; 5 minutes of the SO-101 at 100 Hz."""
    for arm in ARMS:
        if arm == "ros2" and not ROS.exists():
            print("ticks.ros2: left out, since .venv-ros is not there: bash scripts/setup_ros.sh")
            continue
        for hz in RATES:
            _report(f"ticks.{arm}.{hz}", _measure(arm, hz, SECONDS))
        with _training():
            _report(f"ticks.{arm}.100.beside_training", _measure(arm, 100, SECONDS))
    _report("ticks.lerobot.100.long", _measure("lerobot", 100, 300.0))


def _report(name: str, found: dict[str, float]) -> None:
    for key in ("p50", "p99", "max"):
        report(f"{name}.{key}", found[key], "ms late", "a bare sleep", found[f"sleep_{key}"])
    report(f"{name}.missed", found["missed_percent"], f"% of {found['done']:.0f} ticks")
    report(f"{name}.work", found["work"], "ms of a tick, median", "the period", 1000 / found["hz"])
    report(f"{name}.stolen", found["stolen"], "% of the cores' time went to other machines on this host")


def _measure(arm: str, hz: int, seconds: float) -> dict[str, float]:
    with ExitStack() as stack:
        env = {**os.environ, "ROBOTLEARN_RUNTIME_DIR": stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-"))}
        python = sys.executable
        if arm in ("dds", "ros2"):
            env |= {"ROS_DOMAIN_ID": str(os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        if arm == "ros2":
            python = str(ROS)
            for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
                env.pop(name, None)
        what = {"mujoco": None, "lerobot": "so101", "dds": "dds-ur5e", "ros2": "dds-panda"}[arm]
        if what is not None:
            stack.enter_context(emulated(what, env))
        command = [python, "-m", "benchmarks.ticks", "--arm", arm, "--hz", str(hz), "--seconds", str(seconds)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


@contextmanager
def emulated(what: str, env: dict[str, str]) -> Iterator[None]:
    """An emulator as a process, from its first line on."""
    command = [sys.executable, "-m", "robotlearn", "emulate", what]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"{what} could not be emulated")
            yield
        finally:
            process.terminate()


@contextmanager
def _training() -> Iterator[None]:
    """`robotlearn train smoke`, from its reinforcement on."""
    folder = Path(tempfile.mkdtemp(prefix="rl-"))
    command = [sys.executable, "-m", "robotlearn", "train", "smoke", "learner.updates=100000"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--run", str(folder / "run")], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while " updating" not in (folder / "log").read_text():
                if process.poll() is not None:
                    raise RuntimeError(f"training ended: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.5)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(folder)


def _child(arm: str, hz: int, seconds: float) -> dict[str, float]:
    """In the arm's process: the loop, commanded with a slow wave around where the arm is."""
    import hal
    from hal.control_loop import ControlLoop
    from hal.emulators.presence import present

    name, options = {"mujoco": "panda", "lerobot": "so101", "dds": "ur5e", "ros2": "panda"}[arm], {}
    if arm != "mujoco":
        (announced,) = present()
        options = announced["options"]
    base = hal.load_spec(name)
    rates = {"control_hz": min(float(hz), COMMAND_HZ), "driver_hz": float(hz), "watchdog_s": 1.0}
    spec = hal.RobotSpec.model_validate(base.model_dump() | rates)
    robot = hal.make_robot(spec, arm, **options)
    loop = ControlLoop(hal.RealTime(robot) if arm == "mujoco" else robot)
    slept = _slept(hz, 5.0)
    before = _cpu_times()
    with loop:
        start, begun = loop.read().position, time.monotonic()
        wave = 0.1 * (spec.upper - spec.lower).clip(0, 1.0) * np.where(start > (spec.lower + spec.upper) / 2, -1, 1)
        loop.skip()
        while (now := time.monotonic() - begun) < seconds:
            loop.write(hal.Command(start + wave * 0.5 * (1 - np.cos(0.5 * np.pi * now))))
            loop.wait()
        ticks, health = loop.ticks(), loop.health()
    passed = _cpu_times() - before
    if health.state != "ok":
        raise RuntimeError(f"{arm}: {health.state}: {health.detail}")
    late = 1000 * ticks.late
    return {
        "hz": hz,
        "done": ticks.done,
        "missed_percent": 100 * ticks.missed / ticks.done,
        "realtime": loop.realtime,
        "work": 1000 * float(np.median(ticks.work)),
        "stolen": 100 * float(passed[7] / passed.sum()),
        **_summary(late, ""),
        **_summary(1000 * slept, "sleep_"),
    }


def _cpu_times() -> Any:
    """Of all cores since they started: user, nice, system, idle, iowait, irq, softirq, steal; proc_stat(5)."""
    return np.array(Path("/proc/stat").read_text().split()[1:9], dtype=float)


def _slept(hz: int, seconds: float) -> Any:
    due, late = time.monotonic(), []
    for _ in range(int(hz * seconds)):
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))
        late.append(time.monotonic() - due)
    return np.array(late)


def _summary(late: Any, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}p50": float(np.median(late)),
        f"{prefix}p99": float(np.quantile(late, 0.99)),
        f"{prefix}max": float(late.max()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--hz", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    print(json.dumps(_child(arguments.arm, arguments.hz, arguments.seconds)))
