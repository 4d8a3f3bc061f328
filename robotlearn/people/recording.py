"""`Recording`: a folder of demonstrations, in a log of segments as an edge records them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from envs import EnvOptions
from hal.spec import RobotSpec
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import Cell, observation_shapes, policy_dim
from robotlearn.config.config import Config
from robotlearn.durable import write_atomic
from robotlearn.edge.recorder import Origin, Recorder, Sizes
from robotlearn.people.errors import RecordingError
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment

EDGE = "record"
"""What the log calls the edge that a recording is."""
ABOUT = "recording.json"
SEGMENT_STEPS = 64
_ONE = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Shape:
    """What a policy's chunks are: H, N and the dims of its path; a run takes only segments of its own shape."""

    horizon: int
    path_steps: int
    path_dim: int

    @classmethod
    def of(cls, cell: Cell, config: Config | None, cells: list[Cell]) -> Shape:
        if config is None:
            return cls(1, 1, policy_dim([cell.spec]))
        width = config.policy.path_dim(policy_dim([each.spec for each in cells]))
        return cls(config.policy.horizon, config.policy.path_steps, width)


class Recording:
    """Demonstrations of one robot at one task, from `with` to the end of it.

    An episode is in memory until it is kept; then it is in the log, durable, before `keep` returns. So a kill at any
    moment loses the running episode at most; what a kill during `keep` left of one is no whole episode, and no reader
    takes it for one. Another process goes on with the folder.

    A step's proposed action is the person's, its executed one what safety made of it; all steps are interventions.

    path: the folder; made if need be. Raises RecordingError when it holds demonstrations of something else, LogError
    when another process records into it.
    """

    def __init__(self, path: Path, cell: Cell, options: EnvOptions, shape: Shape) -> None:
        self.path = path
        shapes = observation_shapes(cell, options)
        make_folder(path, content_of(cell, options, shape))
        self.successes = self.failures = self.discarded = 0
        """Whole episodes in the log; those of this process that were thrown away."""
        self._store = SegmentStore(path / "log")
        for _, header in self._store.scan_headers():
            if header.last:
                self._count(header.success)
        self._session, self._sequence = secrets.randbits(62), 0
        self._parts: list[Segment] = []
        dtypes = {key: np.dtype(np.uint8 if len(size) == 3 else np.float32) for key, size in shapes.items()}
        self._recorder = Recorder(
            1,
            Origin(EDGE, f"{EDGE}/{cell.spec.name}", cell.spec.embodiment),
            Sizes(
                {key: (size, dtypes[key]) for key, size in shapes.items()},
                shape.horizon,
                shape.path_steps,
                cell.spec.dim,
                shape.path_dim,
            ),
            max(SEGMENT_STEPS, shape.horizon),
            self._parts.extend,
        )

    def begin(self, observations: Mapping[str, NDArray[Any]], instruction: str) -> None:
        """An episode starts at these observations; one that was neither kept nor discarded is gone."""
        self._parts.clear()
        self._recorder.begin(_ONE, {key: value[None] for key, value in observations.items()}, [instruction])

    def step(
        self,
        observations: Mapping[str, NDArray[Any]],
        *,
        proposed: NDArray[Any],
        executed: NDArray[Any],
        held: bool,
        reward: float,
        terminated: bool,
        truncated: bool,
        success: bool,
        monotonic: float,
        wall: float,
    ) -> None:
        """One control step, and the observations after it. The last one is terminated or truncated."""
        self._recorder.step(
            _ONE,
            {key: value[None] for key, value in observations.items()},
            proposed=proposed[None],
            executed=executed[None],
            from_chunk=np.zeros(1, bool),
            intervention=np.ones(1, bool),
            held=np.array([held]),
            reward=np.array([reward], np.float32),
            terminated=np.array([terminated]),
            truncated=np.array([truncated]),
            success=np.array([success]),
            monotonic=monotonic,
            wall=wall,
        )

    def keep(self) -> None:
        """The episode that ended goes to the log. Raises LogError when the disk is full or fails; it is lost then."""
        parts, success = list(self._parts), any(part.success.any() for part in self._parts)
        self._parts.clear()
        batch = [
            records.encode(part, session=self._session, sequence=self._sequence + index)
            for index, part in enumerate(parts)
        ]
        self._sequence += len(batch)
        for outcome in self._store.append(batch):
            if outcome.kind != "stored":
                raise RecordingError(f"{self.path}: an episode can't be stored: {outcome.reason or outcome.kind}")
        self._count(success)

    def discard(self) -> None:
        """The running episode, or the one that ended and wasn't kept, is gone."""
        self._parts.clear()
        self.discarded += 1

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _count(self, success: bool) -> None:
        self.successes += success
        self.failures += not success


def check_folder(path: Path, cell: Cell, options: EnvOptions, shape: Shape) -> None:
    """Whether these demonstrations can be recorded there; makes nothing. Raises RecordingError."""
    check_content(path, content_of(cell, options, shape))


def make_folder(path: Path, content: Mapping[str, Any]) -> None:
    """A folder of demonstrations that says this of itself; one that is there must say it. Raises RecordingError."""
    check_content(path, content)
    if not (path / ABOUT).exists():
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / ABOUT, (json.dumps(content, indent=2) + "\n").encode())


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Whether demonstrations of which this holds can be put there; makes nothing. Raises RecordingError."""
    if path.exists() and not path.is_dir():
        raise RecordingError(f"{path} is no folder: choose another --out")
    if not (path / ABOUT).exists():
        if path.exists() and any(path.iterdir()):
            raise RecordingError(f"{path} isn't empty and holds no demonstrations: choose another --out")
        return
    found = about(path)
    for key, value in content.items():
        if found.get(key) != value:
            raise RecordingError(
                f"{path} holds demonstrations with {key} {found.get(key)!r}, these would have {value!r}: choose "
                "another --out"
            )


def successes(path: Path) -> int:
    """How many successful episodes a folder holds; 0 where there is none yet. Raises LogError: it is recorded into."""
    if not (path / ABOUT).exists():
        return 0
    with SegmentStore(path / "log") as store:
        return sum(header.last and header.success for _, header in store.scan_headers())


def about(path: Path) -> dict[str, Any]:
    """What a recording is of. Raises RecordingError."""
    try:
        found = json.loads((path / ABOUT).read_text())
    except FileNotFoundError:
        raise RecordingError(f"{path} is no folder of demonstrations: there is no {ABOUT} in it") from None
    except ValueError as error:
        raise RecordingError(f"{path / ABOUT} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise RecordingError(f"{path / ABOUT} is damaged: it holds no mapping")
    return found


def content_of(cell: Cell, options: EnvOptions, shape: Shape) -> dict[str, Any]:
    """What a folder says of demonstrations of a task of ours."""
    return content(cell.spec, cell.task.name, observation_shapes(cell, options), shape)


def content(
    spec: RobotSpec, task: str | None, observations: Mapping[str, tuple[int, ...]], shape: Shape
) -> dict[str, Any]:
    """What a folder says of its demonstrations. task: its name; None: it is none of ours."""
    return {
        "robot": spec.name,
        "task": task,
        "control_hz": spec.control_hz,
        "observations": {key: list(size) for key, size in observations.items()},
        "horizon": shape.horizon,
        "path_steps": shape.path_steps,
        "path_dim": shape.path_dim,
    }
