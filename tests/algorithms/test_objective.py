"""The decoupled objective: clip, dual clip, weight and mask of each unit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robotlearn.algorithms.objective import interpolate, objective
from robotlearn.config.algorithms import PPOConfig

CONFIG = PPOConfig()


def one_unit(ratio: float, weight: float, advantage: float, **config: object) -> tuple[float, float]:
    """Loss of a single unit and its derivative in ln pi."""
    behaviour = torch.zeros(1, 1, 1, dtype=torch.float64)
    proximal = behaviour + math.log(weight)
    log_prob = (proximal + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([advantage], dtype=torch.float64)
    result = objective(log_prob, proximal, behaviour, advantages, torch.ones(1, 1, 1).bool(), PPOConfig(**config))
    result.loss.backward()
    assert log_prob.grad is not None
    return result.loss.item(), log_prob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "weight", "advantage", "loss", "gradient"),
    [
        (1.0, 1.0, 2.0, -2.0, -2.0),
        (1.1, 1.0, 2.0, -2.2, -2.2),
        (1.5, 1.0, 2.0, -2.4, 0.0),
        (0.5, 1.0, 2.0, -1.0, -1.0),
        (0.5, 1.0, -2.0, 1.6, 0.0),
        (1.5, 1.0, -2.0, 3.0, 3.0),
        (3.5, 1.0, -2.0, 6.0, 0.0),
        (3.5, 1.0, 2.0, -2.4, 0.0),
        (1.1, 1.5, 2.0, -3.3, -3.3),
        (1.1, 1.99, 2.0, -4.378, -4.378),
        (1.1, 2.01, 2.0, 0.0, 0.0),
        (1.1, 0.01, 2.0, -0.022, -0.022),
    ],
    ids=[
        "on policy",
        "within the clip",
        "clipped above",
        "low ratio, good",
        "clipped below",
        "high ratio, bad",
        "dual clip",
        "dual clip is for bad ones only",
        "weighted",
        "weight under the cap",
        "weight over the cap is masked",
        "small weight stays",
    ],
)
def test_one_unit(ratio: float, weight: float, advantage: float, loss: float, gradient: float) -> None:
    assert one_unit(ratio, weight, advantage) == pytest.approx((loss, gradient))


def batch(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    log_prob, proximal, behaviour = (0.3 * torch.randn(n, 2, 4, generator=g).double() for _ in range(3))
    return log_prob, proximal, behaviour, torch.randn(n, generator=g).double(), torch.rand(n, 2, 4, generator=g) < 0.6


@pytest.mark.parametrize("ratio", ["unit", "chunk"])
@pytest.mark.parametrize("junk", [1e30, math.nan, math.inf], ids=str)
def test_masked_units_have_no_influence(ratio: str, junk: float) -> None:
    log_prob, proximal, behaviour, advantage, units = batch()
    units[2] = False
    config, results = PPOConfig(ratio=ratio), []
    for value in (0.0, junk):
        given = [torch.where(units, x, value) for x in (log_prob, proximal, behaviour)]
        leaf = given[0].requires_grad_()
        result = objective(leaf, given[1], given[2], advantage, units, config)
        result.loss.backward()
        results.append((result, leaf.grad))
    (one, gradient), (two, again) = results
    assert torch.equal(gradient, again) and not gradient[~units].any() and gradient[units].any()
    for name in one.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_loss_is_the_mean_over_units() -> None:
    log_prob, proximal, behaviour, advantage, units = batch()
    terms = []
    for c, k, h in units.nonzero().tolist():
        r = math.exp(log_prob[c, k, h] - proximal[c, k, h])
        w = math.exp(proximal[c, k, h] - behaviour[c, k, h])
        a = advantage[c].item()
        s = min(r * a, min(max(r, 0.8), 1.2) * a)
        s = max(s, 3 * a) if a < 0 else s
        terms.append(0.0 if w > 2 else -w * s)
    result = objective(log_prob, proximal, behaviour, advantage, units, CONFIG)
    assert result.loss.item() == pytest.approx(sum(terms) / len(terms))


def test_one_ratio_per_chunk_is_the_product_of_its_units() -> None:
    log_prob, proximal, behaviour, advantage, units = batch(n=3)
    config = PPOConfig(ratio="chunk", behaviour_weight_cap=1e9)
    result = objective(log_prob, proximal, behaviour, advantage, units, config)
    summed = [torch.where(units, x, 0.0).sum((1, 2))[:, None, None] for x in (log_prob, proximal, behaviour)]
    expected = objective(*summed, advantage, torch.ones(3, 1, 1).bool(), PPOConfig(behaviour_weight_cap=1e9))
    for name in result.__dataclass_fields__:
        torch.testing.assert_close(getattr(result, name), getattr(expected, name))


def test_figures_of_a_known_batch() -> None:
    ratios = torch.tensor([[[1.0, 1.3, 0.5, 1.1]]], dtype=torch.float64)
    weights = torch.tensor([[[1.0, 4.0, 0.5, 1.5]]], dtype=torch.float64)
    zero = torch.zeros(1, 1, 4, dtype=torch.float64)
    result = objective(
        ratios.log() + weights.log(), weights.log(), zero, torch.ones(1).double(), torch.ones(1, 1, 4).bool(), CONFIG
    )
    assert result.clip_fraction.item() == 0.5
    assert result.ratio_max.item() == pytest.approx(1.3)
    assert result.w_mean.item() == pytest.approx(1.75)
    assert result.w_masked_fraction.item() == 0.25
    assert result.half_square.item() == pytest.approx(0.5 * ratios.log().square().mean().item())
    assert result.kl.item() == pytest.approx((ratios - 1 - ratios.log()).mean().item())


def test_an_absurd_ratio_gives_a_finite_gradient() -> None:
    for advantage in (1.0, -1.0):
        log_prob = torch.full((1, 1, 1), 1000.0, requires_grad=True)
        zero = torch.zeros(1, 1, 1)
        objective(log_prob, zero, zero, torch.tensor([advantage]), zero == 0, CONFIG).loss.backward()
        assert log_prob.grad is not None and log_prob.grad.item() == 0


@pytest.mark.parametrize(("lag", "alpha"), [(1, 0.0), (2, 1 / 2), (3, 2 / 3), (10, 0.9), (0, 0.0), (-1, 0.0)])
def test_interpolated_proximal_policy(lag: int, alpha: float) -> None:
    """alpha = (v_prox - v_b) / (v - v_b) = (k - 1) / k for data k versions older than what the policy becomes."""
    version = 20
    log_prob, behaviour = torch.randn(1, 2, 4, requires_grad=True), torch.randn(1, 2, 4)
    proximal = interpolate(log_prob, behaviour, torch.tensor([version + 1 - lag]), version)
    torch.testing.assert_close(proximal, behaviour + alpha * (log_prob.detach() - behaviour))
    assert not proximal.requires_grad
