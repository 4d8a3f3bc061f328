"""What a checkpoint every minute costs a training loop: the seconds that its steps take longer, in parts of the minute.

100 million parameters in float32 with AdamW's moments, 1.2 GB: copied at once, written and hashed behind training. The
reference is the same without that thread: training waits until the checkpoint is durable.
    python -m benchmarks checkpoints
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.report import report
from robotlearn.checkpoint import Checkpoint
from robotlearn.learner.checkpoint_writer import CheckpointWriter

EVERY_S = 60.0
RUNS = int(os.environ.get("BENCH_RUNS", "5"))
WIDTH, LAYERS = 1000, 100
QUIET = 6  # steps before a checkpoint, which say what one takes alone


class Loop:
    """A training loop, and the state that a checkpoint of it has."""

    def __init__(self) -> None:
        torch.set_num_threads(1)  # as learner.threads
        self.model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.inputs = torch.randn(32, WIDTH)

    def step(self) -> float:
        begun = time.perf_counter()
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return time.perf_counter() - begun

    def state(self, version: int) -> Checkpoint:
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{name}": value for index, state in moments.items() for name, value in state.items()}
        return Checkpoint(version, self.model.state_dict(), flat)


def lost(loop: Loop, writer: CheckpointWriter, version: int, *, waiting: bool) -> float:
    """Seconds that training loses while a checkpoint is made, by what its steps take before."""
    usual = statistics.median(loop.step() for _ in range(QUIET))
    begun, steps = time.perf_counter(), 0
    writer.begin(loop.state(version))
    while not (waiting or writer.done):
        loop.step()
        steps += 1
    writer.wait()
    return time.perf_counter() - begun - steps * usual


def run() -> None:
    loop = Loop()
    loop.step()
    with tempfile.TemporaryDirectory(prefix="robotlearn-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        writer = CheckpointWriter(Path(folder))
        found: dict[str, list[float]] = {"behind": [], "waiting": []}
        for version in range(RUNS):
            found["behind"].append(lost(loop, writer, 2 * version, waiting=False))
            found["waiting"].append(lost(loop, writer, 2 * version + 1, waiting=True))
        writer.close()
    percent = {how: 100 * statistics.median(seconds) / EVERY_S for how, seconds in found.items()}
    report("checkpoints.100M.slowdown", percent["behind"], "% of a minute", "waiting for the disk", percent["waiting"])


if __name__ == "__main__":
    run()
