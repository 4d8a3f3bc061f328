"""Demonstrations of the expert as stored segments, so that they are replayed like everything else."""

from pathlib import Path

import numpy as np

from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell
from robotlearn.demonstrations import Demonstrations
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment

EDGE = "expert"


def store(folder: Path, cell: Cell, number: int, shown: Demonstrations) -> None:
    """Store them, each episode as one segment, unless they are there. `number`: of the cell among those of the run.

    Actions are what was executed, proposed what was meant. Raises LogError when the disk is full or fails.
    """
    with SegmentStore(folder) as into:
        starts = np.concatenate([[0], shown.episode_ends[:-1]])
        for episode, (start, end) in enumerate(zip(starts.tolist(), shown.episode_ends.tolist(), strict=True)):
            into.append([records.encode(_segment(cell, shown, episode, start, end), session=number, sequence=episode)])


def _segment(cell: Cell, shown: Demonstrations, episode: int, start: int, end: int) -> Segment:
    count, rows = end - start, slice(start, end)
    last = np.arange(count) == count - 1
    nothing = np.zeros(count, bool)
    width = shown.actions.shape[1]
    return Segment(
        edge=EDGE,
        robot=f"{EDGE}/{cell.spec.name}",
        embodiment=cell.spec.embodiment,
        task=shown.instructions[episode],
        episode=episode,
        first_step=0,
        monotonic=np.arange(count) / cell.spec.control_hz,
        wall=np.zeros(count),
        observations={
            key: np.concatenate([values[rows], shown.final[key][episode][None]])
            for key, values in shown.observations.items()
        },
        action_proposed=shown.actions[rows],
        action_executed=shown.executed[rows],
        intervention=nothing,
        held=nothing,
        reward=shown.reward[rows],
        terminated=last,
        truncated=nothing,
        success=last,
        chunk_version=np.zeros(0, np.int64),
        chunk_start=np.zeros(0, np.int32),
        chunk_first=np.zeros(0, np.int32),
        chunk_lag=np.zeros(0, np.int32),
        chunk_executed=np.zeros(0, np.int32),
        chunk_path=np.zeros((0, 2, 1, width), np.float32),
        chunk_stochastic=np.zeros((0, 1), bool),
        chunk_log_prob=np.zeros((0, 1, 1), np.float32),
    )
