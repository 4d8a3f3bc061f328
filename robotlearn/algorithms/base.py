"""Algorithm: turns episodes into better weights of a policy. The learner knows no more of it than this."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.chunks import Episode


class Algorithm(ABC):
    """Owns optimisers and helper networks; changes `policy` in place, on the thread that calls `update`."""

    policy: Policy

    @abstractmethod
    def update(self, episodes: Sequence[Episode], version: int, before_change: Callable[[], None]) -> dict[str, float]:
        """Learn from whole episodes, once; returns the metrics.

        `version`: that of the policy's weights as they are; what this leaves will be published as the next one.
        `before_change` must be called before each step that changes the policy, and may wait: the weights as they are
        may still be being copied for the edges.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs besides the policy's weights, flat; with both restored it goes on bit by bit."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises StateError when it belongs to another algorithm or other sizes."""
