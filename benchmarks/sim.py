"""Environment steps per second of `BatchArmEnv` on `reach`: observation, reward and reset included.

Against Gymnasium's AsyncVectorEnv of the same task (`ArmEnv`, at the best of several worker counts), and against bare
`mujoco.batch` stepping of the same model with constant controls.
"""

import statistics
import time
from functools import partial

import gymnasium
import numpy as np
from mujoco import batch

from benchmarks.report import report
from envs import ArmEnv, BatchArmEnv, make_task
from envs.scene import build_scene
from hal import load_spec
from hal.drivers.mujoco import MujocoRobot

ROUNDS = 7
SECONDS = 1.5
THREADS = 2


def make_one() -> gymnasium.Env:
    spec = load_spec("panda")
    return ArmEnv(MujocoRobot(spec, build_scene(spec, make_task("reach", spec))), "reach")


def _rate(step: "partial[object]", per_call: int) -> float:
    """Calls per second times `per_call`, for about SECONDS."""
    calls, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < SECONDS:
        step()
        calls += 1
    return calls * per_call / elapsed


def run() -> None:
    """Interleaved rounds of ours, the peer and the limit; medians."""
    spec = load_spec("panda")
    for arms in (64, 256):
        env = BatchArmEnv(spec, "reach", arms, threads=THREADS, seed=0)
        env.reset()
        rng = np.random.default_rng(0)
        actions = rng.uniform(env.single_action_space.low, env.single_action_space.high, env.action_space.shape)
        actions = actions.astype(np.float32)
        bare = batch.Batch(env.model, arms, nthread=THREADS)
        bare.bind("ctrl")[:] = env._ctrl
        bare.bind("qpos")[:] = env._qpos
        substeps = max(1, round(spec.dt / env.model.opt.timestep))
        peers = {
            n: gymnasium.vector.AsyncVectorEnv([make_one] * n, shared_memory=True)
            for n in ((2, 4, 8) if arms == 64 else ())
        }
        for n, peer in peers.items():
            peer.reset(seed=0)
            peer.step(actions[:n])
        ours, limit, asynchronous = [], [], {n: [] for n in peers}
        for _ in range(ROUNDS):
            ours.append(_rate(partial(env.step, actions), arms))
            limit.append(_rate(partial(bare.step, nstep=substeps), arms))
            for n, peer in peers.items():
                asynchronous[n].append(_rate(partial(peer.step, actions[:n]), n))
        for peer in peers.values():
            peer.close()
        if asynchronous:
            best_async = max(statistics.median(rates) for rates in asynchronous.values())
        value = statistics.median(ours)
        report(
            f"sim.reach.{arms}.vs_async",
            value,
            "env-steps/s",
            "gymnasium.AsyncVectorEnv, best of 2, 4, 8 workers",
            best_async,
        )
        report(
            f"sim.reach.{arms}.vs_limit", value, "env-steps/s", "bare mujoco.batch stepping", statistics.median(limit)
        )
