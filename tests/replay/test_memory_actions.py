"""Which action a step of the replay is learnt of: what the policy asked for, a person's, or a demonstration's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from robotlearn.algorithms.transitions import Window
from robotlearn.buffer.store import SegmentStore
from robotlearn.inputs import Inputs
from robotlearn.replay.memory import ReplayMemory
from robotlearn.replay.sampling import DEMONSTRATION, FORMER, ONLINE
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment
from tests.wire.make import make_segment

STEPS = 6


def memory() -> ReplayMemory:
    inputs = SimpleNamespace(
        features={"observation.state": (3,)},
        action_dim=3,
        embodiments=("panda",),
        laid_out=lambda name, key, values: values,
        padded=lambda name, actions: actions,
    )
    return ReplayMemory(cast(Inputs, inputs), Window(1, 1, 0.9), 2**20)


def learnt_of(segment: Segment, origin: int, folder: Path) -> np.ndarray:
    """(STEPS, 3) the actions of the windows that begin at each step."""
    made = memory()
    with SegmentStore(folder) as store:
        (stored,) = store.append([records.encode(segment)])
        assert stored.position is not None
        made.add(store.records, stored.position, store.read_record(stored.position), origin)
    batch: dict[str, Any] = made.buffers(STEPS)
    made.gather(np.arange(STEPS), batch)
    return cast(np.ndarray, batch["flat"]["actions"][:, 0].numpy())


@pytest.mark.parametrize("origin", (ONLINE, FORMER))
def test_what_the_policy_asked_for_and_what_a_person_did(origin: int, tmp_path: Path) -> None:
    person = np.array([False, True, False, True, False, False])
    segment = make_segment(STEPS, last=True, intervention=person)
    expected = np.where(person[:, None], segment.action_executed, segment.action_proposed)
    assert np.array_equal(learnt_of(segment, origin, tmp_path), expected)


def test_of_demonstrations_what_was_done(tmp_path: Path) -> None:
    segment = make_segment(STEPS, last=True)
    assert np.array_equal(learnt_of(segment, DEMONSTRATION, tmp_path), segment.action_executed)
