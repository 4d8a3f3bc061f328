"""Segments for tests, small and valid, with every array different from every other."""

from typing import Any

import numpy as np

from robotlearn.wire.segment import Segment


def make_segment(
    steps: int = 6,
    chunks: int = 2,
    *,
    seed: int = 0,
    edge: str = "edge-a",
    episode: int = 0,
    last: bool = False,
    starred: bool = False,
    image: int = 0,
    version: int = 3,
    **changes: Any,
) -> Segment:
    """A valid segment of `steps` steps; `image` is the side of one camera's picture, 0 for none."""
    rng = np.random.default_rng(seed)
    horizon, denoising, dims = 4, 2, 3

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def flags(at_end: bool) -> np.ndarray:
        array = np.zeros(steps, bool)
        array[-1] = at_end
        return array

    observations: dict[str, np.ndarray] = {
        "observation.state": floats(steps + 1, dims),
        "observation.environment_state": floats(steps + 1, 5),
    }
    if image:
        observations["observation.images.wrist"] = rng.integers(0, 256, (steps + 1, image, image, 3), dtype=np.uint8)
    fields: dict[str, Any] = {
        "edge": edge,
        "robot": "arm-0",
        "embodiment": "panda",
        "task": "lift the cube",
        "episode": episode,
        "first_step": 0,
        "monotonic": np.arange(steps) * 0.1 + seed,
        "wall": 1.8e9 + np.arange(steps) * 0.1,
        "observations": observations,
        "action_proposed": floats(steps, dims),
        "action_executed": floats(steps, dims),
        "intervention": flags(starred),
        "held": flags(False),
        "reward": floats(steps),
        "terminated": flags(last),
        "truncated": flags(False),
        "success": flags(last),
        "chunk_version": np.full(chunks, version, np.int64),
        "chunk_start": (np.arange(chunks) * 3).astype(np.int32),
        "chunk_first": np.zeros(chunks, np.int32),
        "chunk_executed": np.full(chunks, 3, np.int32),
        "chunk_lag": np.zeros(chunks, np.int32),
        "chunk_path": floats(chunks, denoising + 1, horizon, dims),
        "chunk_stochastic": rng.random((chunks, denoising)) < 0.5,
        "chunk_log_prob": floats(chunks, denoising, horizon),
    }
    return Segment(**(fields | changes))
