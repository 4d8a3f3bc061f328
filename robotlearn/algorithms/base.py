"""Algorithm: turns experience into better weights of a policy. The learner knows no more of it than this."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.chunks import Episode
from robotlearn.algorithms.transitions import Transitions, Window
from robotlearn.config.replay import PartConfig


class Algorithm(ABC):
    """Owns optimisers and helper networks; changes `policy` in place, on the thread that calls it.

    Before each step that changes the policy it calls the `before_change` that it was given, which may wait: the weights
    as they are may still be being copied for the edges.
    """

    policy: Policy

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the policy's weights, flat; with both restored it goes on bit by bit."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises StateError when it belongs to another algorithm or other sizes."""


class OnPolicy(Algorithm):
    """Learns from whole episodes, each once, made by weights that are at most `learner.max_staleness` versions old.

    Attributes:
        group: so many episodes are given together or not at all, those of one `Group`, as the edges begin them by the
            config; 1: each by itself.
    """

    group: int = 1

    @abstractmethod
    def update(self, episodes: Sequence[Episode], version: int, before_change: Callable[[], None]) -> dict[str, float]:
        """Learn from these; returns the metrics.

        `version`: that of the policy's weights as they are; what this leaves will be published as the next one.
        """


class Batches(Protocol):
    """The batches of one update, drawn from all that is stored."""

    def __iter__(self) -> Iterator[Transitions]:
        """Each batch once. Its tensors are used again: they hold until the one after the next is asked for."""

    def prioritize(self, batch: Transitions, error: Tensor) -> None:
        """Tell how far off (B,) the estimates of this batch were; it counts where steps are sampled by priority."""


class OffPolicy(Algorithm):
    """Learns from what is stored, however old, by drawing batches of it.

    Attributes:
        window: what a batch must hold of each step that is drawn. Who learns with longer n-step returns replaces it
            before the first batch, by one with more `steps`.
        sampling: what a batch is drawn from, unless the config says otherwise; the shares add up to 1.
    """

    window: Window
    sampling: tuple[PartConfig, ...]

    @abstractmethod
    def learn(self, batches: Batches, before_change: Callable[[], None]) -> dict[str, float]:
        """One optimiser step (of each network) for each batch; returns the metrics, means over them."""
