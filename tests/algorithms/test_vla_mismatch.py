"""A VLA that is served in bfloat16 and trained in float32: how far both disagree is told, and weighed or masked."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from policies.vla.flow_vla import FlowVLA
from robotlearn.algorithms.chunks import ChunkBatch
from robotlearn.algorithms.ppo import PPO
from robotlearn.config.algorithms import PPOConfig
from tests.policies.vla.conftest import KINDS, checkpoints, make, observations, offline  # noqa: F401

WORDS = ["touch the red cube", "touch the blue cube", "go to the red cube", "touch the red cube"]


def batch_of(policy: FlowVLA, *, served: str) -> ChunkBatch:
    """One chunk of each of four episodes, drawn with products of that precision."""
    obs, trained = observations(WORDS), policy.precision
    policy.precision = served
    chunk = policy.act(obs, policy.noise(4, np.random.default_rng(0)), True)
    policy.precision = trained
    return ChunkBatch(
        observations=obs, states=obs, final=obs, path=chunk.path, stochastic=chunk.stochastic, log_prob=chunk.log_prob,
        mask=torch.ones(4, policy.horizon, dtype=torch.bool), reward=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        discount=torch.ones(4), steps=torch.full((4,), policy.horizon), version=torch.tensor([3, 3, 3, 2]),
        episode=torch.arange(4), last=torch.ones(4, dtype=torch.bool), terminated=torch.ones(4, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_serving_in_bfloat16_does_is_told_and_corrected(make: Callable[..., FlowVLA], kind: str) -> None:  # noqa: F811
    given = {"actor_lr": 0.0, "critic_warmup": 0, "epochs": 1, "minibatch": 4, "value_hidden": (8,)}
    policy = make(kind)
    exact, rounded = (batch_of(policy, served=served) for served in ("float32", "bfloat16"))
    same = PPO(policy, PPOConfig(**given), 0).learn(exact, 3)
    assert same["log_prob_gap"] <= 1e-4 and same["mismatch_kl"] < 1e-8 and same["w_mean"] == pytest.approx(1, abs=1e-4)

    told = PPO(policy, PPOConfig(**given), 0).learn(rounded, 3)
    prox = policy.log_prob(rounded.observations, rounded.path, rounded.stochastic).detach()
    gap = prox - rounded.log_prob
    assert told["log_prob_gap"] == pytest.approx(gap[:3].abs().max().item(), rel=1e-3)
    assert told["mismatch_kl"] == pytest.approx(0.5 * gap[:3].square().mean().item(), rel=1e-3)
    assert told["log_prob_gap"] > 1e-3 and told["mismatch_kl"] > 1e-7
    assert told["w_mean"] == pytest.approx(gap.exp().mean().item(), abs=1e-4)

    cap = gap.exp().median().item()
    masked = PPO(policy, PPOConfig(**given, behaviour_weight_cap=cap), 0).learn(rounded, 3)
    assert masked["w_masked_fraction"] == pytest.approx((gap.exp() > cap).float().mean().item(), abs=0.02)
