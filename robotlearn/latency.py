"""`robotlearn latency`: how long a policy takes for a batch of robots, and what control rates that allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.base import Policy
from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config.config import Config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.config.load import load_config
from robotlearn.device import device
from robotlearn.edge import local
from robotlearn.edge.latencies import Latencies
from robotlearn.edge.planned import Planned
from robotlearn.inputs import Inputs
from robotlearn.policy import ask, build_policy
from robotlearn.saved_policy import find_policy
from robotlearn.warm_up import warm_up

_FIRST = 3  # batches of each size that don't count


def policy_of(what: str, overrides: Sequence[str]) -> tuple[Config, Policy]:
    """That of a run folder or checkpoint with its weights, or of a config with those that it starts from."""
    saved = find_policy(Path(what)) if Path(what).is_dir() else None
    config = load_config(what, overrides) if saved is None else saved.config
    where = device(_edge(config).device, "the edge's device")
    return config, build_policy(config, Inputs(config), where) if saved is None else saved.load(where)


def _edge(config: Config) -> PacedEdgeConfig:
    default = PacedEdgeConfig(name="arm", kind="paced")
    return next((edge for edge in config.edges if isinstance(edge, PacedEdgeConfig)), default)


def measure(
    config: Config, policy: Policy, sizes: Sequence[int], chunks: int, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """A row for each size of a batch, from observations of noise to the arms' actions, as a policy server has it.

    Threads, compilation and the way to execute are those of the config's paced edge. `progress` is told how many of all
    batches are done.
    """
    edge = _edge(config)
    torch.set_num_threads(edge.threads)
    compiled = edge.compiles(policy.device.type, policy.compiles)
    policy.serve(compiled=compiled, images_again=False)
    if compiled:
        warm_up(policy, edge.execution)
    inputs, cell = Inputs(config), cells_of(config)[0]
    shapes, words = observation_shapes(cell, env_options(config)), cell.task.instructions
    rng, latencies = np.random.default_rng(0), Latencies()
    # Half a chunk is left when the next one is asked for.
    plan = local.Tensor.of(np.zeros((policy.horizon // 2, cell.spec.dim), np.float32))
    plans = [local.ChunkRequest("", 0, "", {}, plan=plan if len(plan.data) else None, delay=1)]
    joints = len(cell.spec.joints)
    for index, size in enumerate(sizes):
        seen = {
            key: rng.integers(0, 256, (size, *shape), np.uint8)
            if len(shape) == 3
            else rng.standard_normal((size, *shape), np.float32)
            for key, shape in shapes.items()
        }
        for number in range(-_FIRST, chunks):
            noise = policy.noise(size, rng)
            begun = time.perf_counter()
            told = [words[i % len(words)] for i in range(size)]
            acting = Planned(policy, edge.execution, inputs, cell.spec.embodiment, plans * size, joints)
            ask(acting, inputs, cell.spec.embodiment, seen, told, noise, False)
            if number >= 0:
                latencies.add(size, time.perf_counter() - begun)
                progress(index * chunks + number + 1, len(sizes) * chunks)
    return [
        {
            "batch": size,
            "p50_ms": one.p50_ms,
            "p99_ms": one.p99_ms,
            "chunks_per_s": 1000 * size / one.p50_ms,
            "control_hz_at_most": 1000 * policy.horizon / one.p99_ms,
            "ahead": math.ceil(one.p99_ms / 1000 * cell.spec.control_hz),
        }
        for size, one in latencies.by_size().items()
    ]
