"""Reading a `Recording` back: whole episodes, and as demonstrations to imitate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robotlearn.buffer.store import SegmentStore
from robotlearn.datasets.stored import whole_episodes
from robotlearn.demonstrations import Demonstrations
from robotlearn.people import recording
from robotlearn.people.errors import RecordingError


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
    with SegmentStore(path / "log") as store:
        for episode in whole_episodes(segment for _, segment in store.scan()):
            yield RecordedEpisode(
                embodiment=episode.embodiment,
                instruction=episode.instruction,
                success=episode.success,
                observations=episode.observations,
                proposed=episode.steps("action_proposed"),
                executed=episode.steps("action_executed"),
                reward=episode.steps("reward"),
            )


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

