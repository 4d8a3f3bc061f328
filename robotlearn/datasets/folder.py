"""Putting episodes that were recorded elsewhere into a folder of demonstrations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robotlearn.buffer.store import SegmentStore
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.stored import EpisodeKey
from robotlearn.durable import write_atomic
from robotlearn.people import recording
from robotlearn.people.recording import ABOUT, EDGE, SEGMENT_STEPS, Shape
from robotlearn.wire import record as records
from robotlearn.wire.segment import ARRAYS, Segment

_IMPORTS = "imports"
Array = NDArray[Any]


class DemonstrationFolder:
    """A folder as `robotlearn record` makes it, to put whole episodes into: each once, however often it is offered.

    So an import that was killed goes on where it was when it is started again. content: what the folder says of itself,
    see `recording.content`. Raises RecordingError when it holds something else, LogError when it is in use.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        recording.make_folder(path, content)
        self.path = path
        self.added = self.successes = self.there = 0
        """Episodes put in now, those of them that succeeded, and those that were in it already."""
        self._store = SegmentStore(path / "log")

    def claim(self, session: int, source: str, how: Mapping[str, Any]) -> None:
        """Episodes of this session come from `source`, converted so. Raises DatasetError: others are there already."""
        about = recording.about(self.path)
        imports, now = dict(about.get(_IMPORTS) or {}), json.loads(json.dumps(dict(how)))
        before = imports.setdefault(f"{session:016x}", {"from": source, "how": now})["how"]
        other = [f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in now if before.get(key) != now[key]]
        if other:
            raise DatasetError(
                f"{self.path} has {source} already, imported with {'; '.join(other)}: import it with other options "
                "into another --out"
            )
        write_atomic(self.path / ABOUT, (json.dumps(about | {_IMPORTS: imports}, indent=2) + "\n").encode())

    def has(self, edge: str, session: int, sequence: int) -> bool:
        """Whether that segment is in it."""
        return self._store.seen(edge, session, sequence)

    def add(self, parts: Sequence[Segment]) -> None:
        """The segments of one whole episode, each with its own session and sequence; durable when this returns.

        Raises DatasetError when one can't be stored, LogError when the disk is full or fails.
        """
        batch = [records.encode(part, session=part.session, sequence=part.sequence) for part in parts]
        outcomes = self._store.append(batch)
        for outcome in outcomes:
            if outcome.kind not in ("stored", "duplicate"):
                raise DatasetError(f"{self.path}: an episode can't be stored: {outcome.reason or outcome.kind}")
        if all(outcome.kind == "duplicate" for outcome in outcomes):
            self.there += 1
            return
        self.added += 1
        self.successes += any(bool(part.success.any()) for part in parts)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def part_count(steps: int) -> int:
    """Of how many segments `pieces` makes an episode."""
    return -(-steps // SEGMENT_STEPS)


def pieces(
    key: EpisodeKey,
    sequence: int,
    embodiment: str,
    instruction: str,
    steps: Mapping[str, Array],
    observations: Mapping[str, Array],
    shape: Shape,
) -> list[Segment]:
    """An episode of which no policy's chunks are known, as segments of its own; the first has this sequence.

    steps: the arrays of a segment that have a row per step, (T, ...). observations: (T + 1, ...).
    """
    length, parts = len(steps["reward"]), []
    sizes = {"C": 0, "H": shape.horizon, "N": shape.path_steps, "N+1": shape.path_steps + 1, "P": shape.path_dim}
    empty: dict[str, Any] = {
        name: np.zeros([sizes[dim] for dim in dims], np.dtype(dtype))
        for name, (dtype, dims) in ARRAYS.items()
        if dims[0] == "C"
    }
    for part in range(part_count(length)):
        start = part * SEGMENT_STEPS
        end = min(length, start + SEGMENT_STEPS)
        rows: dict[str, Any] = {
            name: np.ascontiguousarray(values[start:end], np.dtype(ARRAYS[name][0])) for name, values in steps.items()
        }
        segment = Segment(
            edge=key.edge,
            session=key.session,
            sequence=sequence + part,
            robot=f"{EDGE}/{embodiment}",
            embodiment=embodiment,
            task=instruction,
            episode=key.episode,
            first_step=start,
            observations={name: np.ascontiguousarray(values[start : end + 1]) for name, values in observations.items()},
            **rows,
            **empty,
        )
        segment.validate()
        parts.append(segment)
    return parts
