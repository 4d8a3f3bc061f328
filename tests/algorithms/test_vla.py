"""GRPO and PPO take a VLA as they take a small policy, by Flow-SDE and by Flow-Noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.base import Policy
from policies.language import as_bytes
from policies.normalizer import Statistics
from policies.registry import make_policy
from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.chunks import Episode
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.config.algorithms import GRPOConfig, PPOConfig
from robotlearn.wire.segment import Group
from tests.algorithms.weights import same, weights

FEATURES: Mapping[str, tuple[int, ...]] = {
    "observation.state": (6,),
    "observation.images.front": (48, 64, 3),
    "instruction": (256,),
}
GROUPS, G, H, CHUNKS = 2, 4, 4, 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from policies.vla.tiny import write_tiny

    return write_tiny("smolvla", tmp_path_factory.mktemp("vla") / "smolvla")


def episodes(policy: Policy) -> list[Episode]:
    """Groups of episodes of two chunks, each group from one observation, with random rewards."""
    rng = np.random.default_rng(0)
    made = []
    for group in range(GROUPS):
        state = rng.standard_normal((1, 6), dtype=np.float32)
        image = rng.integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
        words = as_bytes(f"do number {group}")[None]
        for member in range(G):
            steps = CHUNKS * H
            seen = {
                "observation.state": np.concatenate([state, rng.standard_normal((steps, 6), dtype=np.float32)]),
                "observation.images.front": image.repeat(steps + 1, 0),
                "instruction": words.repeat(steps + 1, 0),
            }
            rows = {key: torch.from_numpy(value[: CHUNKS * H : H]) for key, value in seen.items()}
            chunk = policy.act(rows, policy.noise(CHUNKS, rng), explore=True)
            no, start = np.zeros(steps, bool), np.arange(CHUNKS, dtype=np.int32) * H
            made.append(
                Episode(
                    seen,
                    action_executed=np.zeros((steps, 6), np.float32),
                    intervention=no, held=no, terminated=no, success=no, truncated=np.arange(steps) == steps - 1,
                    reward=rng.standard_normal(steps).astype(np.float32),
                    version=np.zeros(CHUNKS, np.int64), start=start, first=0 * start, executed=0 * start + H,
                    lag=0 * start, path=chunk.path.numpy(), stochastic=chunk.stochastic.numpy(),
                    log_prob=chunk.log_prob.numpy(), group=Group(group, member, G),
                )
            )  # fmt: skip
    return made


@pytest.mark.parametrize("exploration", ["sde", "noise"])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_vla_learns_by_either_and_by_both_explorations(
    checkpoint: Path, name: str, exploration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    policy = make_policy(
        "smolvla", features=FEATURES, horizon=H, action_dim=6, width=8, denoising_steps=2, exploration=exploration,
        pretrained=str(checkpoint),
    )  # fmt: skip
    policy.set_statistics({key: Statistics(np.zeros(6), np.ones(6)) for key in ("observation.state", "action")})
    shown = episodes(policy)
    for rate in (0.0, 1e-5):
        config = {"name": name, "epochs": 1, "minibatch": 4, "actor_lr": rate}
        config |= {"group": G} if name == "grpo" else {"critic_warmup": 0, "value_hidden": (8,)}
        algorithm = make_algorithm(name, policy, (GRPOConfig if name == "grpo" else PPOConfig)(**config), seed=0)
        assert isinstance(algorithm, OnPolicy)
        before = weights(policy)
        metrics = algorithm.update(shown, 0, lambda: None)
        assert metrics["actor_trained"] == 1 and metrics["chunks"] == GROUPS * G * CHUNKS
        assert metrics["log_prob_gap"] <= 1e-4, "what the edge recorded, in batches of another size"
        if rate == 0:
            assert metrics["ratio_max"] == 1 and metrics["kl"] == 0 and same(weights(policy), before)
        else:
            assert metrics["ratio_max"] > 1 and not same(weights(policy), before)
