"""PPO on the denoising path of a flow policy, asynchronous: advantages by a critic; the policy's side is `Actor`."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from policies.base import Observations, Policy
from policies.value import ValueNet
from robotlearn.algorithms.actor import Actor, units_of
from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.chunks import ChunkBatch, Episode, chunk_batch, shown
from robotlearn.algorithms.errors import StateError, first_of
from robotlearn.algorithms.gae import gae
from robotlearn.algorithms.metrics import Metrics
from robotlearn.algorithms.minibatches import minibatches
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.tensors import joined, parted
from robotlearn.config.algorithms import PPOConfig


class PPO(OnPolicy):
    """PPO for every policy whose chunks are paths of Gaussian steps: flow policies, and Gaussian ones of a single step.

    Metrics of an update, besides those of `Actor`, which are absent while only the critic learns:
        loss/value, grad_norm/value (before clipping): means over the optimiser steps;
        explained_variance: of the returns by the critic as it was; value/mean, return/mean, advantage/std;
        chunks; chunks_dropped: without a known observation; units_used_fraction: executed and untouched, of all units;
        epochs: how many were begun; stopped_early: 1 where target_kl ended the update; actor_trained: 0 in the warm-up;
        skipped_steps: optimiser steps of this update that were skipped for a loss or gradient that was not finite.
    """

    def __init__(self, policy: Policy, config: PPOConfig, seed: int) -> None:
        """Learns `policy` in place, on the device where it is; its statistics, set before, are the critic's as well."""
        self.policy, self.config = policy, config
        self.device = policy.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = ValueNet(policy.critic_features, config.value_hidden, config.value_image_encoder)
        self.critic.set_statistics(policy.statistics())
        self.critic.to(self.device)
        self.actor = Actor(policy, config)
        self.critic_optimizer = Optimizer("critic", self.critic, config.critic_lr, config.grad_clip)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def update(self, episodes: Sequence[Episode], version: int, before_change: Callable[[], None]) -> dict[str, float]:
        return self.learn(chunk_batch(episodes, self.config.gamma), version, before_change)

    def learn(
        self, batch: ChunkBatch, version: int, before_change: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """One update from a batch of chunks; the other arguments are those of `update`."""
        config, batch, metrics = self.config, batch.to(self.device), Metrics()
        for_critic = self.policy.for_critic
        batch = replace(batch, states=dict(for_critic(batch.states)), final=dict(for_critic(batch.final)))
        skipped = self._skipped()

        # Advantages and returns under the critic as it is.
        units = units_of(batch)
        advantage, returns = self._advantages(batch, units, metrics)
        metrics.set("chunks", len(batch))
        metrics.set("chunks_dropped", batch.dropped)
        metrics.set("units_used_fraction", units.float().mean())

        train_actor = self.updates >= config.critic_warmup and bool(units.any())
        metrics.set("actor_trained", train_actor)
        actor = self.actor.begin(batch, advantage, version, self.updates, metrics) if train_actor else None

        stopped = False
        for epoch in range(config.epochs):
            for rows, real in minibatches(len(batch), config.minibatch, self.generator, self.device):
                stopped = actor is not None and not actor.step(rows, real, before_change)
                if stopped:
                    break
                error = self.critic(shown(batch.states, rows, self.device)) - returns[rows]
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
            "actor_optimizer": self.actor.optimizer.state_dict(),
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
        self.actor.optimizer.load_state_dict(parts["actor_optimizer"])
        self.critic_optimizer.load_state_dict(parts["critic_optimizer"])

    @torch.no_grad()
    def _advantages(self, batch: ChunkBatch, units: Tensor, metrics: Metrics) -> tuple[Tensor, Tensor]:
        """Advantages (normalised, where the config says so) and returns, (C,) each."""
        value = self._values(batch.states, len(batch))
        # A terminated episode has no future; a truncated one goes on, unseen, unless it had to be done in time.
        over = batch.terminated if self.config.timeout == "bootstrap" else torch.ones_like(batch.terminated)
        final = torch.where(over, 0.0, self._values(batch.final, len(over)))
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

    def _values(self, observations: Observations, count: int) -> Tensor:
        """The critic's values (count,), in batches as large as those it learns from."""
        parts = torch.arange(count).split(self.config.minibatch)
        return torch.cat([self.critic(shown(observations, rows, self.device)) for rows in parts])

    def _skipped(self) -> int:
        return self.actor.optimizer.skipped + self.critic_optimizer.skipped
