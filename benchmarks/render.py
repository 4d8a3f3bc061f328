"""Camera images per second in the observations of `BatchArmEnv`: two cameras of 64 arms, one and two processes.

Against `mujoco.Renderer` of the same scene in one thread, without any setting of ours.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import mujoco
import numpy as np

from benchmarks.report import report
from envs import BatchArmEnv, EnvOptions
from hal import load_spec

ROUNDS = 5
SECONDS = 1.0
ARMS = 64
CAMERAS = ("front", "wrist")


def _rate(draw: Callable[[], object], images: int) -> float:
    """Images per second, for about SECONDS."""
    calls, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < SECONDS:
        draw()
        calls += 1
    return calls * images / elapsed


def _bare(renderer: mujoco.Renderer, data: mujoco.MjData) -> None:
    for camera in CAMERAS:
        renderer.update_scene(data, camera)
        renderer.render()


def run() -> None:
    """Interleaved rounds of one process, two processes and the peer; medians."""
    spec = load_spec("panda")
    for task, size in itertools.product(("reach", "lift"), (64, 128)):
        options = EnvOptions(cameras=CAMERAS, image_size=(size, size))
        envs = {n: BatchArmEnv(spec, task, ARMS, threads=n, seed=0, options=options) for n in (1, 2)}
        for env in envs.values():
            env.reset()
        ours = {n: partial(env._observe, env.scene_state(), np.arange(ARMS)) for n, env in envs.items()}
        model, data = envs[1].model, envs[1]._batch.get_data(0)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, size, size) as renderer:
            _bare(renderer, data)
            rates: dict[int, list[float]] = {n: [] for n in ours}
            peer = []
            for _ in range(ROUNDS):
                for n, draw in ours.items():
                    rates[n].append(_rate(draw, ARMS * len(CAMERAS)))
                peer.append(_rate(partial(_bare, renderer, data), len(CAMERAS)))
        for n, values in rates.items():
            reference = statistics.median(peer)
            name = f"render.{task}.{size}.{n}"
            report(name, statistics.median(values), "images/s", "mujoco.Renderer, one thread", reference)
        for env in envs.values():
            env.close()
