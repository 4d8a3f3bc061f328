"""Segments like those of the demo, for the benchmarks of the wire."""

from __future__ import annotations

import numpy as np

from robotlearn.wire.segment import Segment

STEPS, CHUNKS, HORIZON, DENOISING, ACTION = 32, 8, 4, 2, 8


def make_segment(images: int = 0, seed: int = 0) -> Segment:
    """32 steps of a Panda that lifts a cube, with chunks of 4; `images` cameras of 128 x 128 pixels."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    ended = np.zeros(STEPS, bool)
    ended[-1] = True
    observations = {
        "observation.state": floats(STEPS + 1, 8),
        "observation.environment_state": floats(STEPS + 1, 13),
    }
    for camera in range(images):
        key = f"observation.images.camera{camera}"
        observations[key] = rng.integers(0, 255, (STEPS + 1, 128, 128, 3), dtype=np.uint8)
    return Segment(
        edge="edge",
        robot="panda-0",
        embodiment="panda",
        task="lift the cube",
        episode=seed,
        first_step=0,
        monotonic=np.arange(STEPS) * 0.1,
        wall=1.7e9 + np.arange(STEPS) * 0.1,
        observations=observations,
        action_proposed=floats(STEPS, ACTION),
        action_executed=floats(STEPS, ACTION),
        intervention=np.zeros(STEPS, bool),
        held=np.zeros(STEPS, bool),
        reward=floats(STEPS),
        terminated=np.zeros(STEPS, bool),
        truncated=ended,
        success=np.zeros(STEPS, bool),
        chunk_version=np.zeros(CHUNKS, np.int64),
        chunk_start=np.arange(CHUNKS, dtype=np.int32) * HORIZON,
        chunk_first=np.zeros(CHUNKS, np.int32),
        chunk_executed=np.full(CHUNKS, HORIZON, np.int32),
        chunk_lag=np.zeros(CHUNKS, np.int32),
        chunk_path=floats(CHUNKS, DENOISING + 1, HORIZON, ACTION),
        chunk_stochastic=np.ones((CHUNKS, DENOISING), bool),
        chunk_log_prob=floats(CHUNKS, DENOISING, HORIZON),
    )
