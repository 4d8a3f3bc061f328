"""Reading a `Recording` back: whole episodes, and as demonstrations to imitate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robotlearn.buffer.store import SegmentStore
from robotlearn.demonstrations import Demonstrations
from robotlearn.people import recording
from robotlearn.people.errors import RecordingError
from robotlearn.wire.segment import Segment


@dataclass(frozen=True)
class RecordedEpisode:
    """T steps of one whole episode.

    observations   key to (T + 1, ...): before each step, and after the last
    proposed       (T, D) float32, the person's actions
    executed       (T, D) float32, what safety made of them
    reward         (T,) float32
    """

    embodiment: str
    instruction: str
    success: bool
    observations: dict[str, NDArray[Any]]
    proposed: NDArray[Any]
    executed: NDArray[Any]
    reward: NDArray[Any]

    def __len__(self) -> int:
        return len(self.executed)


def episodes(path: Path) -> Iterator[RecordedEpisode]:
    """The whole episodes of a folder of demonstrations, in their order; what a kill left of one is stepped over.

    Raises RecordingError, LogError: no such folder, or a process records into it now.
    """
    recording.about(path)
    parts: list[Segment] = []
    with SegmentStore(path / "log") as store:
        for _, segment in store.scan():
            follows = parts and (segment.session, segment.episode, segment.first_step) == (
                parts[-1].session,
                parts[-1].episode,
                parts[-1].first_step + parts[-1].steps,
            )
            if not follows:
                parts.clear()
            if follows or segment.first_step == 0:
                parts.append(segment)
                if segment.last:
                    yield _joined(parts)
                    parts.clear()


def demonstrations(path: Path, embodiment: str) -> Demonstrations:
    """The successful episodes of a folder, as imitation takes them; actions are the executed ones.

    Raises RecordingError when it holds none, or those of another robot.
    """
    kept = []
    for episode in episodes(path):
        if episode.embodiment != embodiment:
            raise RecordingError(f"{path} holds demonstrations of {episode.embodiment}, not of {embodiment}")
        if episode.success:
            kept.append(episode)
    if not kept:
        raise RecordingError(f"{path} holds no successful demonstration")
    return Demonstrations(
        {key: np.concatenate([each.observations[key][:-1] for each in kept]) for key in kept[0].observations},
        np.concatenate([each.executed for each in kept]),
        np.concatenate([each.executed for each in kept]),
        np.concatenate([each.reward for each in kept]),
        {key: np.stack([each.observations[key][-1] for each in kept]) for key in kept[0].observations},
        np.cumsum([len(each) for each in kept]),
        [each.instruction for each in kept],
    )


def _joined(parts: list[Segment]) -> RecordedEpisode:
    observations = {
        key: np.concatenate([*(part.observations[key][:-1] for part in parts), parts[-1].observations[key][-1:]])
        for key in parts[0].observations
    }
    return RecordedEpisode(
        embodiment=parts[0].embodiment,
        instruction=parts[0].task,
        success=any(bool(part.success.any()) for part in parts),
        observations=observations,
        proposed=np.concatenate([part.action_proposed for part in parts]),
        executed=np.concatenate([part.action_executed for part in parts]),
        reward=np.concatenate([part.reward for part in parts]),
    )
