"""PPO on the denoising path of a flow policy, asynchronous.

piRL (arXiv:2510.25889) gives the exact log-probability of the path; AReaL (arXiv:2505.24298) the objective that stands
data from older weights: ratios to a proximal policy, weighted from it to the behaviour policy that ran on the robot.

A *unit* is one (denoising step, action step): its log-probability sums over the action's dims, and the advantage of the
chunk is that of each of its units. Units whose action was not executed, was overridden by a person or held by safety
are masked out. An approximation: until the last denoising step, a unit's mean depends on the other units' z too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from policies.base import Policy
from policies.value import ValueNet
from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.chunks import ChunkBatch, Episode, chunk_batch
from robotlearn.algorithms.errors import StateError, first_of
from robotlearn.algorithms.gae import gae
from robotlearn.algorithms.objective import interpolate, objective
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.tensors import joined, parted
from robotlearn.config.algorithms import PPOConfig


class PPO(OnPolicy):
    """PPO for every policy whose chunks are paths of Gaussian steps: flow policies, and Gaussian ones of a single step.

    Metrics of an update; those of the policy are absent while only the critic learns:
        loss/policy, loss/value, grad_norm/policy, grad_norm/value (before clipping): means over the optimiser steps;
        kl: E[r - 1 - ln r] of the ratio r to the proximal policy, mean; kl_max: largest E[(ln r)^2] / 2 of a minibatch,
            which target_kl bounds; ratio_max: the largest r; clip_fraction: units with r outside [1 - c, 1 + c];
        entropy: of a unit, mean, where it is rewarded;
        w_mean, w_masked_fraction: the weight, proximal over behaviour policy, and the share of units above its cap;
        behaviour_gap, behaviour_kl: largest |ln pi_prox - ln pi_b| of a unit, and half its mean square, among all
            chunks: how far the policy has come since the data were made.
        log_prob_gap: largest |ln pi_prox - ln pi_b| of a unit among chunks of the newest version (0 without any): how
            far edge and learner disagree about the same weights; only where the proximal policy is recomputed;
        explained_variance: of the returns by the critic as it was; value/mean, return/mean, advantage/std;
        chunks; chunks_dropped: without a known observation; units_used_fraction: executed and untouched, of all units;
        epochs: how many were begun; stopped_early: 1 where target_kl ended the update; actor_trained: 0 in the warm-up;
        skipped_steps: optimiser steps of this update that were skipped for a loss or gradient that was not finite.
    """

    def __init__(self, policy: Policy, config: PPOConfig, seed: int) -> None:
        """Learns `policy` in place, on the device where it is; its statistics, set before, are the critic's as well."""
        self.policy, self.config = policy, config
        self.device = next(policy.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = ValueNet(policy.features, config.value_hidden, config.value_image_encoder)
        self.critic.set_statistics(policy.statistics())
        self.critic.to(self.device)
        self.actor_optimizer = Optimizer("policy", policy, config.actor_lr, config.grad_clip)
        self.critic_optimizer = Optimizer("critic", self.critic, config.critic_lr, config.grad_clip)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def update(self, episodes: Sequence[Episode], version: int, before_change: Callable[[], None]) -> dict[str, float]:
        return self.learn(chunk_batch(episodes, self.config.gamma), version, before_change)

    def learn(
        self, batch: ChunkBatch, version: int, before_change: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """One update from a batch of chunks; the other arguments are those of `update`."""
        config, batch, metrics = self.config, batch.to(self.device), _Metrics()
        skipped = self._skipped()

        if config.actor_lr_halving is not None:
            self.actor_optimizer.lr = config.actor_lr * 0.5 ** (self.updates / config.actor_lr_halving)

        # Advantages and returns under the critic as it is.
        units = batch.mask[:, None] & batch.stochastic[..., None]  # (C, N, H)
        advantage, returns = self._advantages(batch, units, metrics)
        metrics.set("chunks", len(batch))
        metrics.set("chunks_dropped", batch.dropped)
        metrics.set("units_used_fraction", units.float().mean())

        # The anchor of the ratios: this very policy, as it is before the first step (AReaL, section 5.2).
        train_actor = self.updates >= config.critic_warmup and bool(units.any())
        metrics.set("actor_trained", train_actor)
        anchor = self._recompute(batch) if train_actor and config.prox == "recompute" else None
        if anchor is not None:
            newest = units & (batch.version == version)[:, None, None]
            gap = torch.where(units, anchor - batch.log_prob, 0.0)
            metrics.set("log_prob_gap", torch.where(newest, gap, 0.0).abs().max())
            # How far the policy has come since the data were made, stale ones included.
            metrics.set("behaviour_gap", gap.abs().max())
            metrics.set("behaviour_kl", 0.5 * gap.square().sum() / units.sum())

        stopped = False
        for epoch in range(config.epochs):
            for rows, real in self._minibatches(len(batch)):
                if train_actor:
                    obs = {key: value[rows] for key, value in batch.observations.items()}
                    log_prob = self.policy.log_prob(obs, batch.path[rows], batch.stochastic[rows])
                    behaviour = batch.log_prob[rows]
                    if anchor is None:
                        proximal = interpolate(log_prob, behaviour, batch.version[rows], version)
                    else:
                        proximal = anchor[rows]
                    counted = units[rows] & real[:, None, None]
                    result = objective(log_prob, proximal, behaviour, advantage[rows], counted, config)
                    metrics.peak("kl_max", result.half_square)
                    stopped = config.target_kl is not None and result.half_square.item() > config.target_kl
                    if stopped:
                        break
                    loss = result.loss
                    if config.entropy_bonus:
                        entropy = self.policy.entropy(obs, batch.path[rows], batch.stochastic[rows])
                        mean_entropy = torch.where(counted, entropy, 0.0).sum() / counted.sum().clamp(min=1)
                        loss = loss - config.entropy_bonus * mean_entropy
                        metrics.add("entropy", mean_entropy)
                    metrics.add("grad_norm/policy", self.actor_optimizer.step(loss, before_change))
                    metrics.add("loss/policy", result.loss)
                    metrics.peak("ratio_max", result.ratio_max)
                    for name in ("kl", "clip_fraction", "w_mean", "w_masked_fraction"):
                        metrics.add(name, getattr(result, name))
                error = self.critic({key: value[rows] for key, value in batch.states.items()}) - returns[rows]
                value_loss = 0.5 * torch.where(real, error, 0.0).square().sum() / real.sum()
                metrics.add("grad_norm/value", self.critic_optimizer.step(value_loss))
                metrics.add("loss/value", value_loss)
            metrics.set("epochs", epoch + 1)
            if stopped:
                break
        self.updates += 1
        metrics.set("stopped_early", stopped)
        metrics.set("skipped_steps", self._skipped() - skipped)
        return metrics.result()

    def state_dict(self) -> dict[str, Tensor]:
        parts = {
            "critic": {key: value.clone() for key, value in self.critic.state_dict().items()},
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "own": {"generator": self.generator.get_state(), "updates": torch.tensor(self.updates)},
        }
        return joined(parts)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parts = parted(state)
        try:
            self.critic.load_state_dict(parts["critic"])
            self.generator.set_state(parts["own"]["generator"].cpu())
            self.updates = int(parts["own"]["updates"])
        except (KeyError, RuntimeError) as error:
            raise StateError(f"the saved state is not of this algorithm and these sizes: {first_of(error)}") from error
        self.actor_optimizer.load_state_dict(parts["actor_optimizer"])
        self.critic_optimizer.load_state_dict(parts["critic_optimizer"])

    @torch.no_grad()
    def _advantages(self, batch: ChunkBatch, units: Tensor, metrics: "_Metrics") -> tuple[Tensor, Tensor]:
        """Advantages (normalised, where the config says so) and returns, (C,) each."""
        value = self.critic(batch.states)
        # A terminated episode has no future; a truncated one goes on, unseen, unless it had to be done in time.
        over = batch.terminated if self.config.timeout == "bootstrap" else torch.ones_like(batch.terminated)
        final = torch.where(over, 0.0, self.critic(batch.final))
        reward, discount, last = batch.reward.cpu(), batch.discount.cpu(), batch.last.cpu()
        parts = gae(reward, discount, value.cpu(), last, final.cpu(), self.config.gae_lambda)
        advantage, returns = (torch.from_numpy(x).to(self.device) for x in parts)
        variance = returns.var(correction=0)
        metrics.set("explained_variance", 1 - (returns - value).var(correction=0) / variance.clamp(min=1e-8))
        metrics.set("value/mean", value.mean())
        metrics.set("return/mean", returns.mean())
        used = units.any(2).any(1)  # chunks that have a unit to learn from
        if used.any():
            spread, mean = torch.std_mean(advantage[used], correction=0)
            metrics.set("advantage/std", spread)
            if self.config.normalize_advantages:
                advantage = (advantage - mean) / (spread + 1e-8)
        return advantage, returns

    @torch.no_grad()
    def _recompute(self, batch: ChunkBatch) -> Tensor:
        """ln pi of the whole batch, in batches of the shape that the epochs use: equal weights give equal bits."""
        out = torch.empty_like(batch.log_prob)
        for rows in _split(torch.arange(len(batch)), self.config.minibatch):
            obs = {key: value[rows] for key, value in batch.observations.items()}
            out[rows] = self.policy.log_prob(obs, batch.path[rows], batch.stochastic[rows])
        return out

    def _minibatches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each chunk once, in random order: rows (size,), and which of them are real; the last may be filled up."""
        rows = _split(torch.randperm(count, generator=self.generator), self.config.minibatch)
        real = torch.arange(rows.numel()).view(rows.shape) < count
        yield from zip(rows.to(self.device), real.to(self.device), strict=True)

    def _skipped(self) -> int:
        return self.actor_optimizer.skipped + self.critic_optimizer.skipped


def _split(order: Tensor, largest: int) -> Tensor:
    """Rows of equal size, at most `largest`; what the last lacks is filled up with the first of `order`."""
    parts = -(-len(order) // largest)
    size = -(-len(order) // parts)
    return torch.cat([order, order[: parts * size - len(order)]]).view(parts, size)


class _Metrics:
    """Collects figures of one update: means over its steps, largest values, single values."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._values: dict[str, float] = {}

    def set(self, name: str, value: Tensor | float) -> None:
        self._values[name] = _number(value)

    def peak(self, name: str, value: Tensor | float) -> None:
        self._values[name] = max(self._values.get(name, float("-inf")), _number(value))

    def add(self, name: str, value: Tensor | float) -> None:
        self._sums[name].append(_number(value))

    def result(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        return means | self._values


def _number(value: Tensor | float) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)
