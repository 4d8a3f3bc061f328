"""Soft actor-critic on action chunks, and RLPD, which is the same with more critics and half of each batch given.

SAC: arXiv:1812.05905. RLPD: arXiv:2302.02948 (its algorithm 1). For a batch of (s, a, r, discount, s'), where a is a
chunk, r what came of its steps and of those up to the bootstrap, discount gamma^m, 0 where the episode was over:

    a' ~ pi(. | s'),   y = r + discount (min_{e in a random subset} Q'_e(s', a') [ - alpha ln pi(a' | s') ])      (1)
    critics:      sum_e E w (Q_e(s, a) - y)^2 / 2, w the weight of what was drawn by priority                     (2)
    targets:      Q' <- (1 - tau) Q' + tau Q                                                                      (3)
    policy:       E [alpha ln pi(a | s) - mean_e Q_e(s, a)],   a ~ pi(. | s), by way of the action                (4)
    temperature:  E [-ln alpha (ln pi(a | s) + H)], H the target entropy                                          (5)

The term in brackets only with `entropy_backup`: RLPD leaves it out, which helps where rewards are sparse. r is what the
environment paid, times `reward_scale`. In (4) SAC as published has the minimum of its two critics; the mean, as in
RLPD, is what both names take here.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from policies.base import Observations, Policy
from policies.critics import Critics
from policies.squashed_gaussian import SquashedGaussianPolicy
from robotlearn.algorithms.base import Batches, OffPolicy
from robotlearn.algorithms.errors import AlgorithmError, StateError, first_of
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.tensors import joined, parted
from robotlearn.algorithms.transitions import Transitions, Window
from robotlearn.config.algorithms import RLPDConfig, SACConfig
from robotlearn.config.replay import PartConfig


class SAC(OffPolicy):
    """SAC (two critics, all that is stored) or RLPD (ten, of which two make the target; half demonstrations).

    The window bootstraps where the chunk ends; for longer n-step returns, replace `window` by one with more steps.

    Metrics of an update, means over its steps; those marked * only of steps that trained the policy:
        loss/critic, loss/policy *: (2) over the number of critics, and (4);
        q/mean, q/spread, q/target: of the critics for what was done, largest less smallest of them, and y;
        td_error: E |mean_e Q_e - y|; reward: r, mean;
        temperature, entropy *, target_entropy *: alpha, and -ln pi of a chunk and H;
        grad_norm/critic, grad_norm/policy *: before clipping;
        skipped_steps: optimiser steps, of all, that were skipped for a loss or gradient that was not finite.
    """

    policy: SquashedGaussianPolicy

    def __init__(self, policy: Policy, config: SACConfig | RLPDConfig, seed: int) -> None:
        """Learns `policy` in place, on the device where it is; its statistics, set before, are the critics' as well.

        Raises AlgorithmError for a policy that can't be sampled from with gradient.
        """
        if not isinstance(policy, SquashedGaussianPolicy):
            kind = getattr(policy, "kind", type(policy).__name__)
            raise AlgorithmError(
                f"{config.name} can't train a policy of kind {kind}: it needs chunks within bounds, with their density "
                f"and the gradient of both. Use policy.kind={SquashedGaussianPolicy.kind}."
            )
        self.policy, self.config = policy, config
        self.window = Window(policy.horizon, policy.horizon, config.gamma, timeout=config.timeout)
        self.sampling = _RLPD if isinstance(config, RLPDConfig) else _SAC
        self.device = policy.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critics = Critics(
                policy.features,
                policy.horizon,
                policy.action_dim,
                config.critics,
                config.critic_hidden,
                config.critic_layer_norm,
                config.image_encoder,
            )
        self.critics.set_statistics(policy.statistics())
        self.critics.to(self.device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self._following = (list(self.target.parameters()), list(self.critics.parameters()))
        self.temperature = _Temperature(config.initial_temperature).to(self.device)
        self.critic_optimizer = Optimizer("critics", self.critics, config.critic_lr, config.grad_clip)
        self.actor_optimizer = Optimizer("policy", policy, config.actor_lr, config.grad_clip)
        self.temperature_optimizer = Optimizer("temperature", self.temperature, config.temperature_lr, config.grad_clip)
        self.noise = torch.Generator(self.device).manual_seed(seed)
        # Apart from the noise, so that what is chosen is known without waiting for the device.
        self.chance = torch.Generator().manual_seed(seed)
        self.steps = 0

    def learn(self, batches: Batches, before_change: Callable[[], None]) -> dict[str, float]:
        skipped, metrics = self._skipped(), _Means()
        for given in batches:
            batch = given.to(self.device)
            error = self._train_critics(batch, metrics)
            batches.prioritize(given, error)
            if self.steps % self.config.actor_every == 0:
                self._train_policy(batch.observations, before_change, metrics)
            self.steps += 1
        return metrics.result() | {"skipped_steps": float(self._skipped() - skipped)}

    @torch.no_grad()
    def targets(self, batch: Transitions) -> Tensor:
        """y of (1), (B,)."""
        config, obs = self.config, batch.next_observations
        chunk, log_prob = self.policy.sample(obs, self._noise(len(batch)))
        which = None
        if config.subset < config.critics:
            which = torch.randperm(config.critics, generator=self.chance)[: config.subset].to(self.device)
        value = self.target(self.target.encode(obs), chunk, which).amin(0)
        if config.entropy_backup:
            value = value - self.temperature() * log_prob
        return torch.addcmul(config.reward_scale * batch.reward, batch.discount, value)

    def critic_loss(self, batch: Transitions, y: Tensor) -> tuple[Tensor, Tensor]:
        """(2), and what the critics say of what was done, (E, B)."""
        chunk = self.policy.chunk_of(batch.observations, batch.actions)
        q: Tensor = self.critics(self.critics.encode(batch.observations), chunk)
        return 0.5 * ((q - y).square().sum(0) * batch.weight).mean(), q

    def policy_loss(self, obs: Observations) -> tuple[Tensor, Tensor]:
        """(4), and ln pi of the chunks that were drawn for it, (B,)."""
        chunk, log_prob = self.policy.sample(obs, self._noise(len(next(iter(obs.values())))))
        with torch.no_grad():
            encoded, alpha = self.critics.encode(obs), self.temperature()
        return (alpha * log_prob - self.critics(encoded, chunk).mean(0)).mean(), log_prob

    def temperature_loss(self, log_prob: Tensor, obs: Observations) -> Tensor:
        """(5)."""
        return -self.temperature.log * (log_prob.detach().mean() + self.target_entropy(obs))

    def target_entropy(self, obs: Observations) -> Tensor | float:
        """H, of a chunk: mean over the batch, for embodiments differ in how many entries of an action are real."""
        real = self.policy.real_of(obs)
        dims = self.policy.action_dim if real is None else real.sum(-1).mean()
        given = self.config.target_entropy
        return self.policy.horizon * ((math.log(self.policy.bound) - 0.5) * dims if given is None else given)

    def _train_critics(self, batch: Transitions, metrics: "_Means") -> Tensor:
        """A step down (2), then (3); returns |mean_e Q_e - y|, (B,)."""
        y = self.targets(batch)
        loss, q = self.critic_loss(batch, y)
        norm = self.critic_optimizer.step(loss)
        with torch.no_grad():
            torch._foreach_lerp_(*self._following, self.config.tau)
            error = (q.mean(0) - y).abs()
        metrics.add("loss/critic", loss.detach())
        metrics.add("q", q.detach())
        metrics.add("q/target", y)
        metrics.add("td_error", error)
        metrics.add("reward", batch.reward.clone())  # a batch's memory is used again
        metrics.add("grad_norm/critic", norm)
        return error

    def _train_policy(self, obs: Observations, before_change: Callable[[], None], metrics: "_Means") -> None:
        """A step down (4), then one down (5)."""
        loss, log_prob = self.policy_loss(obs)
        metrics.add("temperature", self.temperature().detach())
        metrics.add("grad_norm/policy", self.actor_optimizer.step(loss, before_change))
        metrics.add("loss/policy", loss.detach())
        metrics.add("log_prob", log_prob.detach())
        metrics.add("target_entropy", self.target_entropy(obs))
        if self.config.temperature_lr:
            self.temperature_optimizer.step(self.temperature_loss(log_prob, obs))

    def state_dict(self) -> dict[str, Tensor]:
        own = {
            "noise": self.noise.get_state(),
            "chance": self.chance.get_state(),
            "steps": torch.tensor(self.steps),
        }
        parts = {name: part.state_dict() for name, part in self._parts.items()} | {"own": own}
        return {key: value.clone() for key, value in joined(parts).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parts = parted(state)
        try:
            own = parts.pop("own")
            self.noise.set_state(own["noise"].cpu())
            self.chance.set_state(own["chance"].cpu())
            self.steps = int(own["steps"])
            for name, part in self._parts.items():
                part.load_state_dict(parts.pop(name, {}))
        except (KeyError, RuntimeError) as error:
            raise StateError(f"the saved state is not of this algorithm and these sizes: {first_of(error)}") from error
        if parts:
            raise StateError(f"the saved state has parts that nothing here uses: {sorted(parts)}.")

    @property
    def _parts(self) -> dict[str, nn.Module | Optimizer]:
        return {
            "critics": self.critics,
            "target": self.target,
            "temperature": self.temperature,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
            "temperature_optimizer": self.temperature_optimizer,
        }

    def _noise(self, batch: int) -> Tensor:
        shape = (batch, self.policy.horizon, self.policy.action_dim)
        return torch.randn(shape, generator=self.noise, device=self.device, dtype=self.policy.action.mean.dtype)

    def _skipped(self) -> int:
        return self.critic_optimizer.skipped + self.actor_optimizer.skipped + self.temperature_optimizer.skipped


_SAC = (PartConfig(source="all"),)
_RLPD = (PartConfig(source="online", share=0.5), PartConfig(source="demonstrations", share=0.5))


class _Temperature(nn.Module):
    """alpha, what entropy is worth, as its logarithm: it stays positive, and steps are in proportion."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log.exp()


class _Means:
    """Means over the steps of an update, taken at its end alone: that is one look at the device instead of many."""

    def __init__(self) -> None:
        self._found: dict[str, list[Tensor | float]] = defaultdict(list)

    def add(self, name: str, value: Tensor | float) -> None:
        """A number, or (..., B), of which the mean counts. A tensor must stay as it is."""
        self._found[name].append(value)

    def result(self) -> dict[str, float]:
        found = {name: _joined(values) for name, values in self._found.items()}
        if "q" in found:
            q = found.pop("q")
            found |= {"q/mean": q, "q/spread": q.amax(0) - q.amin(0), "loss/critic": found["loss/critic"] / len(q)}
        if "log_prob" in found:
            found["entropy"] = -found.pop("log_prob")
        means = [value.mean().cpu() for value in found.values()]
        return dict(zip(found, torch.stack(means).tolist() if means else (), strict=True))


def _joined(values: list[Tensor | float]) -> Tensor:
    """Of all steps, on whatever device it is."""
    if not isinstance(values[0], Tensor):
        return torch.tensor(values)
    return torch.stack(values) if values[0].ndim == 0 else torch.cat(values, -1)  # type: ignore[arg-type]
