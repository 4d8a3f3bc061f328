"""Gradient steps per second of soft actor-critic, ours against stable-baselines3's, on one thread.

The same sizes: batches of 256, 17 numbers seen, actions of 7, two hidden layers of 256 in the policy and in each of two
critics, Adam, a learnt temperature. Each side gets batches that are ready in its own form, so that neither's replay
counts; a step trains critics, policy and temperature and moves the targets. Ours besides bounds each gradient's norm
and looks whether it is finite. Two more rows, ours with layer norm, and as RLPD with ten critics, do more than theirs.
The sides take turns; the ratio is the median of those of the turns. Time is the processor's, which on an idle machine
is the clock's.
    python -m benchmarks sac_steps
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import report
from policies import SquashedGaussianPolicy
from robotlearn.algorithms.sac import SAC
from robotlearn.algorithms.transitions import Transitions
from robotlearn.config.algorithms import RLPDConfig, SACConfig

SEEN, ACTION, BATCH, HIDDEN = 17, 7, 256, (256, 256)
TURNS = int(os.environ.get("BENCH_RUNS", "9"))
STEPS = 50


class Ready:
    """The batches of one update, made before."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(BATCH, *shape, generator=generator)

        true = torch.ones(BATCH, 1, dtype=torch.bool)
        self.batches = [
            Transitions(
                observations={"observation.state": draw(SEEN)},
                next_observations={"observation.state": draw(SEEN)},
                actions=draw(1, ACTION).clamp(-1, 1),
                valid=true,
                intervention=~true,
                reward=draw(),
                discount=torch.full((BATCH,), 0.99),
                weight=torch.ones(BATCH),
                version=torch.zeros(BATCH, dtype=torch.int64),
                rows=torch.arange(BATCH),
            )
            for _ in range(count)
        ]

    def __iter__(self) -> Iterator[Transitions]:
        return iter(self.batches)

    def prioritize(self, batch: Transitions, error: Tensor) -> None:
        """Nothing is sampled by priority."""


def ours(config: SACConfig | RLPDConfig, ready: Ready) -> Callable[[], object]:
    torch.manual_seed(0)
    policy = SquashedGaussianPolicy({"observation.state": (SEEN,)}, 1, ACTION, hidden=HIDDEN)
    algorithm = SAC(policy, config, seed=0)
    return lambda: algorithm.learn(ready, lambda: None)


def theirs(ready: Ready) -> Callable[[], object]:
    import gymnasium
    from stable_baselines3 import SAC as TheirSAC
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Nowhere(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (SEEN,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

    model = TheirSAC(
        "MlpPolicy", Nowhere(), batch_size=BATCH, device="cpu", seed=0, policy_kwargs={"net_arch": list(HIDDEN)}
    )
    model.set_logger(configure(None, []))
    samples = [
        ReplayBufferSamples(
            observations=batch.observations["observation.state"],
            actions=batch.actions[:, 0],
            next_observations=batch.next_observations["observation.state"],
            dones=torch.zeros(BATCH, 1),
            rewards=batch.reward[:, None],
        )
        for batch in ready
    ]

    def train() -> None:
        left = iter(samples)
        model.replay_buffer.sample = lambda *_, **__: next(left)  # type: ignore[union-attr,assignment,method-assign]
        model.train(len(samples), BATCH)

    return train


def run() -> None:
    """Prints steps per second of each side, and the ratio to stable-baselines3's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> None:
    ready = Ready(STEPS)
    sizes = {"critic_hidden": HIDDEN}
    sides = {
        "sb3": theirs(ready),
        "sac": ours(SACConfig(name="sac", critic_layer_norm=False, **sizes), ready),
        "sac.layer_norm": ours(SACConfig(name="sac", **sizes), ready),
        "rlpd": ours(RLPDConfig(name="rlpd", **sizes), ready),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, train in sides.items():
            begun = time.process_time()
            train()
            if turn:  # the first one makes the memory
                rates[name].append(STEPS / (time.process_time() - begun))
    base = rates.pop("sb3")
    for name, found in rates.items():
        # The other side as this ratio has it: load of the machine moves both, and the ratio of two medians with it.
        ratio = statistics.median(mine / other for mine, other in zip(found, base, strict=True))
        value = statistics.median(found)
        report(f"sac_steps.{name}", value, "steps/s", "stable-baselines3's SAC, in turns", value / ratio)


if __name__ == "__main__":
    run()
