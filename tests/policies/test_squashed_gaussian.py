"""The squashed Gaussian: densities that are densities, however far tanh is saturated, and draws with gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies import SquashedGaussianPolicy, Statistics

STATE = {"observation.state": (3,)}
SEVERAL = {**STATE, "embodiment": (2,)}


def make(features=STATE, horizon: int = 2, dims: int = 3, scale: float = 3.0, **options: object):
    """One whose means and spreads differ from observation to observation by `scale`."""
    torch.manual_seed(0)
    policy = SquashedGaussianPolicy(features, horizon, dims, hidden=(16,), **options)
    with torch.no_grad():
        policy.network[-1].weight.normal_(0, scale / 4)
    return policy


def fixed(mean: float, std: float, bound: float) -> SquashedGaussianPolicy:
    """u ~ N(mean, std^2) for one action of one entry, whatever is seen."""
    policy = SquashedGaussianPolicy(STATE, 1, 1, hidden=(4,), bound=bound, initial_std=std)
    with torch.no_grad():
        policy.network[-1].weight.zero_()
        policy.network[-1].bias[0] = 5 * math.atanh(mean / 5)
    return policy


def observe(batch: int = 64, features=STATE) -> dict[str, Tensor]:
    seen = {"observation.state": torch.randn(batch, 3, generator=torch.Generator().manual_seed(1))}
    if "embodiment" in features:
        seen["embodiment"] = nn.functional.one_hot(torch.arange(batch) % 2, 2).float()
    return seen


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.05), (0.4, 0.3), (-1.0, 1.0), (2.0, 0.5)])
def test_the_density_of_actions_integrates_to_1(mean: float, std: float, bound: float) -> None:
    policy, n = fixed(mean, std, bound), 20_000
    z = bound * ((torch.arange(n) + 0.5) / n * 2 - 1)
    path = torch.stack([torch.zeros(n), z], 1)[..., None, None]
    density = policy.log_prob(observe(1), path, torch.ones(n, 1, dtype=torch.bool)).exp()
    assert density.sum().item() * 2 * bound / n == pytest.approx(1, abs=2e-3)
    average = (density.flatten() * z).sum().item() * 2 * bound / n
    drawn, _ = policy.sample(observe(1), torch.randn(200_000, 1, 1, generator=torch.Generator().manual_seed(0)))
    assert average == pytest.approx(drawn.mean().item(), abs=0.01 * bound)


@pytest.mark.parametrize(
    ("scale", "tolerance"), [(0.02, 1e-4), (0.3, 1e-4), (30.0, 2e-3)], ids=["narrow", "wide", "saturated"]
)
@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_log_prob_of_a_stored_path_is_the_recorded_one_in_any_batch_size(scale, tolerance, bound) -> None:
    """Where mean and spread are at their ends, less of float32 is left."""
    policy, obs = make(scale=scale, bound=bound), observe()
    chunk = policy.act(obs, policy.noise(64, np.random.default_rng(0)), explore=True)
    assert (chunk.path[:, 1].abs() == bound).any() == (scale == 30.0), "told apart from the edge no more"
    for size in (64, 16, 1):
        parts = [
            policy.log_prob({k: v[i : i + size] for k, v in obs.items()}, chunk.path[rows], chunk.stochastic[rows])
            for i in range(0, 64, size)
            for rows in [slice(i, i + size)]
        ]
        found = torch.cat(parts).detach()
        assert found.isfinite().all()
        assert (found - chunk.log_prob).abs().max() <= tolerance


def test_actions_are_the_path_in_robot_units_and_keep_within_the_bound() -> None:
    policy, obs = make(scale=30.0, bound=2.0), observe()
    mean, std = np.array([1.0, -2.0, 0.5]), np.array([0.5, 2.0, 1.0])
    policy.set_statistics({"observation.state": Statistics(np.zeros(3), np.ones(3)), "action": Statistics(mean, std)})
    for explore in (True, False):
        chunk = policy.act(obs, policy.noise(64, np.random.default_rng(0)), explore)
        np.testing.assert_allclose(chunk.actions.numpy(), chunk.path[:, -1].numpy() * std + mean, rtol=1e-5, atol=1e-6)
        assert chunk.path[:, -1].abs().max() <= 2.0 and chunk.path[:, -1].abs().max() > 1.99


def test_without_exploration_it_does_the_squashed_mean() -> None:
    policy = fixed(0.7, 0.5, bound=3.0)
    noise = policy.noise(1, np.random.default_rng(0))
    assert policy.act(observe(1), noise, False).actions.item() == pytest.approx(3 * math.tanh(0.7), rel=1e-5)
    explored = 3 * math.tanh(0.7 + 0.5 * noise[0, 1].item())
    assert policy.act(observe(1), noise, True).actions.item() == pytest.approx(explored, rel=1e-5)


def test_a_new_one_has_the_spread_asked_for_and_hardly_moves() -> None:
    policy = SquashedGaussianPolicy(STATE, 2, 3, initial_std=0.8)
    mean, log_std = policy._gaussian(observe())
    assert mean.abs().max() < 0.05 and (log_std.exp() - 0.8).abs().max() < 0.05


def test_samples_are_what_act_does_with_the_density_of_the_path() -> None:
    policy, obs = make(scale=0.3, bound=3.0), observe()
    noise = policy.noise(64, np.random.default_rng(0))
    chunk = policy.act(obs, noise, True)
    drawn, log_prob = policy.sample(obs, noise[:, 1])
    torch.testing.assert_close(drawn.detach(), chunk.path[:, 1])
    torch.testing.assert_close(log_prob.detach(), chunk.log_prob.sum((1, 2)), rtol=1e-4, atol=1e-3)


def test_density_of_samples_is_exact_however_far_they_are_saturated() -> None:
    policy = fixed(4.5, 6.0, bound=2.0)
    noise = torch.linspace(-8, 8, 33)[:, None, None]
    _, log_prob = policy.sample(observe(1), noise)
    u = 4.5 + 6.0 * noise.double().flatten()
    slope = math.log(2.0) - 2 * (u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2))  # 2 - 2 ln cosh u
    exact = -0.5 * noise.double().flatten().square() - math.log(6.0) - 0.5 * math.log(2 * math.pi) - slope
    torch.testing.assert_close(log_prob.detach().double(), exact, rtol=1e-5, atol=1e-3)


def test_gradient_of_samples_agrees_with_finite_differences() -> None:
    policy = make(SEVERAL, bound=3.0, scale=1.0, used_dims=[[0, 1, 2], [0, 2]]).double()
    obs = {key: value.double() for key, value in observe(6, SEVERAL).items()}
    noise = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weigh = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value() -> Tensor:
        chunk, log_prob = policy.sample(obs, noise)
        return (chunk * weigh).sum() + 0.3 * log_prob.sum()

    for parameter in policy.parameters():
        (gradient,) = torch.autograd.grad(value(), parameter)
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 6)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                ends.append(value().item())
                flat[i] -= sign * 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.flatten()[i].item(), rel=1e-5, abs=1e-7)


def test_entries_that_are_not_real_are_0_in_samples_and_do_not_count() -> None:
    policy = make(SEVERAL, used_dims=[[0, 1, 2], [0, 2]])
    obs, noise = observe(6, SEVERAL), policy.noise(6, np.random.default_rng(0))[:, 1]
    chunk, log_prob = policy.sample(obs, noise)
    assert not chunk[1::2, :, 1].any() and chunk[0::2].all()
    other = noise.clone()
    other[1::2, :, 1] += 1
    again, same = policy.sample(obs, other)
    assert torch.equal(again, chunk) and torch.equal(same, log_prob)
    given = policy.chunk_of(obs, torch.full((6, 2, 3), 0.5))
    assert not given[1::2, :, 1].any() and (given[0::2] == 0.5).all()


def test_the_supervised_loss_is_the_error_of_the_squashed_mean_to_what_it_can_do() -> None:
    policy = fixed(0.5, 0.3, bound=1.5)
    actions, valid = torch.tensor([0.2, 7.0, -7.0])[:, None, None], torch.ones(3, 1, dtype=torch.bool)
    here = 1.5 * math.tanh(0.5)
    expected = np.mean([(here - 0.2) ** 2, (here - 1.5) ** 2, (here + 1.5) ** 2])
    assert policy.loss({"observation.state": torch.zeros(3, 3)}, actions, valid).item() == pytest.approx(expected)


def test_bound_is_part_of_what_edge_and_learner_agree_on() -> None:
    assert make(bound=1.0).contract() != make(bound=2.0).contract()
