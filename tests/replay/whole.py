"""Whole episodes for tests of replay, cut into segments; and what a window that begins at one of their steps must hold,
computed step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from policies.encoder import EMBODIMENT, IMAGES, INSTRUCTION
from policies.language import embed
from robotlearn.algorithms.transitions import Window
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell, cells_of, env_options, observation_shapes
from robotlearn.config import Config, load_config
from robotlearn.inputs import STATE, Inputs
from robotlearn.replay.memory import ReplayMemory
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment
from tests.wire.make import make_segment

EDGES = ("north", "south", "east")


@cache
def two_robots() -> tuple[Config, Inputs, list[Cell]]:
    """Two embodiments at two tasks, with two small cameras, told what to do."""
    config = load_config(
        "smoke",
        [
            "edges=[]", "learner.updates=0", "robot=[panda, so101]", "task=[reach, push]",
            "observations.cameras=[front, wrist]", "observations.image_size=[8, 10]", "observations.instruction=true",
        ],
    )  # fmt: skip
    cells = cells_of(config)
    return config, Inputs(config, cells), cells


class Step(NamedTuple):
    """A step of the truth: episode and index in it."""

    episode: int
    index: int


@dataclass
class Whole:
    """An episode as one segment, and where it was cut: the first step of each piece, and the episode's length."""

    segment: Segment
    cuts: list[int]

    def __len__(self) -> int:
        return self.segment.steps

    def pieces(self) -> list[Segment]:
        return [self.piece(start, end) for start, end in zip(self.cuts[:-1], self.cuts[1:], strict=True)]

    def piece(self, start: int, end: int, **changes: Any) -> Segment:
        """Its steps from `start` to `end`."""
        whole, rows = self.segment, slice(start, end)
        of_steps = {
            name: getattr(whole, name)[rows]
            for name in (
                "monotonic", "wall", "action_proposed", "action_executed", "intervention", "held", "reward",
                "terminated", "truncated", "success",
            )
        }  # fmt: skip
        chunks = np.flatnonzero(
            (whole.chunk_start < end) & (whole.chunk_start + whole.chunk_executed > start)
        )  # those of which something was executed here
        begin = np.maximum(whole.chunk_start[chunks], start)
        stop = np.minimum(whole.chunk_start[chunks] + whole.chunk_executed[chunks], end)
        return replace(
            whole,
            first_step=start,
            observations={key: values[start : end + 1] for key, values in whole.observations.items()},
            chunk_version=whole.chunk_version[chunks],
            chunk_start=(begin - start).astype(np.int32),
            chunk_first=(whole.chunk_first[chunks] + begin - whole.chunk_start[chunks]).astype(np.int32),
            chunk_executed=(stop - begin).astype(np.int32),
            chunk_lag=whole.chunk_lag[chunks],
            chunk_path=whole.chunk_path[chunks],
            chunk_stochastic=whole.chunk_stochastic[chunks],
            chunk_log_prob=whole.chunk_log_prob[chunks],
            **(of_steps | changes),
        )


def make_whole(rng: np.random.Generator, number: int, cells: Sequence[Cell], config: Config, steps: int) -> Whole:
    """A random episode; `number` tells it from others."""
    cell = cells[rng.integers(len(cells))]
    shapes = observation_shapes(cell, env_options(config))
    edge = EDGES[rng.integers(len(EDGES))]
    starts = np.arange(0, steps, 4)  # the horizon of make_segment's chunks
    segment = make_segment(
        steps,
        len(starts),
        seed=number,
        edge=edge,
        episode=number,
        robot=f"{edge}/{cell.spec.name}",
        embodiment=cell.spec.embodiment,
        task=str(rng.choice(cell.task.instructions)),
        observations={key: _seen(rng, steps + 1, shape) for key, shape in shapes.items()},
        action_executed=rng.standard_normal((steps, cell.spec.dim)).astype(np.float32),
        action_proposed=rng.standard_normal((steps, cell.spec.dim)).astype(np.float32),
        chunk_path=np.zeros((len(starts), 3, 4, cell.spec.dim), np.float32),
        # Runs of a person's steps, so that whole chunks are among them.
        intervention=np.repeat(rng.random(steps // 3 + 1) < 0.4, 3)[:steps],
        chunk_version=rng.integers(0, 1000, len(starts)),
        chunk_start=starts.astype(np.int32),
        chunk_executed=np.minimum(4, steps - starts).astype(np.int32),
    )
    end = rng.integers(3)  # 0: the time limit, 1: it is over, 2: both at once
    segment.terminated[-1], segment.truncated[-1] = end >= 1, end != 1
    segment.success[-1] = rng.random() < 0.5
    most = steps if number % 2 else min(steps, 5)  # many pieces of one or two steps, or a few long ones
    cuts = [0, *sorted(rng.choice(np.arange(1, steps), rng.integers(most), replace=False)), steps]
    return Whole(segment, [int(cut) for cut in cuts])


def _seen(rng: np.random.Generator, rows: int, shape: tuple[int, ...]) -> NDArray[Any]:
    if len(shape) == 3:
        return rng.integers(0, 256, (rows, *shape), np.uint8)
    return rng.standard_normal((rows, *shape)).astype(np.float32)


def stored(store: SegmentStore, segments: Sequence[Segment], first: int = 0) -> list[tuple[Position, memoryview]]:
    """Append them in this order; where each is, and its record as the log has it."""
    data = [records.encode(one, session=7, sequence=first + number) for number, one in enumerate(segments)]
    outcomes = store.append(data)
    assert [outcome.kind for outcome in outcomes] == ["stored"] * len(data), outcomes
    places = [outcome.position for outcome in outcomes if outcome.position is not None]
    return [(place, store.read_record(place)) for place in places]


def expected(whole: Whole, index: int, inputs: Inputs, window: Window) -> dict[str, Any]:
    """The window that begins at a step of an episode, from the whole of it; actions and state as the policy is shown
    them.
    """
    one, name = whole.segment, whole.segment.embodiment
    length = min(window.steps, len(whole) - index)
    horizon = [min(index + k, index + length - 1) for k in range(window.horizon)]
    real = np.arange(window.horizon) < length
    last = index + length - 1
    over = one.terminated[last] or (one.truncated[last] and window.timeout == "failure")
    reward = sum(window.gamma**k * float(one.reward[index + k]) for k in range(length))
    chunk = np.flatnonzero((one.chunk_start <= index) & (index < one.chunk_start + one.chunk_executed))
    found: dict[str, Any] = {
        "actions": _wide(inputs, name, np.where(one.intervention[:, None], one.action_executed, one.action_proposed))[
            horizon
        ],
        "valid": real,
        "intervention": one.intervention[horizon] & real,
        "reward": np.float32(reward),
        "discount": np.float32(0.0 if over else window.gamma**length),
        "version": int(one.chunk_version[chunk[0]]) if len(chunk) else -1,
        "now": _shown(inputs, whole, index),
        "next": _shown(inputs, whole, index + length) if window.bootstraps else {},
    }
    return found


def _wide(inputs: Inputs, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Laid out for the policy, joint by joint: the gripper last."""
    wide = np.zeros((len(values), inputs.action_dim), np.float32)
    joints = values.shape[1] - 1
    wide[:, :joints], wide[:, -1] = values[:, :joints], values[:, -1]
    return wide


def _shown(inputs: Inputs, whole: Whole, index: int) -> dict[str, NDArray[Any]]:
    one = whole.segment
    shown = {}
    for key, shape in inputs.features.items():
        if key == EMBODIMENT:
            shown[key] = np.array([float(name == one.embodiment) for name in inputs.embodiments], np.float32)
        elif key == INSTRUCTION:
            shown[key] = embed(one.task)
        elif key.startswith(IMAGES):
            shown[key] = one.observations[key][index]
        elif key == STATE:
            shown[key] = _wide(inputs, one.embodiment, one.observations[key])[index]
        else:
            row = one.observations[key][index]
            shown[key] = np.concatenate([row, np.zeros(shape[0] - len(row), np.float32)])
    return shown


def gathered(memory: ReplayMemory, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What memory has of each, in the form of `expected`; what the buffers held before must not matter."""
    out = memory.buffers(len(rows))
    for part in out.values():
        for tensor in part.values():
            tensor.fill_(True if tensor.dtype == torch.bool else 77)
    memory.gather(np.array(rows, np.int64), out)
    return [
        {name: tensor[i].numpy() for name, tensor in out["flat"].items()}
        | {when: {key: tensor[i].numpy() for key, tensor in out[when].items()} for when in ("now", "next")}
        for i in range(len(rows))
    ]


def assert_same(found: dict[str, Any], right: dict[str, Any], what: object) -> None:
    assert found.keys() == right.keys()
    for name, value in right.items():
        if isinstance(value, dict):
            assert found[name].keys() == value.keys(), what
            for key in value:
                assert np.array_equal(found[name][key], value[key]), f"{what}: {name} {key}"
        elif name in ("reward", "discount"):
            np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=2e-6, err_msg=f"{what}: {name}")
        else:
            assert np.array_equal(found[name], value), f"{what}: {name} is {found[name]}, expected {value}"
