"""With one stochastic step per chunk a VLA's expert looks at that one alone, and finds what it finds among all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.vla.flow_vla import FlowVLA
from tests.policies.vla.conftest import KINDS, observations


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_is_asked_once_for_each_chunk(make: Callable[..., Any], kind: str) -> None:
    policy: FlowVLA = make(kind, stochastic_steps="one", exploration="noise")
    obs = observations(["lift the red cube", "put the green cube away, please", "go", "stop"])
    chunk = policy.act(obs, policy.noise(4, np.random.default_rng(0)), True)
    stochastic = chunk.stochastic.clone()
    stochastic[3] = False
    assert stochastic.any(0).sum() > 1, "the rows have their own times"
    asked: list[int] = []
    policy.lerobot.model.action_in_proj.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    learnt = [parameter for parameter in policy.parameters() if parameter.requires_grad]

    def found() -> list[Tensor]:
        log_prob, entropy = (part(obs, chunk.path, stochastic) for part in (policy.log_prob, policy.entropy))
        total = log_prob.sum() + entropy.sum()
        return [log_prob, entropy, *torch.autograd.grad(total, learnt, materialize_grads=True)]

    one = found()
    assert all(torch.equal(mine, again) for mine, again in zip(one[:2], found()[:2], strict=True))
    policy.denoising = replace(policy.denoising, stochastic_steps="all")
    for mine, whole in zip(one, found(), strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-3, atol=1e-4)
    assert asked == [4, 4, 16]
    torch.testing.assert_close(one[0][:3], chunk.log_prob[:3], rtol=0, atol=1e-4)
