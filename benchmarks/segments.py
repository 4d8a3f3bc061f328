"""Segments like those of the demo, for the benchmarks of the wire."""

from __future__ import annotations

import numpy as np

from robotlearn.wire.segment import Segment

STEPS, CHUNKS, HORIZON, DENOISING, ACTION = 32, 8, 4, 2, 8


def make_segment(images: int = 0, seed: int = 0, side: int = 128, steps: int = STEPS) -> Segment:
    """Steps of a Panda that lifts a cube, with chunks of 4; `images` cameras of side x side pixels of noise."""
    chunks = steps // HORIZON
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    ended = np.zeros(steps, bool)
    ended[-1] = True
    observations = {
        "observation.state": floats(steps + 1, 8),
        "observation.environment_state": floats(steps + 1, 13),
    }
    for camera in range(images):
        key = f"observation.images.camera{camera}"
        observations[key] = rng.integers(0, 255, (steps + 1, side, side, 3), dtype=np.uint8)
    return Segment(
        edge="edge",
        robot="panda-0",
        embodiment="panda",
        task="lift the cube",
        episode=seed,
        first_step=0,
        monotonic=np.arange(steps) * 0.1,
        wall=1.7e9 + np.arange(steps) * 0.1,
        observations=observations,
        action_proposed=floats(steps, ACTION),
        action_executed=floats(steps, ACTION),
        intervention=np.zeros(steps, bool),
        held=np.zeros(steps, bool),
        reward=floats(steps),
        terminated=np.zeros(steps, bool),
        truncated=ended,
        success=np.zeros(steps, bool),
        chunk_version=np.zeros(chunks, np.int64),
        chunk_start=np.arange(chunks, dtype=np.int32) * HORIZON,
        chunk_first=np.zeros(chunks, np.int32),
        chunk_executed=np.full(chunks, HORIZON, np.int32),
        chunk_lag=np.zeros(chunks, np.int32),
        chunk_path=floats(chunks, DENOISING + 1, HORIZON, ACTION),
        chunk_stochastic=np.ones((chunks, DENOISING), bool),
        chunk_log_prob=floats(chunks, DENOISING, HORIZON),
    )
