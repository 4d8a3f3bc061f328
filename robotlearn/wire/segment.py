"""A segment: a contiguous piece of one episode, as NumPy arrays; the unit that is recorded, sent, stored, sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.encodings import Encodings

OBSERVATION_PREFIX = "observation."

# Each array's dtype and dims: T steps, C chunks, N denoising steps, H horizon, D action dims, P dims of the path
# (P >= D: what a policy pads its actions to is part of the path).
ARRAYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "monotonic": ("<f8", ("T",)),
    "wall": ("<f8", ("T",)),
    "chunk_version": ("<i8", ("C",)),
    "action_proposed": ("<f4", ("T", "D")),
    "action_executed": ("<f4", ("T", "D")),
    "reward": ("<f4", ("T",)),
    "chunk_path": ("<f4", ("C", "N+1", "H", "P")),
    "chunk_log_prob": ("<f4", ("C", "N", "H")),
    "chunk_start": ("<i4", ("C",)),
    "chunk_first": ("<i4", ("C",)),
    "chunk_executed": ("<i4", ("C",)),
    "chunk_lag": ("<i4", ("C",)),
    "intervention": ("|b1", ("T",)),
    "held": ("|b1", ("T",)),
    "terminated": ("|b1", ("T",)),
    "truncated": ("|b1", ("T",)),
    "success": ("|b1", ("T",)),
    "chunk_stochastic": ("|b1", ("C", "N")),
}

CHUNK_INDICES = ("chunk_start", "chunk_first", "chunk_executed", "chunk_lag")


class Group(NamedTuple):
    """Which of the `size` episodes of a group an episode is: they began in the same scene, under the same version."""

    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # unique within the edge
    member: Annotated[int, Meta(ge=0, lt=2**31)]  # 0 ... size - 1
    size: Annotated[int, Meta(ge=2, lt=2**31)]


class Dimensions(NamedTuple):
    """The sizes that a segment's arrays share: steps T, chunks C, horizon H, denoising steps N, action dims D."""

    steps: int
    chunks: int
    horizon: int
    denoising_steps: int
    action_dim: int


@dataclass(kw_only=True, slots=True, eq=False)
class Segment:
    """One contiguous piece of one episode of one robot; the arrays of a decoded segment are read-only views.

    T steps, T+1 observations (the last one follows the last step), C chunks of horizon H with N denoising steps, D
    action dims. (edge, session, sequence) names it for ever; the spool gives session and sequence. SI units.
    """

    edge: str
    session: int = 0  # random 63 bits, one per opening of the edge's spool
    sequence: int = 0  # 0, 1, 2, ... within the session
    robot: str
    embodiment: str  # name of the robot's spec
    task: str  # the language instruction
    episode: int  # unique within the edge's session
    first_step: int  # index of step 0 of this segment within its episode
    monotonic: NDArray[np.float64]  # (T,) s, of the edge's clock
    wall: NDArray[np.float64]  # (T,) s since 1970
    observations: dict[str, NDArray[Any]]  # "observation.<...>" -> (T+1, ...)
    action_proposed: NDArray[np.float32]  # (T, D) by the policy
    action_executed: NDArray[np.float32]  # (T, D) after safety and intervention
    intervention: NDArray[np.bool_]  # (T,) a person held the enable switch
    held: NDArray[np.bool_]  # (T,) safety held the arm, or no action was there
    reward: NDArray[np.float32]  # (T,)
    terminated: NDArray[np.bool_]  # (T,) only the last may be set
    truncated: NDArray[np.bool_]  # (T,) only the last may be set
    success: NDArray[np.bool_]  # (T,)
    chunk_version: NDArray[np.int64]  # (C,) weights that produced the chunk
    chunk_start: NDArray[np.int32]  # (C,) step, relative to first_step, of the chunk's first action executed here
    chunk_first: NDArray[np.int32]  # (C,) index into the chunk of that action
    chunk_lag: NDArray[np.int32]  # (C,) steps before it, held ones included, that the chunk's observation was made
    chunk_executed: NDArray[np.int32]  # (C,) how many of its actions were executed in this segment
    chunk_path: NDArray[np.float32]  # (C, N+1, H, P) denoising path in normalised space, padded dims included
    chunk_stochastic: NDArray[np.bool_]  # (C, N) which denoising steps were sampled
    chunk_log_prob: NDArray[np.float32]  # (C, N, H), 0 where not stochastic
    group: Group | None = None  # of the episode, where several began alike
    encodings: Encodings | None = None  # what its record is to be encoded with; None: all as it is

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return int(self.monotonic.shape[0])

    @property
    def last(self) -> bool:
        """Whether the episode ends with this segment."""
        return bool(self.terminated[-1] or self.truncated[-1])

    @property
    def starred(self) -> bool:
        """Whether a person intervened; a starred segment is never evicted from a spool."""
        return b"\x01" in self.intervention.tobytes()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, as they are in memory."""
        arrays = (*(getattr(self, name) for name in ARRAYS), *self.observations.values())
        return sum(int(array.nbytes) for array in arrays)

    def dimensions(self) -> Dimensions:
        """The sizes that all arrays agree on; raises WireError naming the first array whose dtype or shape doesn't."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        for name, array in (*arrays.items(), *self.observations.items()):
            if not isinstance(array, np.ndarray):
                raise WireError(f"segment: {name} is {type(array).__name__}, expected a NumPy array")
        return check_arrays(
            {name: (array.dtype.str, array.shape) for name, array in arrays.items()},
            {name: (array.dtype.str, array.shape) for name, array in self.observations.items()},
        )

    def validate(self) -> None:
        """Raise WireError naming the field at fault: dtypes, shapes, finite numbers, ends, and chunks inside bounds."""
        dims = self.dimensions()
        for name in ("session", "sequence", "episode", "first_step"):
            if not 0 <= getattr(self, name) < 2**63:
                raise WireError(f"segment: {name} is {getattr(self, name)}, expected 0 to 2**63 - 1")
        if self.group is not None and not (0 <= self.group.id < 2**63 and 0 <= self.group.member < self.group.size):
            raise WireError(f"segment: group is {self.group}, expected a member from 0 to its size - 1")
        for name in ("edge", "robot", "embodiment", "task"):
            if not isinstance(getattr(self, name), str):
                raise WireError(f"segment: {name} is {getattr(self, name)!r}, expected a string")
        for name, array in (*((name, getattr(self, name)) for name in ARRAYS), *self.observations.items()):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise WireError(f"segment: {name} holds a number that is not finite")
        for name in ("terminated", "truncated"):
            if getattr(self, name)[:-1].any():
                raise WireError(f"segment: {name} is set before the last step; a segment is a piece of one episode")
        start, first, executed, lag = (getattr(self, name).tolist() for name in CHUNK_INDICES)
        check_chunks(start, first, executed, lag, dims)


def check_arrays(
    arrays: Mapping[str, tuple[str, tuple[int, ...]]], observations: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Dimensions:
    """Check name -> (dtype, shape) of a segment's arrays against `ARRAYS`; WireError names the first at fault."""
    sizes: dict[str, int] = {}
    for name, (dtype, dims) in ARRAYS.items():
        if name not in arrays:
            raise WireError(f"segment: {name} is missing")
        found, shape = arrays[name]
        if found != dtype:
            raise WireError(f"segment: {name} has dtype {found}, expected {dtype}")
        if len(shape) != len(dims):
            raise WireError(f"segment: {name} has shape {shape}, expected ({', '.join(dims)})")
        for dim, size in zip(dims, shape, strict=True):
            key, size = ("N", size - 1) if dim == "N+1" else (dim, size)
            if size < 0 or sizes.setdefault(key, size) != size:
                raise WireError(
                    f"segment: {name} has shape {shape}, expected ({', '.join(dims)}) with {key} = "
                    f"{sizes.get(key, 'at least 0')}"
                )
    for name in arrays:
        if name not in ARRAYS:
            raise WireError(f"segment: {name} is not an array of a segment")
    if sizes["T"] < 1:
        raise WireError("segment: it has no steps")
    if sizes["P"] < sizes["D"]:
        raise WireError(f"segment: chunk_path has {sizes['P']} dims, an action has {sizes['D']}")
    for name, (_, shape) in observations.items():
        if not name.startswith(OBSERVATION_PREFIX):
            raise WireError(f"segment: observation {name!r} does not start with {OBSERVATION_PREFIX!r}")
        if not shape or shape[0] != sizes["T"] + 1:
            raise WireError(f"segment: {name} has shape {shape}, expected T + 1 = {sizes['T'] + 1} rows")
    return Dimensions(sizes["T"], sizes["C"], sizes["H"], sizes["N"], sizes["D"])


def check_chunks(start: list[int], first: list[int], executed: list[int], lag: list[int], dims: Dimensions) -> None:
    """Raise WireError unless every chunk's executed actions lie inside its horizon and before the next one's start."""
    free = 0
    for chunk, (s, f, n, ago) in enumerate(zip(start, first, executed, lag, strict=True)):
        if ago < 0:
            raise WireError(f"segment: chunk {chunk} has lag {ago}: it would start from an observation still to come")
        if s < 0 or n < 0 or s + n > dims.steps:
            raise WireError(f"segment: chunk {chunk} starts at step {s} and executes {n} of {dims.steps} steps")
        if s < free:
            raise WireError(f"segment: chunk {chunk} starts at step {s}, the one before it executes up to step {free}")
        free = s + n
        if f < 0 or f + n > dims.horizon:
            raise WireError(f"segment: chunk {chunk} executes {n} actions from {f} on, its horizon is {dims.horizon}")


if {field.name for field in fields(Segment)} < set(ARRAYS):  # the table and the class must not drift apart
    raise TypeError("Segment lacks an array that ARRAYS names")
