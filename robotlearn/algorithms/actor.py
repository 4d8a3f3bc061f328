"""The policy's side of PPO and GRPO: whatever the advantages come from, a policy moves along them in one way.

piRL (arXiv:2510.25889) gives the exact log-probability of the path; AReaL (arXiv:2505.24298) the objective that stands
data from older weights: ratios to a proximal policy, weighted from it to the behaviour policy that ran on the robot.

A *unit* is one (denoising step, action step): its log-probability sums over the action's dims, and the advantage of the
chunk is that of each of its units. Units whose action was not executed, was overridden by a person or held by safety
are masked out. An approximation: until the last denoising step, a unit's mean depends on the other units' z too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.chunks import ChunkBatch, shown
from robotlearn.algorithms.metrics import Metrics
from robotlearn.algorithms.minibatches import split
from robotlearn.algorithms.objective import interpolate, objective
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.config.algorithms import PathConfig


def units_of(batch: ChunkBatch) -> Tensor:
    """(C, N, H) bool: the units that count."""
    return batch.mask[:, None] & batch.stochastic[..., None]


class Actor:
    """A policy whose chunks are paths of Gaussian steps, and its optimiser.

    Metrics of an update:
        loss/policy, grad_norm/policy (before clipping): means over the optimiser steps;
        kl: E[r - 1 - ln r] of the ratio r to the proximal policy, mean; kl_max: largest E[(ln r)^2] / 2 of a minibatch,
            which target_kl bounds; ratio_max: the largest r; clip_fraction: units with r outside [1 - c, 1 + c];
        entropy: of a unit, mean, where it is rewarded;
        w_mean, w_masked_fraction: the weight, proximal over behaviour policy, and the share of units above its cap;
        behaviour_gap, behaviour_kl: largest |ln pi_prox - ln pi_b| of a unit, and half its mean square, among all
            chunks: how far the policy has come since the data were made;
        log_prob_gap, mismatch_kl: the same two among chunks of the newest version (0 without any): how far edge and
            learner disagree about the same weights, for they compute on other devices, in other batches, or from
            weights that were rounded for the wire. The weight w corrects for it, as for age. These four only where the
            proximal policy is recomputed.
    """

    def __init__(self, policy: Policy, config: PathConfig) -> None:
        """Learns `policy` in place, on the device where it is."""
        self.policy, self.config = policy, config
        self.optimizer = Optimizer("policy", policy, config.actor_lr, config.grad_clip)

    def begin(
        self, batch: ChunkBatch, advantage: Tensor, version: int, updates: int, metrics: Metrics
    ) -> "ActorUpdate":
        """An update from these chunks and their advantages (C,), on the policy's device; `updates` were done before.

        `version`: that of the policy's weights as they are.
        """
        if self.config.actor_lr_halving is not None:
            self.optimizer.lr = self.config.actor_lr * 0.5 ** (updates / self.config.actor_lr_halving)
        return ActorUpdate(self, batch, advantage, version, metrics)


class ActorUpdate:
    """One update of an actor, `step` by step."""

    def __init__(self, actor: Actor, batch: ChunkBatch, advantage: Tensor, version: int, metrics: Metrics) -> None:
        self.policy, self.config, self.optimizer = actor.policy, actor.config, actor.optimizer
        self._batch, self._advantage, self._version, self._metrics = batch, advantage, version, metrics
        self._units = units = units_of(batch)
        # The anchor of the ratios: this very policy, as it is before the first step (AReaL, section 5.2).
        self._anchor = self._recompute() if self.config.prox == "recompute" else None
        if self._anchor is not None:
            newest = units & (batch.version == version)[:, None, None]
            gap = torch.where(units, self._anchor - batch.log_prob, 0.0)
            fresh = torch.where(newest, gap, 0.0)
            metrics.set("log_prob_gap", fresh.abs().max())
            metrics.set("mismatch_kl", 0.5 * fresh.square().sum() / newest.sum().clamp(min=1))
            # How far the policy has come since the data were made, stale ones included.
            metrics.set("behaviour_gap", gap.abs().max())
            metrics.set("behaviour_kl", 0.5 * gap.square().sum() / units.sum())

    def step(self, rows: Tensor, real: Tensor, before_change: Callable[[], None]) -> bool:
        """One optimiser step from the chunks `rows` (B,) of which those count that are `real` (B,).

        False: it was not taken, the policy has gone as far as `target_kl` lets it in this update.
        """
        config, batch, metrics = self.config, self._batch, self._metrics
        obs = shown(batch.observations, rows, batch.path.device)
        path, stochastic, behaviour = batch.path[rows], batch.stochastic[rows], batch.log_prob[rows]
        log_prob = self.policy.log_prob(obs, path, stochastic)
        if self._anchor is None:
            proximal = interpolate(log_prob, behaviour, batch.version[rows], self._version)
        else:
            proximal = self._anchor[rows]
        counted = self._units[rows] & real[:, None, None]
        result = objective(log_prob, proximal, behaviour, self._advantage[rows], counted, config)
        metrics.peak("kl_max", result.half_square)
        if config.target_kl is not None and result.half_square.item() > config.target_kl:
            return False
        loss = result.loss
        if config.entropy_bonus:
            entropy = self.policy.entropy(obs, path, stochastic)
            mean_entropy = torch.where(counted, entropy, 0.0).sum() / counted.sum().clamp(min=1)
            loss = loss - config.entropy_bonus * mean_entropy
            metrics.add("entropy", mean_entropy)
        metrics.add("grad_norm/policy", self.optimizer.step(loss, before_change))
        metrics.add("loss/policy", result.loss)
        metrics.peak("ratio_max", result.ratio_max)
        for name in ("kl", "clip_fraction", "w_mean", "w_masked_fraction"):
            metrics.add(name, getattr(result, name))
        return True

    @torch.no_grad()
    def _recompute(self) -> Tensor:
        """ln pi of the whole batch, in batches of the shape that the epochs use: equal weights give equal bits."""
        batch = self._batch
        out = torch.empty_like(batch.log_prob)
        for rows in split(torch.arange(len(batch)), self.config.minibatch):
            obs = shown(batch.observations, rows, out.device)
            out[rows] = self.policy.log_prob(obs, batch.path[rows], batch.stochastic[rows])
        return out
