"""Environment steps per second of `BatchArmEnv` on `reach`: observation, reward and reset included.

Against Gymnasium's AsyncVectorEnv of the same task (`ArmEnv`, at the best of several worker counts), and against bare
`mujoco.batch` stepping of the same model with constant controls.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
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


def _rate(step: Callable[..., object], per_call: int, arguments: Iterator[object] | None = None) -> float:
    """Calls per second times `per_call`, for about SECONDS; each call gets the next of `arguments`."""
    calls, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < SECONDS:
        step() if arguments is None else step(next(arguments))
        calls += 1
    return calls * per_call / elapsed


def run() -> None:
    """Interleaved rounds of ours, the peer and the limit; medians."""
    spec = load_spec("panda")
    for arms in (64, 256):
        env = BatchArmEnv(spec, "reach", arms, threads=THREADS, seed=0)
        env.reset()
        rng = np.random.default_rng(0)
        space = env.single_action_space
        # New ones at each step: constant ones would end at the workspace's walls.
        drawn = rng.uniform(space.low, space.high, (64, *env.action_space.shape)).astype(np.float32)
        bare = batch.Batch(env.model, arms, nthread=THREADS)
        bare.bind("ctrl")[:] = env._ctrl
        bare.bind("qpos")[:] = env._qpos
        substeps = max(1, round(spec.dt / env.model.opt.timestep))
        peers = {n: gymnasium.vector.AsyncVectorEnv([make_one] * n, shared_memory=True) for n in (2, 4, 8)}
        for n, peer in peers.items():
            peer.reset(seed=0)
            peer.step(drawn[0, :n])
        ours, limit, asynchronous = [], [], {n: [] for n in peers}
        for _ in range(ROUNDS):
            ours.append(_rate(env.step, arms, itertools.cycle(drawn)))
            limit.append(_rate(partial(bare.step, nstep=substeps), arms))
            for n, peer in peers.items():
                asynchronous[n].append(_rate(peer.step, n, itertools.cycle(drawn[:, :n])))
        for peer in peers.values():
            peer.close()
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
