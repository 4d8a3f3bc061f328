"""What the safety layer costs per control step of all arms, beside one step of their simulation."""

import statistics
import time

import numpy as np
from mujoco import batch

from benchmarks.report import report
from envs import make_task
from envs.scene import build_scene
from hal import SafetyLimiter, load_spec

CALLS = 100


def run() -> None:
    """Random set-points around home, so that velocity, acceleration and workspace all bite now and then."""
    spec = load_spec("panda")
    model = build_scene(spec, make_task("reach", spec))
    rng = np.random.default_rng(0)
    for arms in (64, 256):
        limiter = SafetyLimiter(spec, arms)
        limiter.reset(np.tile(spec.home, (arms, 1)))
        simulation = batch.Batch(model, arms, nthread=2)
        ours, physics = [], []
        for _ in range(CALLS):
            target = limiter.set_point + rng.uniform(-0.1, 0.1, (arms, spec.dim))
            begun = time.perf_counter()
            limiter.limit(target)
            ours.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            simulation.step(nstep=round(spec.dt / model.opt.timestep))
            physics.append(time.perf_counter() - begun)
        report(
            f"safety.{arms}",
            1e3 * statistics.median(ours),
            "ms/step",
            "bare simulation",
            1e3 * statistics.median(physics),
        )
