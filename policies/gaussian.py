"""GaussianPolicy: the classic policy of reinforcement learning, a mean and a spread, over action chunks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from policies.base import Chunk, Contract, Observations
from policies.chunk_policy import ChunkPolicy
from policies.errors import PolicyConfigError
from policies.flow import LOG_SQRT_2PI
from policies.mlp import Activation, mlp
from policies.normalizer import Features


class GaussianPolicy(ChunkPolicy):
    """N(mean(s), std^2) per entry of the chunk: an MLP behind the observation's encoder, a learned std without input.

    In the terms of `Policy` it is a path of one step, from noise that is not used (z_0) to the chunk (z_1).

    Args: those of `ChunkPolicy`, and
        hidden, activation: of the MLP.
        initial_std: standard deviation at the start, in normalised actions.

    Raises:
        PolicyConfigError: besides, an std that explores nothing.
    """

    kind = "gaussian"

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "tanh",
        initial_std: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(features, horizon, action_dim, **options)
        if self.denoising_steps != 1:
            raise PolicyConfigError(f"denoising_steps is {self.denoising_steps}: a Gaussian chunk is one; use 1.")
        if not 0 < initial_std < math.inf:
            raise PolicyConfigError(f"initial_std is {initial_std}: nothing would be explored; use a positive number.")
        self.hidden, self.activation = tuple(hidden), activation
        self.network = mlp(self.observation.dim, hidden, horizon * action_dim, activation)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # Nearly still at the start: what is tried first is decided by the noise (arXiv:2006.05990, section 3.2).
            last.weight.mul_(0.01)
            last.bias.zero_()
        self.log_std = nn.Parameter(torch.full((horizon, action_dim), math.log(initial_std)))

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.standard_normal((batch, 2, self.horizon, self.action_dim), dtype=np.float32))

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        mean = self._mean(obs)
        chunk = mean + self.log_std.exp() * noise[:, 1] if explore else mean
        density = self._density(obs, chunk, mean)
        return Chunk(
            self.actions_of(obs, chunk),
            torch.stack([noise[:, 0], chunk], 1),
            torch.full((len(chunk), 1), explore, device=chunk.device),
            density if explore else torch.zeros_like(density),
        )

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        density = self._density(obs, path[:, 1], self._mean(obs).to(path.dtype))
        return torch.where(stochastic[..., None], density, 0.0)

    def entropy(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        each, real = (self.log_std + LOG_SQRT_2PI + 0.5).expand(len(path), -1, -1), self.real_of(obs)
        total = (each if real is None else each * real[:, None]).sum(-1)
        return torch.where(stochastic[..., None], total[:, None], 0.0)

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """E |mean(s) - a|^2 in normalised actions; the std is reinforcement's."""
        error = (self._mean(obs) - self.action(actions, self.observation.embodiment(obs))).square()
        return self.mean_error(obs, error, valid)

    def contract(self) -> Contract:
        return super().contract() | {"hidden": list(self.hidden), "activation": self.activation}

    def _mean(self, obs: Observations) -> Tensor:
        mean: Tensor = self.network(self.observation.vector(obs))
        return mean.view(-1, self.horizon, self.action_dim)

    def _density(self, obs: Observations, chunk: Tensor, mean: Tensor) -> Tensor:
        """(B, 1, H) log-probability per action, summed over its real entries."""
        each = -0.5 * ((chunk - mean) / self.log_std.exp()).square() - self.log_std - LOG_SQRT_2PI
        real = self.real_of(obs)
        return (each if real is None else each * real[:, None]).sum(-1)[:, None]
