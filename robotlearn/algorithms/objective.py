"""The decoupled PPO objective of AReaL (arXiv:2505.24298, eq. 5), per unit, as a pure function of log-probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robotlearn.config.algorithms import PathConfig

# exp beyond this would overflow, and 0 * inf in the backward pass of the clip is NaN; r is clipped long before.
LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Objective:
    """The loss, with gradient, and what to watch, without; all scalars."""

    loss: Tensor
    half_square: Tensor  # E[(ln r)^2] / 2
    kl: Tensor  # E[r - 1 - ln r]
    clip_fraction: Tensor
    ratio_max: Tensor
    w_mean: Tensor
    w_masked_fraction: Tensor


def objective(
    log_prob: Tensor, proximal: Tensor, behaviour: Tensor, advantage: Tensor, units: Tensor, config: PathConfig
) -> Objective:
    """-E_units[ w min(r A, clip(r, 1 - c, 1 + c) A) ], r = pi/pi_prox, w = pi_prox/pi_b.

    Args:
        log_prob: ln pi (B, N, H), with gradient. proximal, behaviour: ln pi_prox, ln pi_b, alike, without.
        advantage: (B,), of the chunk and so of each of its units.
        units: (B, N, H) bool, those that count. Whatever the others hold has no influence, on the gradient either.

    Units with w above the cap count as 0; where A < 0 a unit's term is at least dual_clip A.
    """
    log_ratio = torch.where(units, log_prob - proximal, 0.0)
    log_weight = torch.where(units, proximal - behaviour, 0.0)
    if config.ratio == "chunk":  # one unit per chunk: the product over its units
        log_ratio, log_weight = log_ratio.sum((1, 2), keepdim=True), log_weight.sum((1, 2), keepdim=True)
        units = units.any(2, keepdim=True).any(1, keepdim=True)
    count = units.sum().clamp(min=1)
    a, c = advantage[:, None, None], config.clip

    ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    surrogate = torch.minimum(ratio * a, ratio.clamp(1 - c, 1 + c) * a)
    surrogate = torch.where(a < 0, torch.maximum(surrogate, config.dual_clip * a), surrogate)

    weight = log_weight.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    masked = weight > config.behaviour_weight_cap
    loss = -torch.where(units & ~masked, weight * surrogate, 0.0).sum() / count

    with torch.no_grad():
        return Objective(
            loss=loss,
            half_square=0.5 * log_ratio.square().sum() / count,
            kl=torch.where(units, ratio - 1 - log_ratio, 0.0).sum() / count,
            clip_fraction=(units & ((ratio - 1).abs() > c)).sum() / count,
            ratio_max=torch.where(units, ratio, 0.0).max(),
            w_mean=torch.where(units, weight, 0.0).sum() / count,
            w_masked_fraction=(units & masked).sum() / count,
        )


def interpolate(log_prob: Tensor, behaviour: Tensor, behaviour_version: Tensor, version: int) -> Tensor:
    """ln pi_prox = ln pi_b + alpha (ln pi - ln pi_b), detached, alpha = (v_prox - v_b) / (v - v_b) in [0, 1].

    `version` is v_prox, that of the policy when the update began; v, what it is becoming, is one more;
    `behaviour_version` (B,) is v_b. Data of a version that is only now becoming (v_b = v) has alpha 0.
    """
    lag = (version + 1 - behaviour_version).to(behaviour.dtype)
    alpha = torch.where(lag > 0, (lag - 1) / lag.clamp(min=1), 0.0).clamp(0, 1)[:, None, None]
    return behaviour + alpha * (log_prob.detach() - behaviour)
