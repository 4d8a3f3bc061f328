"""Feed: what comes to a learner, on its way into the algorithm."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from robotlearn.buffer.compact import Evicted
from robotlearn.replay.finished import Finished
from robotlearn.wire.intake import StoredSegment
from robotlearn.wire.segment import Segment

Heard = Callable[[Segment, Sequence[Finished]], None]
"""(a segment that was taken in, the episodes that it completed)"""


class Feed(ABC):
    """Takes stored segments in, says when an update is due, and does it. Used by the learner's thread.

    Attributes:
        env_steps: environment steps taken in, over all the run's learners.
        version: of the weights that were published last, as the learner sets it.
    """

    env_steps: int = 0
    version: int = -1

    @abstractmethod
    def begin(self, facts: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> str:
        """Before anything comes: go on from what a checkpoint's `facts` and `state` were, if there is one (None: not),
        and what was stored since. Returns in words what waits now.
        """

    @abstractmethod
    def take(self, stored: Sequence[StoredSegment]) -> None:
        """These were stored, in this order."""

    @property
    @abstractmethod
    def due(self) -> bool:
        """Whether an update is."""

    @property
    @abstractmethod
    def waits_for(self) -> str:
        """For what, in words, while none is."""

    @abstractmethod
    def update(self, before_change: Callable[[], None]) -> tuple[dict[str, float], Sequence[Finished]] | None:
        """Do the one that is due: its metrics, and the episodes that say how well it goes. None: there was nothing to
        learn from, and the policy is as it was.
        """

    @abstractmethod
    def published(self) -> None:
        """What the last update made is out: what is granted to edges from here on starts from it."""

    @abstractmethod
    def moved(self, evicted: Evicted) -> None:
        """Some of what is stored lies elsewhere now, or is gone; nothing that `facts` names."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, plain values."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, tensors."""
        return {}

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """What was not learnt from, and why, since this learner began."""

    def row(self) -> dict[str, float]:
        """Metrics of the last update, besides the algorithm's."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Idempotent."""
