"""FlowPolicy: what every flow-matching policy over action chunks shares, whatever network gives its velocity."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from policies.base import Chunk, Contract, Observations, Plan
from policies.chunk_policy import ChunkPolicy
from policies.errors import PolicyConfigError
from policies.flow import Denoising, Spread, Velocity
from policies.flow_noise import FlowNoise, frequencies, sines
from policies.normalizer import Features
from policies.real_time import guided, soft_mask


class FlowPolicy(ChunkPolicy):
    """Noise becomes a chunk along a learned velocity v(z, t, s); a subclass gives it in `field`.

    Args: those of `ChunkPolicy`, and
        denoising_steps, noise_level, stochastic_steps, deterministic_last: see `policies.flow.Denoising`.
        exploration: "sde", the fixed noise of Flow-SDE; "noise", the learned one of Flow-Noise.
        noise_range: smallest and largest standard deviation of Flow-Noise, in normalised actions.

    With every parameter zero the velocity is 0, so a chunk without exploration is the unnormalised seeded noise.

    Raises:
        PolicyConfigError: where sizes or the denoising make no sense.
    """

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        *,
        denoising_steps: int = 2,
        noise_level: float = 0.5,
        stochastic_steps: Literal["all", "one"] = "all",
        deterministic_last: bool = False,
        exploration: Literal["sde", "noise"] = "sde",
        noise_range: tuple[float, float] = (0.08, 0.16),
        **options: Any,
    ) -> None:
        super().__init__(features, horizon, action_dim, denoising_steps=denoising_steps, **options)
        if exploration not in ("sde", "noise"):
            raise PolicyConfigError(f"exploration is {exploration!r}: expected 'sde' or 'noise'.")
        if not 0 < noise_range[0] < noise_range[1] < math.inf:
            raise PolicyConfigError(f"noise_range is {tuple(noise_range)}: expected [low, high] with 0 < low < high.")
        self.denoising = Denoising(denoising_steps, noise_level, stochastic_steps, deterministic_last)
        self.exploration, self.noise_range = exploration, tuple(noise_range)
        self.frequency: Tensor
        self.register_buffer("frequency", frequencies(), persistent=False)
        self.spread_head: FlowNoise | None = None
        if exploration == "noise":
            self.spread_head = FlowNoise(self.observation.dim, horizon * action_dim, noise_range)

    @abstractmethod
    def field(self, encoded: Sequence[Tensor]) -> Velocity:
        """v(., ., s) for the parts of encoded observations, each (B, n): see `policies.flow.Velocity`."""

    def velocity(self, obs: Observations) -> Velocity:
        """v(., ., s) for observations {key: (B, ...)}; 0 in dims that are not real."""
        return self._masked(self.field(self.observation(obs)), self.real_of(obs))

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        return self.denoising.noise(batch, self.horizon, self.action_dim, rng)

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        encoded, real = self.observation(obs), self.real_of(obs)
        velocity = self._masked(self.field(encoded), real)
        return self._walked(obs, velocity, noise, explore, self._spread(encoded, real) if explore else None)

    @torch.no_grad()
    def act_guided(self, obs: Observations, noise: Tensor, plan: Plan, largest: float) -> tuple[Chunk, Chunk]:
        weight, real = soft_mask(plan.left, plan.delay, self.horizon)[..., None], self.real_of(obs)
        target = self.action(plan.actions, self.observation.embodiment(obs))
        if real is not None:
            weight = weight * real[:, None]
        velocity = self.velocity(obs)
        drawn = guided(velocity, target, weight, largest)
        return self._walked(obs, drawn, noise), self._walked(obs, velocity, noise)

    def _walked(
        self, obs: Observations, velocity: Velocity, noise: Tensor, explore: bool = False, spread: Spread | None = None
    ) -> Chunk:
        sample = self.denoising.sample(velocity, noise, explore, self.real_of(obs), spread)
        return Chunk(self.actions_of(obs, sample.path[:, -1]), sample.path, sample.stochastic, sample.log_prob)

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        encoded, real = self.observation(obs), self.real_of(obs)
        velocity = self._masked(self.field(encoded), real)
        return self.denoising.log_prob(velocity, path, stochastic, real, self._spread(encoded, real))

    def entropy(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        real = self.real_of(obs)
        spread = self._spread(self.observation(obs), real)
        if spread is None:
            return super().entropy(obs, path, stochastic)
        return self.denoising.entropy(path, stochastic, spread, real)

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """E |v(x_t, t, s) - (eps - a)|^2 with t ~ Beta(1.5, 1), mostly noise (pi0, arXiv:2410.24164)."""
        a = self.action(actions, self.observation.embodiment(obs))
        eps, t = self.drawn(a, generator)
        x = torch.lerp(a, eps, t[..., None])  # x_t = (1 - t) a + t eps
        v = self.velocity(obs)(x[:, None], t)[:, 0]
        return self.mean_error(obs, (v - (eps - a)).square(), valid)

    @staticmethod
    def drawn(a: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Noise like the actions a (B, H, D), and flow times (B, 1), for `loss`."""
        eps = torch.randn(a.shape, generator=generator, device=a.device, dtype=a.dtype)
        u = torch.rand(len(a), 1, generator=generator, device=a.device, dtype=a.dtype)
        return eps, u ** (1 / 1.5)  # inverse of the distribution function t^1.5

    def contract(self) -> Contract:
        return super().contract() | {
            "denoising_steps": self.denoising_steps,
            "noise_level": self.denoising.noise_level,
            "stochastic_steps": self.denoising.stochastic_steps,
            "deterministic_last": int(self.denoising.deterministic_last),
            "exploration": self.exploration,
            "noise_range": f"{self.noise_range[0]} to {self.noise_range[1]}",
        }

    def time(self, t: Tensor) -> Tensor:
        """Sines and cosines of t (...), (..., TIME_DIM)."""
        return sines(t, self.frequency)

    def flat(self, encoded: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """(B, K, F + H D + TIME_DIM): encoded (B, F), the points z (B, K, H, D) and their times (K,) or (B, K)."""
        points = z.shape[:2]
        return torch.cat([encoded[:, None].expand(*points, -1), z.flatten(2), self.time(t).expand(*points, -1)], -1)

    @staticmethod
    def _masked(field: Velocity, real: Tensor | None) -> Velocity:
        if real is None:
            return field
        mask = real[:, None, None]
        # Padding neither says anything nor moves.
        return lambda z, t: field(z * mask, t) * mask

    def _spread(self, encoded: Sequence[Tensor], real: Tensor | None) -> Spread | None:
        return None if self.spread_head is None else self.spread_head.spread(torch.cat(list(encoded), -1), real)
