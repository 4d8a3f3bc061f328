"""Segments as an edge would record them, made without robot or simulator, with real chunks of a real policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from policies import FlowMLP
from robotlearn.wire.segment import Segment

FEATURES = {"observation.state": (4,), "observation.environment_state": (2,)}
HORIZON, ACTION_DIM, STEPS = 4, 3, 2

Record = Callable[..., list[Segment]]


@pytest.fixture
def policy() -> FlowMLP:
    torch.manual_seed(0)
    return FlowMLP(FEATURES, HORIZON, ACTION_DIM, hidden=(32, 32), denoising_steps=STEPS)


@pytest.fixture
def record(policy: FlowMLP) -> Record:
    def record(
        steps: int = 12,
        *,
        starts: Sequence[int] | None = None,
        firsts: Sequence[int] | None = None,
        lags: Sequence[int] | None = None,
        executed: Sequence[int] | None = None,
        cuts: Sequence[int] = (),
        versions: Sequence[int] | None = None,
        end: str = "truncated",
        held: Sequence[int] = (),
        intervention: Sequence[int] = (),
        reward: Sequence[float] | None = None,
        seed: int = 0,
        episode: int = 7,
        policy: FlowMLP = policy,
    ) -> list[Segment]:
        """One episode, cut into segments before the steps `cuts`. Chunks begin at `starts` (default: every H steps).

        A chunk that a cut falls into is in both segments, with the part of it that was executed in each.
        `lags`, how many steps before its start a chunk was observed, are `firsts` unless given.
        """
        rng = np.random.default_rng(seed)
        starts = list(range(0, steps, policy.horizon)) if starts is None else list(starts)
        firsts = [0] * len(starts) if firsts is None else list(firsts)
        lags = firsts if lags is None else list(lags)
        ends = [*starts[1:], steps]
        if executed is None:
            limits = zip(starts, ends, firsts, strict=True)
            executed = [min(end - start, policy.horizon - first) for start, end, first in limits]
        obs = {k: rng.standard_normal((steps + 1, *s), dtype=np.float32) for k, s in policy.features.items()}
        seen = np.maximum(np.array(starts) - np.array(lags), 0)
        chunk = policy.act(
            {k: torch.from_numpy(v[seen]) for k, v in obs.items()}, policy.noise(len(starts), rng), explore=True
        )
        flags = {name: np.zeros(steps, bool) for name in ("held", "intervention", "terminated", "truncated", "success")}
        flags["held"][list(held)] = flags["intervention"][list(intervention)] = True
        if end:
            flags[end][-1] = True
        rewards = rng.standard_normal(steps) if reward is None else np.array(reward)
        actions = rng.standard_normal((steps, policy.action_dim), dtype=np.float32)
        borders, segments = [0, *cuts, steps], []
        for low, high in pairwise(borders):
            rows, start, first, lag, ran = [], [], [], [], []
            for c, (s, f, n) in enumerate(zip(starts, firsts, executed, strict=True)):
                a, b = max(s, low), min(s + n, high)
                if a < b or (n == 0 and low <= s < high):
                    rows.append(c)
                    start.append(a - low)
                    first.append(f + a - s)
                    lag.append(lags[c] + a - s)
                    ran.append(max(b - a, 0))
            version = np.zeros(len(starts), np.int64) if versions is None else np.array(versions, np.int64)
            segment = Segment(
                edge="bench",
                session=1,
                sequence=len(segments),
                robot="arm-0",
                embodiment="panda",
                task="lift the cube",
                episode=episode,
                first_step=low,
                monotonic=np.arange(low, high) * 0.1,
                wall=np.arange(low, high) * 0.1,
                observations={k: v[low : high + 1] for k, v in obs.items()},
                action_proposed=actions[low:high],
                action_executed=actions[low:high],
                reward=rewards[low:high].astype(np.float32),
                chunk_version=version[rows],
                chunk_start=np.array(start, np.int32),
                chunk_first=np.array(first, np.int32),
                chunk_lag=np.array(lag, np.int32),
                chunk_executed=np.array(ran, np.int32),
                chunk_path=chunk.path.numpy()[rows],
                chunk_stochastic=chunk.stochastic.numpy()[rows],
                chunk_log_prob=chunk.log_prob.numpy()[rows],
                **{name: flag[low:high] for name, flag in flags.items()},
            )
            segment.validate()
            segments.append(segment)
        return segments

    return record
