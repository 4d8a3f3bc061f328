"""The denoising path: the toy whose answers are known, the transitions, and the exact log-probability."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from policies.errors import PolicyConfigError
from policies.flow import Denoising

MEAN, STD = 1.5, 0.4
SAMPLES = 200_000


def toy_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity of a ~ N(1.5, 0.4^2)."""
    t = t.reshape(*t.shape, *[1] * (x.ndim - 1 - t.ndim)) if t.ndim == 1 else t[..., None, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    residual = (x - (1 - t) * MEAN) / variance
    return t * residual - (MEAN + (1 - t) * STD**2 * residual)


def draw(denoising: Denoising, samples: int, explore: bool, seed: int = 0) -> Tensor:
    noise = denoising.noise(samples, 1, 1, np.random.default_rng(seed))
    return denoising.sample(toy_velocity, noise, explore).path[:, -1, 0, 0].double()


@pytest.mark.parametrize(("steps", "std"), [(2, 0.138), (4, 0.260), (10, 0.339), (100, 0.393)])
def test_ode_reaches_the_toy(steps: int, std: float) -> None:
    end = draw(Denoising(steps), SAMPLES, explore=False)
    assert end.mean().item() == pytest.approx(MEAN, abs=0.004)
    assert end.std().item() == pytest.approx(std, abs=0.003)


@pytest.mark.parametrize(("steps", "std"), [(2, 0.356), (4, 0.326), (10, 0.367), (100, 0.399)])
def test_flow_sde_reaches_the_toy(steps: int, std: float) -> None:
    end = draw(Denoising(steps, noise_level=0.5), SAMPLES, explore=True)
    assert end.mean().item() == pytest.approx(MEAN, abs=0.004)
    assert end.std().item() == pytest.approx(std, abs=0.003)


def test_one_stochastic_step_lies_between_ode_and_sde_and_is_uniform() -> None:
    denoising = Denoising(10, stochastic_steps="one")
    noise = denoising.noise(20_000, 1, 1, np.random.default_rng(0))
    sample = denoising.sample(toy_velocity, noise, explore=True)
    assert (sample.stochastic.sum(1) == 1).all()
    assert sample.stochastic.float().mean(0).numpy() == pytest.approx(np.full(10, 0.1), abs=0.01)
    assert sample.path[:, -1].mean().item() == pytest.approx(MEAN, abs=0.02)
    assert 0.339 < sample.path[:, -1].std().item() < 0.399


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_first_std_is_the_noise_level(steps: int, level: float) -> None:
    assert Denoising(steps, level).stds[0] == pytest.approx(level)


def test_stds_of_four_steps() -> None:
    assert Denoising(4, 0.5).stds == pytest.approx([0.5, 0.433, 0.25, 0.144], abs=5e-4)


@pytest.mark.parametrize("step", range(4))
def test_transition_is_the_published_equation(step: int) -> None:
    denoising, (z, v) = Denoising(4, 0.5), torch.randn(2, 3, 5, 2, dtype=torch.float64)
    t, delta = 1 - step / 4, 0.25
    sigma = 0.5 * math.sqrt(t / (1 - t if t < 1 else delta))
    mean, std = denoising.transition(step, z, v, stochastic=True)
    torch.testing.assert_close(mean, z - v * delta - sigma**2 * delta / (2 * t) * (z + (1 - t) * v))
    assert std == pytest.approx(sigma * math.sqrt(delta))
    mean, std = denoising.transition(step, z, v, stochastic=False)
    torch.testing.assert_close(mean, z - v * delta)
    assert std == 0


def varied_velocity(weight: Tensor) -> object:
    def velocity(z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(z @ weight) + t[:, None, None].to(z.dtype)

    return velocity


@pytest.mark.parametrize("options", [{}, {"stochastic_steps": "one"}, {"deterministic_last": True}], ids=str)
def test_log_prob_is_the_normal_density_of_each_step(options: dict) -> None:
    denoising, velocity = Denoising(4, 0.5, **options), varied_velocity(torch.randn(3, 3))
    sample = denoising.sample(velocity, denoising.noise(6, 5, 3, np.random.default_rng(0)), explore=True)
    log_prob = denoising.log_prob(velocity, sample.path, sample.stochastic)
    for k in range(4):
        z, t = sample.path[:, k], torch.tensor([denoising.grid[k]])
        mean, std = denoising.transition(k, z, velocity(z[:, None], t)[:, 0], stochastic=True)
        expected = torch.zeros(6, 5)
        if std > 0:
            density = Normal(mean, std).log_prob(sample.path[:, k + 1]).sum(-1)
            expected = torch.where(sample.stochastic[:, k, None], density, 0.0)
        torch.testing.assert_close(log_prob[:, k], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_prob, sample.log_prob, rtol=0, atol=1e-4)


@pytest.mark.parametrize("last", [False, True], ids=["any step", "not the last"])
@pytest.mark.parametrize("learned", [False, True], ids=["sde", "noise"])
def test_of_one_stochastic_step_the_network_is_asked_there_alone(learned: bool, last: bool) -> None:
    one = Denoising(4, 0.5, "one", deterministic_last=last)
    weight, asked = torch.randn(2, 5, 5, requires_grad=True), []
    real = (torch.arange(5) < torch.tensor([[3], [5]] * 4)).float()

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        asked.append(z.shape[:2])
        return torch.tanh(z @ weight[0]) * t.expand(z.shape[:2])[..., None, None]

    def spread(z: Tensor, t: Tensor) -> Tensor:
        asked.append(z.shape[:2])
        return 0.1 + (z @ weight[1]).sigmoid() * t.expand(z.shape[:2])[..., None, None]

    given = spread if learned else None
    with torch.no_grad():
        sample = one.sample(velocity, one.noise(8, 3, 5, np.random.default_rng(0)), True, real, given)
    sample.stochastic[6:] = False  # as without exploration
    asked.clear()
    found = []
    for denoising in (one, replace(one, stochastic_steps="all")):
        values = [denoising.log_prob(velocity, sample.path, sample.stochastic, real, given)]
        if learned:
            values.append(denoising.entropy(sample.path, sample.stochastic, spread, real))
        found.append((*values, *torch.autograd.grad(sum(each.sum() for each in values), weight)))
    calls = 3 if learned else 1
    assert asked == [(8, 1)] * calls + [(8, 3 if last else 4)] * calls
    for mine, whole in zip(*found, strict=True):
        torch.testing.assert_close(mine, whole)
    assert found[0][0][:6].any() and not found[0][0][6:].any()


def test_padded_dims_are_walked_but_not_counted() -> None:
    denoising, velocity = Denoising(2), varied_velocity(torch.eye(5))
    noise, mask = denoising.noise(4, 3, 5, np.random.default_rng(0)), torch.tensor([[1.0, 1, 0, 0, 0]]).expand(4, -1)
    whole, real = (denoising.sample(velocity, noise, True, mask) for mask in (None, mask))
    assert torch.equal(whole.path, real.path)
    narrow = denoising.sample(varied_velocity(torch.eye(2)), noise[..., :2], True)
    torch.testing.assert_close(real.log_prob, narrow.log_prob)
    torch.testing.assert_close(denoising.log_prob(velocity, whole.path, whole.stochastic, mask), narrow.log_prob)


@pytest.mark.parametrize("options", [{}, {"stochastic_steps": "one"}, {"deterministic_last": True}], ids=str)
def test_gradient_agrees_with_finite_differences(options: dict) -> None:
    denoising = Denoising(4, 0.5, **options)
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    noise = denoising.noise(3, 2, 2, np.random.default_rng(0)).double()
    with torch.no_grad():
        sample = denoising.sample(varied_velocity(weight), noise, explore=True)
    assert torch.autograd.gradcheck(
        lambda w: denoising.log_prob(varied_velocity(w), sample.path, sample.stochastic), (weight,)
    )


def test_without_exploration_only_the_first_noise_counts() -> None:
    denoising, velocity = Denoising(3), varied_velocity(torch.eye(2))
    one, two = (denoising.noise(4, 3, 2, np.random.default_rng(s)) for s in (0, 1))
    two[:, 0] = one[:, 0]
    first, second = (denoising.sample(velocity, n, explore=False) for n in (one, two))
    assert torch.equal(first.path, second.path)
    assert not first.stochastic.any() and not first.log_prob.any()


def test_deterministic_last_step_adds_no_noise() -> None:
    denoising, velocity = Denoising(2, deterministic_last=True), varied_velocity(torch.eye(2))
    sample = denoising.sample(velocity, denoising.noise(4, 3, 2, np.random.default_rng(0)), explore=True)
    assert sample.stochastic.tolist() == [[True, False]] * 4
    z = sample.path[:, 1]
    expected, _ = denoising.transition(1, z, velocity(z[:, None], torch.tensor([0.5]))[:, 0], stochastic=False)
    torch.testing.assert_close(sample.path[:, 2], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "denoising_steps is 0"),
        ({"steps": 2, "noise_level": 0.0}, "no log-probability"),
        ({"steps": 2, "noise_level": math.nan}, "noise_level is nan"),
        ({"steps": 2, "stochastic_steps": "some"}, "'some'"),
        ({"steps": 1, "deterministic_last": True}, "nothing would explore"),
    ],
    ids=["no steps", "no noise", "nan noise", "unknown choice", "nothing stochastic"],
)
def test_settings_that_cannot_work_are_refused(options: dict, words: str) -> None:
    with pytest.raises(PolicyConfigError, match=words):
        Denoising(**options)
