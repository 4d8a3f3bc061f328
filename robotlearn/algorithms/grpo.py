"""GRPO on the denoising path of a flow policy, asynchronous: no critic, episodes that began alike are compared.

Group-relative advantages (DeepSeekMath, arXiv:2402.03300, section 4.1.1, outcome supervision), as piRL
(arXiv:2510.25889) has them for flow policies: G episodes begin in the same scene under the same version, and the
advantage of each is its return less the group's mean, over the group's deviation; all units of all its chunks have it.

What is left out of the original: the KL to a reference policy (the proximal policy bounds a step, see `Actor`), and the
mean over each episode before that over episodes: units count alike, long episodes have more of them, as the policy
gradient has it (arXiv:2503.20783). A group whose returns are equal says nothing and is left out (DAPO,
arXiv:2503.14476). Under a time limit, what was not reached in time is worth nothing: there is no value to bootstrap
from. Weights may change during an episode: each chunk is weighed by those that made it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.actor import Actor, units_of
from robotlearn.algorithms.base import OnPolicy
from robotlearn.algorithms.chunks import ChunkBatch, Episode, chunk_batch
from robotlearn.algorithms.errors import EpisodeError, StateError, first_of
from robotlearn.algorithms.metrics import Metrics
from robotlearn.algorithms.minibatches import minibatches
from robotlearn.algorithms.tensors import joined, parted
from robotlearn.config.algorithms import GRPOConfig

EQUAL = 1e-5
"""Returns whose deviation is below this share of the largest are equal: float32 rewards add up no more exactly."""


class GRPO(OnPolicy):
    """GRPO for every policy whose chunks are paths of Gaussian steps: flow policies, and Gaussian ones of one step.

    Metrics of an update, besides those of `Actor`, which are absent where nothing was to be learnt:
        groups; groups_without_signal: those whose returns are equal, which are left out of all that follows;
        return/mean: of all groups, discounted; return/group_std: deviation within a group, mean over all of them;
        chunks; chunks_dropped: without a known observation; units_used_fraction: executed and untouched, of all units;
        epochs: how many were begun; stopped_early: 1 where target_kl ended the update; actor_trained: 0 where no group
            had a signal; skipped_steps: optimiser steps of this update that were skipped for a loss or gradient that
            was not finite.
    """

    def __init__(self, policy: Policy, config: GRPOConfig, seed: int) -> None:
        """Learns `policy` in place, on the device where it is."""
        self.policy, self.config, self.group = policy, config, config.group
        self.device = policy.device
        self.actor = Actor(policy, config)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def update(self, episodes: Sequence[Episode], version: int, before_change: Callable[[], None]) -> dict[str, float]:
        """As `OnPolicy.update`. Raises EpisodeError unless these are whole groups of `group` episodes each."""
        metrics, skipped = Metrics(), self.actor.optimizer.skipped
        groups = self._groups(episodes)

        # R = sum_t gamma^t r_t of each episode, A = (R - mean(R)) / std(R) within its group.
        returns = np.array([[discounted(e, self.config.gamma) for e in group] for group in groups])
        advantage, told = group_advantages(returns)
        metrics.set("groups", len(groups))
        metrics.set("groups_without_signal", len(groups) - int(told.sum()))
        metrics.set("return/mean", float(returns.mean()))
        metrics.set("return/group_std", float(returns.std(1).mean()))

        trained = bool(told.any())
        if trained:
            kept = [e for group, telling in zip(groups, told, strict=True) if telling for e in group]
            batch = chunk_batch(kept, self.config.gamma)
            each = torch.from_numpy(advantage[told].reshape(-1).astype(np.float32))
            trained = self.learn(batch, each[batch.episode], version, metrics, before_change)
        self.updates += 1
        metrics.set("actor_trained", trained)
        metrics.set("skipped_steps", self.actor.optimizer.skipped - skipped)
        return metrics.result()

    def learn(
        self,
        batch: ChunkBatch,
        advantage: Tensor,
        version: int,
        metrics: Metrics,
        before_change: Callable[[], None] = lambda: None,
    ) -> bool:
        """Move the policy along the advantages (C,) of these chunks; False: none of their units counts."""
        config, batch, advantage = self.config, batch.to(self.device), advantage.to(self.device)
        units = units_of(batch)
        metrics.set("chunks", len(batch))
        metrics.set("chunks_dropped", batch.dropped)
        metrics.set("units_used_fraction", units.float().mean())
        if not units.any():
            return False

        actor = self.actor.begin(batch, advantage, version, self.updates, metrics)
        stopped = False
        for epoch in range(config.epochs):
            metrics.set("epochs", epoch + 1)
            for rows, real in minibatches(len(batch), config.minibatch, self.generator, self.device):
                stopped = not actor.step(rows, real, before_change)
                if stopped:
                    break
            if stopped:
                break
        metrics.set("stopped_early", stopped)
        return True

    def state_dict(self) -> dict[str, Tensor]:
        return joined(
            {
                "actor_optimizer": self.actor.optimizer.state_dict(),
                "own": {"generator": self.generator.get_state(), "updates": torch.tensor(self.updates)},
            }
        )

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parts = parted(state)
        try:
            self.generator.set_state(parts["own"]["generator"].cpu())
            self.updates = int(parts["own"]["updates"])
        except (KeyError, RuntimeError) as error:
            raise StateError(f"the saved state is not of this algorithm: {first_of(error)}") from error
        self.actor.optimizer.load_state_dict(parts["actor_optimizer"])

    def _groups(self, episodes: Sequence[Episode]) -> list[list[Episode]]:
        """The episodes by group, in the order in which these first appear."""
        found: dict[int, list[Episode]] = {}
        for one in episodes:
            if one.group is None:
                raise EpisodeError("an episode of no group: it has nothing to be compared with.")
            # Who drops chunks without an observation could lose a whole episode, and with it the group.
            if not (one.start >= one.lag).any():
                raise EpisodeError("an episode of a group without a chunk whose observation is known.")
            found.setdefault(one.group.id, []).append(one)
        for group in found.values():
            if len(group) != self.group:
                raise EpisodeError(f"{len(group)} episodes of a group, expected all {self.group}.")
        return list(found.values())


def discounted(episode: Episode, gamma: float) -> float:
    """sum_t gamma^t r_t, from the episode's first step on."""
    rewards = episode.reward.astype(np.float64)
    return float(rewards @ gamma ** np.arange(len(rewards)))


def group_advantages(returns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of returns (groups, G): (R - mean) / std within each group, and which groups have a signal (groups,) bool.

    The deviation is that of the G themselves (divided by G); where returns are equal the advantages are 0.
    """
    mean, std = returns.mean(1, keepdims=True), returns.std(1, keepdims=True)
    # Not "<=": a return that is not finite is no signal.
    told = (std > EQUAL * np.abs(returns).max(1, keepdims=True)) & np.isfinite(std)
    return np.where(told, (returns - mean) / np.where(told, std, 1.0), 0.0), told[:, 0]
