"""Policy: a batch of observations becomes action chunks, and stored chunks get their exact log-probability."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from policies.errors import PolicyConfigError
from policies.normalizer import Scale, Statistics

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

    def to(self, device: torch.device | str) -> "Chunk":
        """The same chunks on a device."""
        return Chunk(*(part.to(device) for part in (self.actions, self.path, self.stochastic, self.log_prob)))


@dataclass(frozen=True)
class Plan:
    """What B arms have of their running chunks, to be executed while the next ones are computed.

    actions: (B, H, D) float32, in the units of the robot's actions, the next one first; beyond `left` anything.
    left: (B,) int64, how many there are; 0: none.
    delay: (B,) int64, how many of them will have been executed when the new chunk takes over.
    """

    actions: Tensor
    left: Tensor
    delay: Tensor


class Policy(nn.Module, ABC):
    """Chunks of `horizon` actions of `action_dim` dims from observations with `features` ({key: shape without batch}).

    Holds its normalisation statistics as buffers: they are part of `state_dict()` and nothing but `set_statistics`
    changes them. Knows nothing of robots, sockets or replay. Not thread-safe while weights are being loaded.
    """

    features: dict[str, tuple[int, ...]]
    horizon: int
    action_dim: int
    denoising_steps: int
    compiles = False
    """Whether `serve` can compile it."""
    has_log_prob = True
    """Whether chunks have a probability, so that reinforcement can learn it; without, it is for imitation."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def path_dim(self) -> int:
        """Entries of an action as a path has them, `action_dim` or more."""
        return self.action_dim

    @property
    def scales(self) -> dict[str, Scale]:
        """By what statistics of data normalise a feature, or "action"; those that aren't named: by mean_std."""
        return {}

    @property
    def critic_features(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `for_critic` gives; its statistics are among `statistics()`, or it is of unit size."""
        return self.features

    def for_critic(self, obs: Observations) -> Observations:
        """What a critic is shown of observations, without gradient: themselves, or what the policy made of them.

        Their images may be on the CPU, wherever the policy is.
        """
        return obs

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

    def act_guided(self, obs: Observations, noise: Tensor, plan: Plan, largest: float) -> tuple[Chunk, Chunk]:
        """Chunks drawn to a plan by guidance of at most `largest` (beta of RTC), and those of `act` without it.

        Both without exploration, from one look at the observations. A guided row without a plan is what `act` gives.
        Only a policy that overrides it is used with real-time chunking.
        """
        raise PolicyConfigError(f"a policy of class {type(self).__name__} can't be guided: it has no `act_guided`.")

    def act_prefixed(self, obs: Observations, noise: Tensor, plan: Plan) -> Chunk:
        """As `act` without exploration, the first `plan.delay` actions of each chunk being those of the plan.

        Only for a policy that was trained with such prefixes, and overrides it.
        """
        raise PolicyConfigError(f"a policy of class {type(self).__name__} knows no delay: it has no `act_prefixed`.")

    def serve(self, *, compiled: bool, images_again: bool) -> None:
        """Only chunks from now on, nothing is learnt, and `renewed` whenever the weights were changed: it may remember
        what it makes of words and, with `images_again`, of images, since one and the same may come more than once.

        compiled: it is compiled by its first calls, once for a single observation and once for several, however many.
        Raises PolicyConfigError where it `compiles` not.
        """
        if compiled:
            raise PolicyConfigError("of this kind of policy nothing is compiled, only of VLAs: set compile to never.")

    def renewed(self) -> None:
        """Forget what was made with former weights."""

    @abstractmethod
    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        """Log-probability of stored paths under the current weights, (B, N, H), with gradient.

        0 where not stochastic; equals `Chunk.log_prob` to 1e-4 for the weights that drew the path, in any batch size.
        Raises ImitationOnlyError where `has_log_prob` is False.
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
