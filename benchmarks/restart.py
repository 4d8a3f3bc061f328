"""A learner is killed with kill -9 and started again: seconds until an edge has new weights, and a segment is stored.

The whole program: `robotlearn learner` and `robotlearn edge` with simulated arms; the learner is started again with
--resume as soon as it is dead. What Python needs to import torch, and what the learner needs until it listens, is in
it, and told apart. (LeRobot's actor does not connect to a learner that was started again.)
    python -m benchmarks restart
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.config.load import load_config
from robotlearn.contract import contract
from robotlearn.wire.weights import WeightsClient

RUNS = int(os.environ.get("BENCH_RUNS", "5"))
CONFIG = [
    "smoke", "edges=[{name: left, kind: batch, arms: 8, segment_steps: 8}]", "policy.hidden=[64]", "sft.steps=20",
    "start.success_band=null", "demonstrations.episodes=2", "learner.updates=1000000", "learner.checkpoint_every=1",
    "learner.eval_episodes=2", "learner.max_staleness=1",
]  # fmt: skip


def wait(condition: Callable[[], object]) -> float:
    """The moment when it first held."""
    while not condition():
        time.sleep(0.002)
    return time.monotonic()


def run() -> None:
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-bench-"))
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    run_folder, segments = folder / "run", folder / "run" / "segments" / "records"

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "robotlearn", *map(str, arguments)], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stored() -> int:
        return sum(file.stat().st_size for file in segments.glob("*.log"))

    learner = start("learner", *CONFIG, "--run", run_folder)
    edge = None
    try:
        wait((run_folder / "address").exists)
        address = (run_folder / "address").read_text()
        edge = start("edge", *CONFIG, "--learner", address, "--state", folder / "edge")
        config = load_config(CONFIG[0], CONFIG[1:])
        # As an edge does, beside it: what it has is told the moment it has it.
        probe = WeightsClient(address, edge="probe", session=1, contract=contract(config))
        probe.start()
        found: dict[str, list[float]] = {"listens": [], "weights": [], "stored": []}
        for _ in range(RUNS):
            newest = probe.announced
            wait(lambda newest=newest: probe.announced > newest + 5 and stored())  # type: ignore[misc]
            learner.kill()
            learner.wait()
            version, size = probe.announced, stored()
            (run_folder / "address").unlink(missing_ok=True)
            begun = time.monotonic()
            learner = start(
                "learner", *CONFIG, "--run", run_folder, "--resume", f"learner.bind={address}"
            )
            found["listens"].append(wait((run_folder / "address").exists) - begun)
            came: dict[str, float] = {}

            def all_there(came: dict[str, float] = came, version: int = version, size: int = size) -> bool:
                newest = probe.newest()
                if newest is not None and newest.version > version:
                    came.setdefault("weights", time.monotonic())
                if stored() > size:
                    came.setdefault("stored", time.monotonic())
                return len(came) == 2

            wait(all_there)
            for name, moment in came.items():
                found[name].append(moment - begun)
        probe.close()
    finally:
        for process in (learner, edge):
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(folder)
    seconds = {name: statistics.median(values) for name, values in found.items()}
    report("restart.listens", seconds["listens"], "s until the learner listens")
    report("restart.weights", seconds["weights"], "s until an edge has new weights", "listens", seconds["listens"])
    report("restart.stored", seconds["stored"], "s until a segment is stored", "listens", seconds["listens"])


if __name__ == "__main__":
    run()
