"""Denoising: the walk from noise to action, and its exact log-probability.

Flow time t is 1 at noise and 0 at action; the velocity v = noise - action points to the noise. On the grid
t_0 = 1 > ... > t_N = 0 (uniform, delta = 1/N) the *path* z_0 (noise) ... z_N (action chunk) takes N steps. A step is

- **ODE** (deterministic):  z' = z - delta v
- **Flow-SDE** (stochastic), piRL, arXiv:2510.25889, with the drift that keeps the marginals of the ODE:
      sigma_t = alpha sqrt(t / (1 - t))         at t = 1 the denominator is 1 - t_1
      mean    = z - delta v - sigma_t^2 delta / (2 t) (z + (1 - t) v),    std = sigma_t sqrt(delta)
  (Eq. 8 of the paper mixes two directions of time; taken literally it diverges.)

- **Flow-Noise** (stochastic), piRL as well: the mean of the ODE step, and a std that a small learned network gives for
  each entry of the chunk, `spread(z, t)`.

All are affine in z and v, mean = a_k z - b_k v, so a transition is three numbers per step and one line serves sampling
and log-probability, each step of each sample being of its own kind.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from policies.errors import PolicyConfigError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""velocity(z, t): points z (B, K, H, D) at flow times t (K,) or (B, K) -> v (B, K, H, D).

A network that takes a time for each action is also asked at t (B, K, H).
"""

Spread = Callable[[Tensor, Tensor], Tensor]
"""spread(z, t): the standard deviations of Flow-Noise, as `Velocity` gives velocities."""

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Denoising:
    """How noise becomes an action chunk, in `steps` steps.

    Args:
        steps: number N of denoising steps.
        noise_level: alpha of Flow-SDE, the std of the first stochastic step, in normalised action units; of no meaning
            where a spread is given (Flow-Noise).
        stochastic_steps: which steps are stochastic when exploring: "all", or "one" that is drawn per chunk (the
            other steps are ODE steps, and only the drawn one has a log-probability).
        deterministic_last: the last step is always an ODE step, so that the executed chunk carries less noise.

    Raises:
        PolicyConfigError: where no step could be stochastic, or the numbers make no sense.
    """

    steps: int
    noise_level: float = 0.5
    stochastic_steps: Literal["all", "one"] = "all"
    deterministic_last: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PolicyConfigError(
                f"denoising_steps is {self.steps}: noise would never become an action; use 1 or more."
            )
        if not (math.isfinite(self.noise_level) and self.noise_level > 0):
            raise PolicyConfigError(
                f"noise_level is {self.noise_level}: no step would be stochastic and no log-probability would exist; "
                "use a positive number (0.5 is usual). To act without noise pass explore=False."
            )
        if self.stochastic_steps not in ("all", "one"):
            raise PolicyConfigError(f"stochastic_steps is {self.stochastic_steps!r}: expected 'all' or 'one'.")
        if self.deterministic_last and self.steps == 1:
            raise PolicyConfigError(
                "deterministic_last with denoising_steps 1: the only step would be deterministic, so nothing would "
                "explore; use 2 or more steps."
            )

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """t_0 = 1 > ... > t_N = 0."""
        return tuple(1.0 - k / self.steps for k in range(self.steps + 1))

    @cached_property
    def stds(self) -> tuple[float, ...]:
        """Std of each step when it is stochastic; 0 for a step that never is."""
        stds = []
        for t, t_next in zip(self.grid[:-1], self.grid[1:], strict=True):
            sigma = self.noise_level * math.sqrt(t / (1 - t if t < 1 else 1 - t_next))
            stds.append(sigma * math.sqrt(t - t_next))
        if self.deterministic_last:
            stds[-1] = 0.0
        return tuple(stds)

    @cached_property
    def _sde(self) -> list[list[float]]:
        """Rows a_k, b_k, std_k of the stochastic step k: mean = a z - b v."""
        rows = []
        for t, t_next, std in zip(self.grid[:-1], self.grid[1:], self.stds, strict=True):
            drift = std**2 / (2 * t)  # sigma_t^2 delta / (2 t)
            rows.append([1 - drift, (t - t_next) + drift * (1 - t), std])
        return rows

    @cached_property
    def _ode(self) -> list[list[float]]:
        return [[1.0, t - t_next, 0.0] for t, t_next in zip(self.grid[:-1], self.grid[1:], strict=True)]

    def transition(self, step: int, z: Tensor, v: Tensor, stochastic: bool) -> tuple[Tensor, float]:
        """Mean and std of z_{step+1}, given z_step and the velocity there."""
        a, b, std = (self._sde if stochastic else self._ode)[step]
        return a * z - b * v, std

    def times(self, like: Tensor) -> Tensor:
        """t_0 ... t_{N-1}: where the velocity is evaluated, on the device and in the type of `like`."""
        return like.new_tensor(self.grid[:-1])

    def noise(self, batch: int, horizon: int, dim: int, rng: np.random.Generator) -> Tensor:
        """Everything random about `batch` chunks: z_0 and the noise of each step, (B, N+1, H, D) float32.

        The noise also says which steps are stochastic: one whose noise is exactly zero is an ODE step.
        """
        noise = rng.standard_normal((batch, self.steps + 1, horizon, dim), dtype=np.float32)
        if self.stochastic_steps == "one":
            drawn = rng.integers(np.count_nonzero(self.stds), size=batch)
            noise[:, 1:][np.arange(self.steps) != drawn[:, None]] = 0
        return torch.from_numpy(noise)

    def sample(
        self,
        velocity: Velocity,
        noise: Tensor,
        explore: bool,
        real: Tensor | None = None,
        spread: Spread | None = None,
    ) -> "Sample":
        """Walk from noise (B, N+1, H, D) to the chunk; `explore=False` takes ODE steps only and ignores all but z_0.

        `real` (B, D), 0 or 1: which entries of an action are; the others are padding, walked but not counted in the
        log-probability. None: all are. `spread`: explore by Flow-Noise with it; None: by Flow-SDE.
        """
        times, z = self.times(noise), noise[:, 0]
        stochastic = (noise[:, 1:] != 0).flatten(2).any(-1) & (noise.new_tensor(self.stds) > 0)
        if not explore:
            stochastic = torch.zeros_like(stochastic)
        a, b, std = self._coefficients(stochastic, noise, spread is None)
        path, log_probs = [z], []
        for k in range(self.steps):
            v = velocity(z[:, None], times[k : k + 1])[:, 0].to(z.dtype)
            if explore:
                mean, drawn, here = a[:, k] * z - b[:, k] * v, stochastic[:, k], std[:, k]
                if spread is not None:
                    here = spread(z[:, None], times[k : k + 1])[:, 0].to(z.dtype) * drawn[:, None, None]
                z = mean + here * noise[:, k + 1]
                log_probs.append(_log_density(z, mean, here, drawn, None if real is None else real[:, None]))
            else:
                z, _ = self.transition(k, z, v, stochastic=False)
                log_probs.append(z.new_zeros(z.shape[:-1]))
            path.append(z)
        return Sample(torch.stack(path, 1), stochastic, torch.stack(log_probs, 1))

    def log_prob(
        self,
        velocity: Velocity,
        path: Tensor,
        stochastic: Tensor,
        real: Tensor | None = None,
        spread: Spread | None = None,
    ) -> Tensor:
        """Log-probability of stored paths (B, N+1, H, D), stochastic (B, N) -> (B, N, H), with gradient.

        One unit per denoising step and action step, summed over the real dims, 0 where the step was not stochastic.
        The network is asked once, at the points that can have a density: of each row its own drawn step where
        `stochastic_steps` is "one" (no more than one of a row may be stochastic then), else all steps but a last one
        that never is stochastic.
        """
        _, steps = at = self._scored(stochastic)
        a, b, std = (part[at] for part in self._coefficients(stochastic, path, spread is None))
        z, z_next, times = path[:, :-1][at], path[:, 1:][at], self.times(path)[steps]
        v = velocity(z, times).to(path.dtype)
        if spread is not None:
            std = spread(z, times).to(path.dtype)
        mask = None if real is None else real[:, None, None]
        return self._placed(_log_density(z_next, a * z - b * v, std, stochastic[at], mask), stochastic)

    def entropy(self, path: Tensor, stochastic: Tensor, spread: Spread, real: Tensor | None = None) -> Tensor:
        """Entropy of each unit under Flow-Noise, sum of ln(2 pi e std^2) / 2 over the real dims, (B, N, H)."""
        _, steps = at = self._scored(stochastic)
        each = spread(path[:, :-1][at], self.times(path)[steps]).to(path.dtype).log() + LOG_SQRT_2PI + 0.5
        return self._placed((each if real is None else each * real[:, None, None]).sum(-1), stochastic)

    def _scored(self, stochastic: Tensor) -> tuple[Tensor, Tensor] | tuple[slice, slice]:
        """Rows and steps, an index into (B, N, ...), of the K points that can have a density: (B, K, ...)."""
        if self.stochastic_steps == "all":
            return slice(None), slice(self.steps - self.deterministic_last)
        rows = torch.arange(len(stochastic), device=stochastic.device)[:, None]
        # A row without a stochastic step has any one looked at, and gets 0 all the same.
        return rows, stochastic.int().argmax(1, keepdim=True)

    def _placed(self, found: Tensor, stochastic: Tensor) -> Tensor:
        """What was found at the points of `_scored`, (B, K, H), in its places (B, N, H); 0 where not stochastic."""
        if self.stochastic_steps == "all":
            found = torch.nn.functional.pad(found, (0, 0, 0, self.steps - found.shape[1]))
        return torch.where(stochastic[..., None], found, 0.0)

    def _coefficients(self, stochastic: Tensor, like: Tensor, sde_steps: bool) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, std, each (B, N, 1, 1), of every step of every sample."""
        sde, ode = like.new_tensor(self._sde if sde_steps else self._ode), like.new_tensor(self._ode)
        rows = torch.where(stochastic[..., None], sde, ode)[..., None, None]  # (B, N, 3, 1, 1)
        return rows[:, :, 0], rows[:, :, 1], rows[:, :, 2]


@dataclass(frozen=True)
class Sample:
    """Walked paths: path (B, N+1, H, D), stochastic (B, N) bool, log_prob (B, N, H), 0 where not stochastic."""

    path: Tensor
    stochastic: Tensor
    log_prob: Tensor


def _log_density(x: Tensor, mean: Tensor, std: Tensor, stochastic: Tensor, real: Tensor | None) -> Tensor:
    """log N(x; mean, std^2) summed over the last axis, (..., H, D) -> (..., H); 0 where not stochastic.

    std (..., 1 or H, 1 or D); real (..., 1, D), 0 or 1.
    """
    alive = stochastic[..., None]
    safe = torch.where(alive[..., None], std, 1.0)  # an ODE step has std 0: keep 0/0 out of the gradient
    error, log_std = ((x - mean) / safe).square(), safe.log() + LOG_SQRT_2PI
    if real is not None:
        error, log_std = error * real, log_std * real
        count = 1
    else:
        count = x.shape[-1] if log_std.shape[-1] == 1 else 1
    density = -0.5 * error.sum(-1) - count * log_std.sum(-1)
    return torch.where(alive, density, 0.0)
