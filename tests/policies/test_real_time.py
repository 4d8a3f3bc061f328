"""Real-time chunking on toys whose answers are known, its mask, and chunks that begin with what is executed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP, FlowTransformer, GaussianPolicy, Plan, check_policy
from policies.base import Policy
from policies.encoder import EMBODIMENT
from policies.errors import PolicyConfigError
from policies.flow import Denoising, Velocity
from policies.real_time import guided, soft_mask
from tests.policies.test_flow import MEAN, STD, toy_velocity

SAMPLES = 20_000
BETA = 5.0
SEEN = {"observation.state": (3,)}


def pinned(velocity: Velocity, target: Tensor, weight: Tensor, largest: float) -> Velocity:
    """The same pull without the product with the Jacobian."""

    def drawn(z: Tensor, t: Tensor) -> Tensor:
        time = t[:, None, None]
        v = velocity(z, t)
        strength = ((1 - time) ** 2 + time**2) / (time * (1 - time)).clamp(min=1e-12)
        return v - strength.clamp(max=largest) * (target[:, None] - (z - time * v)) * weight[:, None]

    return drawn


@pytest.mark.parametrize(
    ("steps", "free", "kept"), [(3, 0.361, 0.176), (4, 0.381, 0.116), (5, 0.394, 0.075), (10, 0.418, 0.091)]
)
def test_guidance_keeps_the_toy_to_its_plan(steps: int, free: float, kept: float) -> None:
    """Mean distance from a plan drawn from the toy: .36 to .42 without guidance, .12 to .07 with it from N = 4 on."""
    denoising, rng = Denoising(steps), np.random.default_rng(0)
    noise = denoising.noise(SAMPLES, 1, 1, rng)
    plan = torch.from_numpy(rng.normal(MEAN, STD, (SAMPLES, 1, 1)).astype(np.float32))
    whole = torch.ones(SAMPLES, 1, 1)

    def distance(velocity: Velocity) -> float:
        return float((denoising.sample(velocity, noise, False).path[:, -1] - plan).abs().mean())

    assert distance(toy_velocity) == pytest.approx(free, abs=0.01)
    assert distance(guided(toy_velocity, plan, whole, BETA)) == pytest.approx(kept, abs=0.01)
    assert distance(guided(toy_velocity, plan, 0 * whole, BETA)) == distance(toy_velocity)


def test_with_the_jacobian_the_rest_of_a_chunk_follows_from_what_is_kept() -> None:
    """Chunks of two actions with correlation 0.95, so that the second is near the first; the first is kept."""
    covariance = STD**2 * torch.tensor([[1.0, 0.95], [0.95, 1.0]])

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        here = (1 - t) ** 2 * covariance + t**2 * torch.eye(2)
        residual = torch.linalg.solve(here, (z[..., 0] - (1 - t) * MEAN)[..., None])[..., 0]
        return (t * residual - (MEAN + (1 - t) * residual @ covariance))[..., None]

    denoising, rng = Denoising(5), np.random.default_rng(0)
    noise = denoising.noise(SAMPLES, 2, 1, rng)
    plan = torch.from_numpy(rng.multivariate_normal([MEAN] * 2, covariance.numpy(), SAMPLES).astype(np.float32))
    first = torch.tensor([1.0, 0.0])[None, :, None].expand(SAMPLES, -1, -1)

    def step(rule: object) -> float:
        chunk = denoising.sample(rule(velocity, plan[..., None], first, BETA), noise, False).path[:, -1, :, 0]
        return float((chunk[:, 1] - chunk[:, 0]).abs().mean())

    # 0.1 is the mean step within a chunk of the toy itself.
    assert step(guided) < 0.1
    assert step(pinned) > 1.9 * step(guided)


def test_the_mask_is_that_of_the_paper() -> None:
    weight = soft_mask(torch.tensor([0, 6, 4, 8]), torch.tensor([0, 2, 4, 9]), 8)
    assert not weight[0].any(), "without a plan nothing is kept"
    c = [(6 - i) / 5 for i in range(2, 6)]
    soft = [one * (math.exp(one) - 1) / (math.e - 1) for one in c]
    assert weight[1].tolist() == pytest.approx([1, 1, *soft, 0, 0])
    assert weight[2].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert weight[3].tolist() == [1] * 8


POLICIES = {
    "flow_mlp": lambda: FlowMLP(SEEN, 4, 2, hidden=(16,), denoising_steps=4),
    "flow_transformer": lambda: FlowTransformer(SEEN, 4, 2, width=8, depth=1, heads=2, denoising_steps=4, max_delay=2),
    "two arms": lambda: FlowMLP({**SEEN, EMBODIMENT: (2,)}, 4, 3, hidden=(16,), used_dims=[[0, 2], [0, 1, 2]]),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_that_can_be_guided_pass_the_check(name: str) -> None:
    torch.manual_seed(0)
    check_policy(POLICIES[name]())


def test_a_policy_that_cannot_says_so() -> None:
    policy: Policy = GaussianPolicy(SEEN, 4, 2, hidden=(8,))
    obs, noise = {"observation.state": torch.zeros(1, 3)}, policy.noise(1, np.random.default_rng(0))
    plan = Plan(torch.zeros(1, 4, 2), torch.tensor([4]), torch.tensor([1]))
    with pytest.raises(PolicyConfigError, match="can't be guided"):
        policy.act_guided(obs, noise, plan, BETA)
    with pytest.raises(PolicyConfigError, match="knows no delay"):
        policy.act_prefixed(obs, noise, plan)
    with pytest.raises(PolicyConfigError, match="max_delay 0"):
        FlowTransformer(SEEN, 4, 2, width=8, heads=2).act_prefixed(obs, noise, plan)


def lines(count: int, rng: np.random.Generator) -> Tensor:
    """(count, 6, 1): chunks that rise or fall, at random; nothing observed says which."""
    slope = rng.choice([-1.0, 1.0], (count, 1, 1)).astype(np.float32)
    return torch.from_numpy(slope * np.linspace(0.5, 1.5, 6, dtype=np.float32)[None, :, None])


def test_trained_with_delay_a_chunk_goes_on_as_it_began() -> None:
    torch.manual_seed(0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    policy = FlowTransformer(SEEN, 6, 1, width=32, depth=1, heads=2, denoising_steps=4, max_delay=3)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    obs = {"observation.state": torch.zeros(128, 3)}
    valid = torch.ones(128, 6, dtype=torch.bool)
    for _ in range(200):
        loss = policy.loss(obs, lines(128, rng), valid, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise, way = policy.noise(128, rng), lines(128, rng)
    delay = torch.arange(128) % 4
    chunk = policy.act_prefixed(obs, noise, Plan(way, torch.full((128,), 6), delay))
    for d in range(1, 4):
        rows = delay == d
        torch.testing.assert_close(chunk.actions[rows, :d], way[rows, :d])
        same = (chunk.actions[rows, d:] * way[rows, d:] > 0).float().mean()
        assert same > 0.95, f"after {d} actions of one way the others are of the same, not {same:.0%}"
    free = policy.act(obs, noise, False).actions
    torch.testing.assert_close(chunk.actions[delay == 0], free[delay == 0])
    assert (free[:, -1] * way[:, -1] > 0).float().mean() < 0.7, "nothing else says which way"


def test_shown_actions_are_not_in_the_loss_and_without_delay_nothing_changes() -> None:
    torch.manual_seed(0)
    policy = FlowTransformer(SEEN, 4, 1, width=8, heads=2, max_delay=3)
    obs, valid = {"observation.state": torch.zeros(64, 3)}, torch.zeros(64, 4, dtype=torch.bool)
    valid[:, 0] = True
    rows = torch.randint(4, (64, 1), generator=_after_the_noise())
    assert policy.loss(obs, torch.ones(64, 4, 1), valid, torch.Generator().manual_seed(3)) > 0
    only = valid & (rows > 0)  # the first action, where it is shown
    assert policy.loss(obs, torch.ones(64, 4, 1), only, torch.Generator().manual_seed(3)) == 0


def _after_the_noise() -> torch.Generator:
    generator = torch.Generator().manual_seed(3)
    torch.randn(64, 4, 1, generator=generator)
    torch.rand(64, 1, generator=generator)
    return generator
