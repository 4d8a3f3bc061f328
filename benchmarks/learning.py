"""The main job, measured: learner and edges over the wire beside one process that does the same, and staleness bounds.

`python -m benchmarks learning` takes about half an hour on two cores. Each run is `configs/laptop.yaml`; what differs
is said in its row. Success is measured without exploration, 200 episodes, seeds that training never saw.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.report import report
from benchmarks.runs import EPISODES, EVAL_SEED, success, train
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.cells import cells_of
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.config.load import load_config
from robotlearn.edge.rollout import BatchRollout
from robotlearn.evaluation import evaluate
from robotlearn.inputs import Inputs
from robotlearn.learner.episodes import EpisodePool
from robotlearn.learner.start import teach
from robotlearn.policy import build_policy

SEEDS = (0, 1, 2, 3, 4)
STALENESS = ("0", "2", "4", "inf")  # 2 is the demo's


def over_the_wire(*overrides: str) -> dict[str, Any]:
    """One `robotlearn train laptop`; its last metrics, seconds of reinforcement, success before and after."""
    folder = Path(tempfile.mkdtemp(prefix="robotlearn-"))
    run = folder / "run"
    try:
        rows, after = train("laptop", run, *overrides), success(run)
    finally:
        shutil.rmtree(folder)
    updates = [row for row in rows if "updates" in row]
    evaluations = [row for row in rows if "eval_success" in row]
    good = [row["seconds"] for row in evaluations if row["eval_success"] >= 0.9]
    return {
        "before": evaluations[0]["eval_success"],
        "after": after,
        "updates": updates[-1]["updates"],
        "seconds": updates[-1]["seconds"],
        "to_90": good[0] if good else float("nan"),
        "samples_per_s": updates[-1]["env_steps"] / updates[-1]["seconds"],
        "staleness_max": max(row["staleness_max"] for row in updates),
    }


def in_one_process(seed: int, updates: int) -> dict[str, float]:
    """The same settings without processes and wire: roll out 256 episodes on two threads, update, repeat."""
    config = load_config("laptop", [f"seed={seed}"])
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    torch.set_num_threads(1)
    taught = teach(build_policy(config, inputs), config, cells, inputs, lambda text, done: None)
    algorithm = make_algorithm(config.algorithm.name, taught.policy, config.algorithm, seed)
    arms = config.learner.episodes_per_update
    edge = config.edges[0]
    if not isinstance(edge, BatchEdgeConfig):
        raise SystemExit("configs/laptop.yaml has a first edge that is not of kind batch")
    recorded: list[Any] = []
    rollout = BatchRollout(
        taught.policy,
        inputs,
        cells[0],
        edge="one",
        arms=arms,
        threads=2,
        segment_steps=edge.segment_steps,
        seed=seed,
        emit=recorded.extend,
    )
    pool, begun, collecting, next_eval = EpisodePool(0), time.perf_counter(), 0.0, config.learner.eval_every
    for version in track(range(updates), "one process", transient=True, disable=not sys.stdout.isatty()):
        started = time.perf_counter()
        rollout.start(arms)
        while rollout.running:
            rollout.advance(version)
        collecting += time.perf_counter() - started
        pool.add((segment, None) for segment in recorded)  # type: ignore[misc]
        recorded.clear()
        algorithm.update([waiting.episode for waiting in pool.take(len(pool))[0]], version, lambda: None)
        if next_eval is not None and (version + 1) % next_eval == 0:
            evaluate(taught.policy, inputs, cells[0], episodes=config.learner.eval_episodes, seed=seed + 1)
    seconds = time.perf_counter() - begun
    after = evaluate(taught.policy, inputs, cells[0], episodes=EPISODES, seed=EVAL_SEED, threads=2).success
    return {
        "seconds": seconds,
        "after": after,
        "samples_per_s": rollout.counts.steps / seconds,
        "collecting": collecting / seconds,
    }


def run() -> None:
    """Five seeds; the wire against one process on the first of them; four staleness bounds."""
    runs = {}
    for seed in SEEDS:
        runs[seed] = wired = over_the_wire(f"seed={seed}")
        report(f"learning.seed{seed}.success", wired["after"], "success", "before", wired["before"])
        report(f"learning.seed{seed}.to_90", wired["to_90"], "s")
        report(f"learning.seed{seed}.updates", wired["updates"], "updates")
        report(f"learning.seed{seed}.seconds", wired["seconds"], "s")
        if seed == 0:
            one = in_one_process(seed, wired["updates"])
            report("learning.vs_one_process", wired["seconds"], "s", "one process, as many updates", one["seconds"])
            report("learning.one_process.success", one["after"], "success")
            report("learning.one_process.rate", one["samples_per_s"], "samples/s")
    report("learning.worst_success", float(np.min([wired["after"] for wired in runs.values()])), "success")
    for bound in STALENESS:
        wired = runs[0] if bound == "2" else over_the_wire("seed=0", f"learner.max_staleness={bound}")
        report(f"learning.staleness_{bound}.to_90", wired["to_90"], "s")
        report(f"learning.staleness_{bound}.rate", wired["samples_per_s"], "samples/s")
        report(f"learning.staleness_{bound}.success", wired["after"], "success")
        report(f"learning.staleness_{bound}.seen", wired["staleness_max"], "versions")
