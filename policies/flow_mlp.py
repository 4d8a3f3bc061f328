"""FlowMLP: a flow-matching policy over action chunks, for observations that are vectors."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from policies.base import Chunk, Contract, Observations, Policy
from policies.errors import PolicyConfigError, StatisticsError
from policies.flow import Denoising, Velocity
from policies.mlp import Activation, mlp
from policies.normalizer import Features, Normalizer, ObservationNormalizer, Statistics

TIME_DIM = 16
LONGEST_PERIOD, SHORTEST_PERIOD = 4.0, 0.1  # of the time embedding, in flow time


class FlowMLP(Policy):
    """v(z, t, s): an MLP of normalised observation features, the flattened chunk z and an embedding of t.

    Args:
        features: {key: (n,)}.
        horizon, action_dim: H and D.
        hidden, activation: widths of the hidden layers and what stands between them.
        denoising_steps, noise_level, stochastic_steps, deterministic_last: see `policies.flow.Denoising`.
        std_floor: smallest std of the statistics, in the data's units.

    With every parameter zero the velocity is 0, so a chunk without exploration is the unnormalised seeded noise.

    Raises:
        PolicyConfigError: where sizes or the denoising make no sense.
    """

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        denoising_steps: int = 2,
        noise_level: float = 0.5,
        stochastic_steps: Literal["all", "one"] = "all",
        deterministic_last: bool = False,
        activation: Activation = "relu",
        std_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, size in (("horizon", horizon), ("action_dim", action_dim)):
            if size < 1:
                raise PolicyConfigError(f"{name} is {size}: a chunk would be empty; use 1 or more.")
        self.horizon, self.action_dim, self.denoising_steps = horizon, action_dim, denoising_steps
        self.denoising = Denoising(denoising_steps, noise_level, stochastic_steps, deterministic_last)
        self.observation = ObservationNormalizer(features, std_floor)
        self.features = dict(self.observation.features)
        self.action = Normalizer(action_dim, std_floor)
        self.hidden, self.activation = tuple(hidden), activation
        inputs = self.observation.dim + horizon * action_dim + TIME_DIM
        self.network = mlp(inputs, hidden, horizon * action_dim, activation)
        periods = torch.logspace(math.log10(LONGEST_PERIOD), math.log10(SHORTEST_PERIOD), TIME_DIM // 2)
        self.frequency: Tensor
        self.register_buffer("frequency", 2 * math.pi / periods, persistent=False)

    def velocity(self, obs: Observations) -> Velocity:
        """v(., ., s) for observations {key: (B, n)}: see `policies.flow.Velocity`."""
        encoded = self.observation(obs)[:, None]  # (B, 1, F)

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            angle = t[..., None] * self.frequency
            time = torch.cat([angle.sin(), angle.cos()], -1)  # (K, E) or (B, K, E)
            points = z.shape[:2]
            inputs = [encoded.expand(*points, -1), z.flatten(2), time.expand(*points, -1)]
            v: Tensor = self.network(torch.cat(inputs, -1))
            return v.view(z.shape)

        return velocity

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        return self.denoising.noise(batch, self.horizon, self.action_dim, rng)

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        sample = self.denoising.sample(self.velocity(obs), noise, explore)
        return Chunk(self.action.inverse(sample.path[:, -1]), sample.path, sample.stochastic, sample.log_prob)

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        return self.denoising.log_prob(self.velocity(obs), path, stochastic)

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """E |v(x_t, t, s) - (eps - a)|^2 with t ~ Beta(1.5, 1), mostly noise (pi0, arXiv:2410.24164)."""
        a = self.action(actions)
        eps = torch.randn(a.shape, generator=generator, device=a.device, dtype=a.dtype)
        u = torch.rand(len(a), 1, generator=generator, device=a.device, dtype=a.dtype)
        t = u ** (1 / 1.5)  # inverse of the distribution function t^1.5
        x = torch.lerp(a, eps, t[..., None])  # x_t = (1 - t) a + t eps
        v = self.velocity(obs)(x[:, None], t)[:, 0]
        error = (v - (eps - a)).square().mean(-1)  # (B, H)
        return torch.where(valid, error, 0.0).sum() / valid.sum().clamp(min=1)

    def contract(self) -> Contract:
        shapes: Contract = {f"feature:{key}": list(shape) for key, shape in self.features.items()}
        return shapes | {
            "kind": "flow_mlp",
            "horizon": self.horizon,
            "action_dim": self.action_dim,
            "denoising_steps": self.denoising_steps,
            "noise_level": self.denoising.noise_level,
            "stochastic_steps": self.denoising.stochastic_steps,
            "deterministic_last": int(self.denoising.deterministic_last),
            "hidden": list(self.hidden),
            "activation": self.activation,
        }

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        if "action" not in stats:
            raise StatisticsError(f"no statistics of 'action'; there are {', '.join(sorted(stats)) or 'none'}.")
        self.observation.set(stats)
        self.action.set(stats["action"].mean, stats["action"].std)

    def statistics(self) -> dict[str, Statistics]:
        return self.observation.statistics() | {"action": self.action.statistics()}
