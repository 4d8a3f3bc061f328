"""A LeRobotDataset as a folder of demonstrations, such as `robotlearn record` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import xxhash

from envs.spaces import IMAGES
from hal.spec import RobotSpec
from robotlearn.cells import policy_dim
from robotlearn.datasets import sidecar
from robotlearn.datasets.conversion import Conversion
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.folder import DemonstrationFolder, part_count, pieces
from robotlearn.datasets.frames import ACTION, DONE, LOG_PROB, NOT_OURS, PROPOSED, STEPS, VERSION
from robotlearn.datasets.reading import LeRobotFolder
from robotlearn.datasets.stored import EpisodeKey
from robotlearn.people import recording
from robotlearn.people.recording import EDGE, Shape
from robotlearn.wire.segment import Segment

_PARTS = 1 << 20  # sequences that an episode may have
_DERIVED = {VERSION, LOG_PROB, DONE}  # of a dataset of ours: they follow from the rest
Rows = tuple[int, list[dict[str, Any]]]


@dataclass(frozen=True)
class Imported:
    """there: episodes that were in the folder already. left_out: features that were not taken. whole: the segments
    came back as they were, not frames only."""

    path: Path
    added: int
    successes: int
    there: int
    left_out: tuple[str, ...]
    whole: bool


def import_dataset(
    where: str,
    out: Path,
    spec: RobotSpec,
    conversion: Conversion | None = None,
    *,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Imported:
    """Adds the episodes of a dataset to `out`, each once: one that was killed goes on, one that ended changes nothing.

    where: a folder, `repo:USER/NAME` or USER/NAME; LeRobot isn't loaded. A dataset that `export` wrote gives the
    segments that it was made of, equal in all but images that were made a video; any other one demonstrations of a
    person, each a success with reward 1 at its end unless it says otherwise. progress(done, of): episodes.

    Raises DatasetError, RecordingError, LogError, before anything is made wherever that can be told.
    """
    how, dataset = conversion or Conversion(), LeRobotFolder(where)
    names = how.names(dataset.features, spec)
    seen = {key: key for key in dataset.features if key.startswith("observation.")}
    how.check_rate(dataset.fps, spec)
    if not dataset.episodes:
        raise DatasetError(f"{where} has no episodes")
    rows = sidecar.rows(dataset.folder) if how == Conversion() else iter(())
    ahead = next(rows, None)
    if ahead is not None and (found := ahead[1][0]["embodiment"]) != spec.embodiment:
        raise DatasetError(f"{where} holds episodes of {found}, not of {spec.embodiment}: --robot {found}")
    content = _content(dataset, names if ahead is None else seen, how, spec, ahead)
    recording.check_content(out, content)
    with DemonstrationFolder(out, content) as folder:
        progress(0, dataset.episodes)
        taking = (
            _frames(dataset, names, how, spec, folder)
            if ahead is None
            else _whole(dataset, chain([ahead], rows), folder)
        )
        for index, parts in taking:
            folder.add(parts)
            progress(index + 1, dataset.episodes)
        progress(dataset.episodes, dataset.episodes)
        known = {*names, *NOT_OURS, *_DERIVED, *(seen if ahead is not None else ())}
        left_out = tuple(key for key in dataset.features if key not in known)
        there = dataset.episodes - folder.added
        return Imported(out, folder.added, folder.successes, there, left_out, ahead is not None)


def _whole(
    dataset: LeRobotFolder, rows: Iterator[Rows], folder: DemonstrationFolder
) -> Iterator[tuple[int, list[Segment]]]:
    """Of each episode that isn't in the folder yet the segments that it was made of."""
    wanted: list[dict[str, Any]] = []

    def missing(index: int, length: int) -> bool:
        number, found = next(rows, (-1, []))
        if number != index:
            raise DatasetError(
                f"{dataset.folder}: {sidecar.PATH} lacks episode {index}; without it the frames can be imported"
            )
        wanted[:] = found
        return not all(folder.has(row["edge"], row["session"], row["sequence"]) for row in found)

    keys = {ACTION, PROPOSED, *STEPS, *(key for key in dataset.features if key.startswith("observation."))}
    for frames in dataset.read(keys, missing):
        try:
            arrays: dict[str, Any] = {name: frames.columns[key].reshape(-1) for key, (name, _) in STEPS.items()}
            arrays |= {"action_executed": frames.columns[ACTION], "action_proposed": frames.columns[PROPOSED]}
        except KeyError as error:
            raise DatasetError(f"{dataset.folder} has {sidecar.PATH}, but no feature {error}") from None
        arrays |= {key: values for key, values in frames.columns.items() if key.startswith("observation.")}
        yield frames.index, sidecar.segments(list(wanted), arrays, f"{dataset.folder}: episode {frames.index}")


def _frames(
    dataset: LeRobotFolder, names: Mapping[str, str], how: Conversion, spec: RobotSpec, folder: DemonstrationFolder
) -> Iterator[tuple[int, list[Segment]]]:
    """Of each episode that isn't in the folder yet what its frames make of it, as segments of an own session."""
    session = _identity(dataset)
    folder.claim(session, str(dataset.folder), how.describe())

    def missing(index: int, length: int) -> bool:
        parts = part_count(-(-length // how.every))
        return not all(folder.has(EDGE, session, index * _PARTS + part) for part in range(parts))

    for frames in dataset.read(set(names), missing):
        steps, observations = how.apply(frames, names, spec)
        key = EpisodeKey(EDGE, session, frames.index)
        parts = pieces(key, frames.index * _PARTS, spec.embodiment, frames.task, steps, observations, _shape(spec))
        yield frames.index, parts


def _identity(dataset: LeRobotFolder) -> int:
    """63 bits that are the same for the same data, wherever they lie: its statistics are of every number in it."""
    digest = xxhash.xxh3_64()
    for name in ("info.json", "stats.json"):
        path = dataset.folder / "meta" / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.intdigest() >> 1


def _shape(spec: RobotSpec) -> Shape:
    return Shape(1, 1, policy_dim([spec]))


def _content(
    dataset: LeRobotFolder, names: Mapping[str, str], how: Conversion, spec: RobotSpec, ahead: Rows | None
) -> dict[str, Any]:
    """What the folder says of itself: as before where the dataset was a recording of ours."""
    observed = {}
    for there, here in names.items():
        if here.startswith("observation."):
            size = dataset.features[there].shape
            observed[here] = (*how.image_size, 3) if here.startswith(IMAGES) and how.image_size else size
    if ahead is None:
        return recording.content(spec, None, observed, _shape(spec))
    first, about = ahead[1][0], sidecar.about(dataset.folder) or {}
    task = about.get("task")
    shape = Shape(first["horizon"], first["denoising_steps"], first["path_dim"])
    return recording.content(spec, task if isinstance(task, str) else None, observed, shape)
