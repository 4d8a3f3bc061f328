"""Of the policies' networks the log-probability asks at each row's own flow time: as at all of them, and masked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP
from policies.flow_policy import FlowPolicy
from policies.flow_transformer import FlowTransformer

FEATURES = {"observation.state": (8,), "embodiment": (2,)}


@pytest.mark.parametrize("exploration", ["sde", "noise"])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(FlowMLP, {"hidden": (32,)}), (FlowTransformer, {"width": 16, "heads": 2, "max_delay": 1})],
    ids=["mlp", "transformer"],
)
def test_one_step_of_each_row_is_scored_as_among_all(
    kind: type[FlowPolicy], sizes: dict[str, Any], exploration: str
) -> None:
    torch.manual_seed(0)
    policy = kind(
        FEATURES,
        horizon=4,
        action_dim=3,
        denoising_steps=4,
        stochastic_steps="one",
        exploration=exploration,  # type: ignore[arg-type]
        used_dims=[[0, 2], [0, 1, 2]],
        **sizes,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # a transformer starts with a velocity of 0
    obs = {"observation.state": torch.randn(6, 8), "embodiment": torch.eye(2).repeat(3, 1)}
    chunk = policy.act(obs, policy.noise(6, np.random.default_rng(0)), True)
    stochastic = chunk.stochastic.clone()
    stochastic[5] = False
    assert stochastic.any(0).sum() > 1, "the rows have their own times"

    def found() -> list[Tensor]:
        log_prob, entropy = (part(obs, chunk.path, stochastic) for part in (policy.log_prob, policy.entropy))
        total = log_prob.sum() + entropy.sum()
        return [log_prob, entropy, *torch.autograd.grad(total, list(policy.parameters()), materialize_grads=True)]

    one = found()
    policy.denoising = replace(policy.denoising, stochastic_steps="all")
    for mine, whole in zip(one, found(), strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one[0][:5], chunk.log_prob[:5], rtol=0, atol=1e-4)
