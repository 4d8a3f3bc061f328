"""Policy: a batch of observations becomes action chunks, and stored chunks get their exact log-probability."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Generator, Tensor, nn

from policies.normalizer import Statistics

Observations = Mapping[str, Tensor]
ContractValue = str | int | float | list[int]
Contract = dict[str, ContractValue]


@dataclass(frozen=True)
class Chunk:
    """The next H actions for each of B observations, and all that reinforcement learning needs about them later.

    actions: (B, H, D) float32, in the units of the robot's actions.
    path: (B, N+1, H, D) float32, z_0 (noise) ... z_N (the chunk), in normalised units, padded dims included.
    stochastic: (B, N) bool, which denoising steps were drawn at random; all False without exploration.
    log_prob: (B, N, H) float32, per unit (denoising step, action step), 0 where not stochastic.
    """

    actions: Tensor
    path: Tensor
    stochastic: Tensor
    log_prob: Tensor


class Policy(nn.Module, ABC):
    """Chunks of `horizon` actions of `action_dim` dims from observations with `features` ({key: shape without batch}).

    Holds its normalisation statistics as buffers: they are part of `state_dict()` and nothing but `set_statistics`
    changes them. Knows nothing of robots, sockets or replay. Not thread-safe while weights are being loaded.
    """

    features: dict[str, tuple[int, ...]]
    horizon: int
    action_dim: int
    denoising_steps: int

    @abstractmethod
    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        """All that is random about `batch` chunks: z_0 and the noise of each step, (B, N+1, H, D) float32, on the CPU.

        The only source of randomness of `act`, so an edge can seed each arm by itself.
        """

    @abstractmethod
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        """Chunks for observations {key: (B, ...)}; no gradient. A row depends on its own observation and noise alone.

        With `explore=False` only z_0 of the noise counts, no step is stochastic; the path is returned all the same.
        Raises ObservationError when a feature is missing or has another shape.
        """

    @abstractmethod
    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        """Log-probability of stored paths under the current weights, (B, N, H), with gradient.

        0 where not stochastic; equals `Chunk.log_prob` to 1e-4 for the weights that drew the path, in any batch size.
        """

    def entropy(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        """Entropy of each unit as the weights decide it, (B, N, H), with gradient; 0 where it is not theirs to decide.

        That holds of Flow-SDE, whose noise is fixed, and so of this method unless it is overridden.
        """
        return path.new_zeros(*stochastic.shape, self.horizon)

    @abstractmethod
    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """Supervised loss (scalar) of chunks actions (B, H, D), in robot units; steps not valid (B, H) are left out."""

    @abstractmethod
    def contract(self) -> Contract:
        """What edge and learner must agree on: kind, features, sizes, noise. Plain values; weights don't count."""

    @abstractmethod
    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        """Fix the normalisation: statistics of each feature, and of "action". Raises StatisticsError."""

    @abstractmethod
    def statistics(self) -> dict[str, Statistics]:
        """The statistics in use, as `set_statistics` takes them; a critic on the same features starts from them."""
