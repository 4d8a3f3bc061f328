"""Turns what n arms did, step by step, into segments."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robotlearn.wire.encodings import Encodings
from robotlearn.wire.segment import Group, Segment


@dataclass(frozen=True)
class Origin:
    """Who recorded it: the fields that all segments of one recorder share."""

    edge: str
    robot: str
    embodiment: str


@dataclass(frozen=True)
class Sizes:
    """What a step and a chunk hold.

    Attributes:
        observations: key to shape and dtype of one observation.
        horizon, denoising_steps: H, N of the policy.
        action_dim: of the arm. path_dim: of the policy, at least as many.
    """

    observations: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    horizon: int
    denoising_steps: int
    action_dim: int
    path_dim: int


_STEP_FIELDS: dict[str, type] = {
    "monotonic": np.float64,
    "wall": np.float64,
    "intervention": np.bool_,
    "held": np.bool_,
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "success": np.bool_,
}


class Recorder:
    """Collects steps of n arms in preallocated arrays and hands finished segments to `emit`, those of a step together.

    A segment ends with its episode, or at the first new chunk after `segment_steps` steps, or after twice as many steps
    when no chunk comes. `emit` is called on the thread that calls `step` or `chunk`. Arms are addressed by an index
    array `ids`; each array argument has one row per id. `encodings`: what the segments' records are encoded with.
    """

    def __init__(
        self,
        n: int,
        origin: Origin,
        sizes: Sizes,
        segment_steps: int,
        emit: Callable[[list[Segment]], object],
        encodings: Encodings | None = None,
    ) -> None:
        if segment_steps < sizes.horizon:
            raise ValueError(
                f"segment_steps must be at least the horizon, {sizes.horizon}, or a chunk is cut; it is {segment_steps}"
            )
        self._origin, self._emit, self._segment_steps = origin, emit, segment_steps
        self._encodings = encodings or Encodings()
        self._capacity = capacity = 2 * segment_steps
        h, k, d = sizes.horizon, sizes.denoising_steps, sizes.action_dim
        self._observations = {
            key: np.zeros((n, capacity + 1, *shape), dtype) for key, (shape, dtype) in sizes.observations.items()
        }
        self._steps = {name: np.zeros((n, capacity), dtype) for name, dtype in _STEP_FIELDS.items()}
        self._proposed = np.zeros((n, capacity, d), np.float32)
        self._executed = np.zeros((n, capacity, d), np.float32)
        self._chunks = {
            "version": np.zeros((n, capacity), np.int64),
            "start": np.zeros((n, capacity), np.int32),
            "first": np.zeros((n, capacity), np.int32),
            "lag": np.zeros((n, capacity), np.int32),
            "executed": np.zeros((n, capacity), np.int32),
            "path": np.zeros((n, capacity, k + 1, h, sizes.path_dim), np.float32),
            "stochastic": np.zeros((n, capacity, k), np.bool_),
            "log_prob": np.zeros((n, capacity, k, h), np.float32),
        }
        self._t = np.zeros(n, np.int64)
        self._c = np.zeros(n, np.int64)
        self._first_step = np.zeros(n, np.int64)
        self._episode = np.zeros(n, np.int64)
        self._instructions = [""] * n
        self._groups: list[Group | None] = [None] * n

    def begin(
        self,
        ids: np.ndarray,
        observations: Mapping[str, np.ndarray],
        instructions: Sequence[str],
        group: int = 1,
    ) -> None:
        """An episode of the task in these words (one for each id) starts at these observations; what an unfinished one
        before it left is dropped. `group`: so many of `ids` in a row began alike.
        """
        for place, (arm, words) in enumerate(zip(ids, instructions, strict=True)):
            self._instructions[arm] = words
            if place % group == 0:
                name = secrets.randbits(62)
            self._groups[arm] = Group(name, place % group, group) if group > 1 else None
        # Random, so that episodes of a restarted edge are never joined with those of its former life.
        self._episode[ids] = [secrets.randbits(62) for _ in ids]
        self._t[ids] = self._c[ids] = self._first_step[ids] = 0
        for key, value in observations.items():
            self._observations[key][ids, 0] = value

    def chunk(
        self,
        ids: np.ndarray,
        *,
        version: int | np.ndarray,
        path: np.ndarray,
        stochastic: np.ndarray,
        log_prob: np.ndarray,
        first: int | np.ndarray = 0,
        lag: int | np.ndarray = 0,
    ) -> None:
        """The next actions of these arms come from this chunk, starting with its action number `first`.

        `lag`: how many steps ago the observation was made that the chunk started from.
        """
        self._cut(ids[self._t[ids] >= self._segment_steps])
        c = self._c[ids]
        for name, value in (("version", version), ("path", path), ("stochastic", stochastic), ("log_prob", log_prob)):
            self._chunks[name][ids, c] = value
        self._chunks["first"][ids, c], self._chunks["lag"][ids, c] = first, lag
        self._chunks["start"][ids, c] = self._t[ids]
        self._chunks["executed"][ids, c] = 0
        self._c[ids] += 1

    def step(
        self,
        ids: np.ndarray,
        observations: Mapping[str, np.ndarray],
        *,
        proposed: np.ndarray,
        executed: np.ndarray,
        from_chunk: np.ndarray,
        **fields: np.ndarray | float,
    ) -> None:
        """One control step of these arms and the observations after it.

        `from_chunk` (bool per id) tells whether the action came from the newest chunk; `fields` are the segment's other
        per-step fields (monotonic, wall, intervention, held, reward, terminated, truncated, success).
        """
        t = self._t[ids]
        self._proposed[ids, t], self._executed[ids, t] = proposed, executed
        for name, array in self._steps.items():
            array[ids, t] = fields[name]
        for key, value in observations.items():
            self._observations[key][ids, t + 1] = value
        self._t[ids] += 1
        chunked = ids[from_chunk & (self._c[ids] > 0)]
        self._chunks["executed"][chunked, self._c[chunked] - 1] += 1
        ended = self._steps["terminated"][ids, t] | self._steps["truncated"][ids, t]
        self._cut(ids[ended | (t + 1 == self._capacity)])

    def _cut(self, ids: np.ndarray) -> None:
        if len(ids):
            self._emit([self._segment(arm) for arm in ids])
            for array in self._observations.values():
                array[ids, 0] = array[ids, self._t[ids]]
            self._first_step[ids] += self._t[ids]
            self._t[ids] = self._c[ids] = 0

    def _segment(self, arm: int) -> Segment:
        t, c = int(self._t[arm]), int(self._c[arm])
        observations = {key: array[arm, : t + 1].copy() for key, array in self._observations.items()}
        chunks = {f"chunk_{name}": array[arm, :c].copy() for name, array in self._chunks.items()}
        return Segment(
            edge=self._origin.edge,
            session=0,
            sequence=0,
            robot=self._origin.robot,
            embodiment=self._origin.embodiment,
            task=self._instructions[arm],
            episode=int(self._episode[arm]),
            first_step=int(self._first_step[arm]),
            observations=observations,
            group=self._groups[arm],
            action_proposed=self._proposed[arm, :t].copy(),
            action_executed=self._executed[arm, :t].copy(),
            encodings=self._encodings,
            **{name: array[arm, :t].copy() for name, array in self._steps.items()},
            **chunks,
        )
