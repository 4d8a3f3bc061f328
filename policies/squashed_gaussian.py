"""SquashedGaussianPolicy: a Gaussian squashed into bounds by tanh, the policy of soft actor-critic, over chunks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from policies.base import Chunk, Contract, Observations
from policies.chunk_policy import ChunkPolicy
from policies.errors import PolicyConfigError
from policies.flow import LOG_SQRT_2PI
from policies.mlp import Activation, mlp
from policies.normalizer import Features

LOG_STD = (-5.0, 2.0)
"""Bounds of ln std, of u."""
_SATURATED = 1 - 1e-6  # of |tanh u|: beyond it float32 can't tell u any more
_MEAN = 5.0  # bound of |mean|, of u, so that a mean never is where u can't be told (arXiv:1912.01603 has the same)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)


class SquashedGaussianPolicy(ChunkPolicy):
    """z = bound tanh(u), u ~ N(mean(s), std(s)^2), per entry of the chunk (arXiv:1812.05905, appendix C).

    An MLP behind the observation's encoder gives mean and std. z is the normalised action, so an action stays within
    `bound` standard deviations of the statistics' mean. In the terms of `Policy` it is a path of one step, from noise
    that is not used (z_0) to the chunk (z_1 = z); log-probabilities are densities of z. They are repeated to 1e-4, as
    `Policy.log_prob` says, but to 1e-3 where std is near its lower bound, e^-5: more digits float32 does not have.

    Args: those of `ChunkPolicy`, and
        hidden, activation: of the MLP.
        bound: largest normalised action. Statistics of demonstrations want about 3; those of random motion, whose
            standard deviation is half of what an arm may do per step, 1 to 2.
        initial_std: standard deviation of u at the start.

    Raises:
        PolicyConfigError: besides, a bound or an std that can't be.
    """

    kind = "squashed_gaussian"
    slope: Tensor
    reach: Tensor
    centre: Tensor

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        bound: float = 1.0,
        initial_std: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(features, horizon, action_dim, **options)
        if self.denoising_steps != 1:
            raise PolicyConfigError(f"denoising_steps is {self.denoising_steps}: a Gaussian chunk is one; use 1.")
        if not 0 < bound < math.inf:
            raise PolicyConfigError(f"bound is {bound}: no action would be left; use a positive number.")
        low, high = LOG_STD
        if not (initial_std > 0 and low < math.log(initial_std) < high):
            raise PolicyConfigError(
                f"initial_std is {initial_std}, which the network could not give: use one between "
                f"{math.exp(low):.2g} and {math.exp(high):.2g}."
            )
        for name, of_mean, of_log_std in (
            ("slope", 1 / _MEAN, 1.0),
            ("reach", _MEAN, 0.5 * (high - low)),
            ("centre", 0.0, 0.5 * (high + low)),
        ):
            self.register_buffer(name, torch.tensor([of_mean, of_log_std]).view(2, 1, 1), persistent=False)
        self.hidden, self.activation, self.bound = tuple(hidden), activation, float(bound)
        self.network = mlp(self.observation.dim, hidden, 2 * horizon * action_dim, activation)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # Nearly still at the start: what is tried first is decided by the noise (arXiv:2006.05990, section 3.2).
            last.weight.mul_(0.01)
            last.bias.zero_()
            last.bias[horizon * action_dim :] = math.atanh(2 * (math.log(initial_std) - low) / (high - low) - 1)

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.standard_normal((batch, 2, self.horizon, self.action_dim), dtype=np.float32))

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        mean, log_std = self._gaussian(obs)
        u = mean + log_std.exp() * noise[:, 1] if explore else mean
        chunk = self.bound * torch.tanh(u)
        density = self._density(obs, chunk, mean, log_std)
        return Chunk(
            self.actions_of(obs, chunk),
            torch.stack([noise[:, 0], chunk], 1),
            torch.full((len(chunk), 1), explore, device=chunk.device),
            density if explore else torch.zeros_like(density),
        )

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        mean, log_std = (part.to(path.dtype) for part in self._gaussian(obs))
        return torch.where(stochastic[..., None], self._density(obs, path[:, 1], mean, log_std), 0.0)

    def sample(self, obs: Observations, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks drawn with standard normal noise (B, H, D), and their log-probability, both with gradient.

        Returns the normalised chunk (B, H, D), 0 where an entry is not real, and (B,), the log density of z summed
        over the chunk's real entries. It is exact however far tanh is saturated, other than that of a stored path,
        from which u can't be told there.
        """
        mean, log_std = self._gaussian(obs)
        u = torch.addcmul(mean, log_std.exp(), noise)
        # N(u; mean, std^2) in terms of the noise; its gradient by way of u and mean cancels.
        each = -0.5 * noise.square() - log_std - self._log_slope(u)
        chunk, real = self.bound * torch.tanh(u), self.real_of(obs)
        if real is not None:
            chunk, each = chunk * real[:, None], each * real[:, None]
            return chunk, each.sum((1, 2)) - LOG_SQRT_2PI * self.horizon * real.sum(-1)
        return chunk, each.sum((1, 2)) - LOG_SQRT_2PI * each[0].numel()

    def chunk_of(self, obs: Observations, actions: Tensor) -> Tensor:
        """Actions (B, H, D) in the units of the robots as `sample` gives them: normalised, held within the bound."""
        normalised: Tensor = self.action(actions, self.observation.embodiment(obs))
        chunk, real = normalised.clamp(-self.bound, self.bound), self.real_of(obs)
        return chunk if real is None else chunk * real[:, None]

    def entropy(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        """Of z, by Gauss-Hermite quadrature of E[ln |dz/du|]: exact to about 1e-3 for an std of u up to 2."""
        mean, log_std = self._gaussian(obs)
        nodes, weights = (mean.new_tensor(x) for x in (_NODES, _WEIGHTS / _WEIGHTS.sum()))
        slope = (self._log_slope(mean[..., None] + log_std.exp()[..., None] * nodes) * weights).sum(-1)
        each, real = log_std + LOG_SQRT_2PI + 0.5 + slope, self.real_of(obs)
        total = (each if real is None else each * real[:, None]).sum(-1)
        return torch.where(stochastic[..., None], total[:, None], 0.0)

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """E |bound tanh(mean(s)) - z|^2 in normalised actions, held within the bound; the std is reinforcement's."""
        mean, _ = self._gaussian(obs)
        error = (self.bound * torch.tanh(mean) - self.chunk_of(obs, actions)).square()
        return self.mean_error(obs, error, valid)

    def contract(self) -> Contract:
        own: Contract = {"hidden": list(self.hidden), "activation": self.activation, "bound": self.bound}
        return super().contract() | own

    def _gaussian(self, obs: Observations) -> tuple[Tensor, Tensor]:
        """Mean and ln std of u, (B, H, D) each."""
        out: Tensor = self.network(self.observation.vector(obs)).view(-1, 2, self.horizon, self.action_dim)
        # Both by one tanh: half of the time of small networks goes to small operations.
        mean, log_std = torch.addcmul(self.centre, self.reach, torch.tanh(out * self.slope)).unbind(1)
        return mean, log_std

    def _log_slope(self, u: Tensor) -> Tensor:
        """ln |dz/du| = ln bound + ln(1 - tanh(u)^2), of every u without loss of digits."""
        return (math.log(self.bound) + 2 * math.log(2)) - 2 * (u + softplus(-2 * u))

    def _density(self, obs: Observations, chunk: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """(B, 1, H) log density per action of z, summed over its real entries."""
        # From what is stored, also while acting: both then meet the same rounding of u.
        u = torch.atanh((chunk / self.bound).clamp(-_SATURATED, _SATURATED))
        each = -0.5 * ((u - mean) * (-log_std).exp()).square() - log_std - LOG_SQRT_2PI - self._log_slope(u)
        real = self.real_of(obs)
        return (each if real is None else each * real[:, None]).sum(-1)[:, None]
