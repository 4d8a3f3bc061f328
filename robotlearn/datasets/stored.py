"""Whole episodes of a store of segments, read while its owner may go on writing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from robotlearn.buffer.index import Entry, EpisodeEntry, SegmentIndex
from robotlearn.buffer.log_files import LogReader
from robotlearn.errors import LogError, WireError
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment

Only = Literal["all", "successes", "failures", "interventions"]
Array = NDArray[Any]
_FOLDERS = ("", "segments", "log")  # a store itself, a run's, a recording's


class EpisodeKey(NamedTuple):
    """What names an episode for ever."""

    edge: str
    session: int
    episode: int


@dataclass(frozen=True)
class Episode:
    """One whole episode: its segments in order, the first from step 0 on, the last one with the end."""

    parts: tuple[Segment, ...]

    def __len__(self) -> int:
        return sum(part.steps for part in self.parts)

    @property
    def key(self) -> EpisodeKey:
        first = self.parts[0]
        return EpisodeKey(first.edge, first.session, first.episode)

    @property
    def instruction(self) -> str:
        return self.parts[0].task

    @property
    def embodiment(self) -> str:
        return self.parts[0].embodiment

    @property
    def success(self) -> bool:
        return any(bool(part.success.any()) for part in self.parts)

    def steps(self, name: str) -> Array:
        """(T, ...): an array of the segments that has a row per step, such as reward."""
        return np.concatenate([getattr(part, name) for part in self.parts])

    @cached_property
    def observations(self) -> dict[str, Array]:
        """Key to (T + 1, ...): before each step, and after the last."""
        parts = self.parts
        return {
            key: np.concatenate([*(part.observations[key][:-1] for part in parts), parts[-1].observations[key][-1:]])
            for key in parts[0].observations
        }


def whole_episodes(segments: Iterable[Segment]) -> Iterator[Episode]:
    """Episodes whose segments follow one another; what isn't whole is stepped over."""
    parts: list[Segment] = []
    for segment in segments:
        last = parts[-1] if parts else None
        follows = last is not None and (segment.edge, segment.session, segment.episode, segment.first_step) == (
            last.edge, last.session, last.episode, last.first_step + last.steps,
        )  # fmt: skip
        if not follows:
            parts.clear()
        if follows or segment.first_step == 0:
            parts.append(segment)
            if segment.last:
                yield Episode(tuple(parts))
                parts.clear()


def store_folder(where: Path) -> Path:
    """The folder of stored segments that a run, a recording or a store is or has. Raises LogError."""
    for name in _FOLDERS:
        folder = where / name
        if (folder / "records").is_dir() and (folder / "seen").is_dir():
            return folder
    tried = " or ".join(str(where / name) for name in _FOLDERS)
    raise LogError(f"{where} holds no stored segments: there is no folder records in {tried}")


class StoredEpisodes:
    """What a store held of whole episodes when this was made. Changes nothing on disk; one thread at a time.

    where: a run, a recording, or a folder of stored segments. Raises LogError when it is none or can't be read.
    """

    def __init__(self, where: Path) -> None:
        self.folder = store_folder(where)
        self._log = LogReader(self.folder / "records")
        self._index = SegmentIndex(self.folder, self._log, keep=False)
        self._index.update()
        self._places: dict[EpisodeKey, list[Entry]] = defaultdict(list)
        for entry in self._index.segments():
            self._places[EpisodeKey(entry.edge, entry.session, entry.episode)].append(entry)

    def entries(self, robot: str | None = None, task: str | None = None, only: Only = "all") -> list[EpisodeEntry]:
        """The whole ones, in the order in which they were finished.

        robot: only of this robot, or of this model. task: only those in whose instruction these words are.
        """
        return [
            one
            for one in self._index.episodes()
            if one.whole
            and robot in (None, one.robot, one.embodiment)
            and (task or "") in one.task
            and (only != "successes" or one.success)
            and (only != "failures" or not one.success)
            and (only != "interventions" or one.starred)
        ]

    def read(self, entry: EpisodeEntry) -> Episode:
        """Raises LogError when it is gone since, damaged, or its images can't be decoded."""
        places = sorted(self._places[EpisodeKey(*entry[:3])], key=lambda one: one.first_step)
        parts = []
        for place, view in zip(places, self._log.read_many([one.position for one in places]), strict=True):
            if isinstance(view, LogError):
                raise view
            try:
                parts.append(records.decode(view, verify=False))
            except WireError as error:
                raise LogError(f"{self.folder}: the segment at {place.position} can't be decoded: {error}") from error
        return Episode(tuple(parts))

    def close(self) -> None:
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def recording_of(where: Path) -> Mapping[str, Any] | None:
    """What the recording says of itself that this is, or whose log it is; None where it is another store."""
    from robotlearn.people import recording

    for folder in (where, where.parent):
        if (folder / recording.ABOUT).is_file():
            return recording.about(folder)
    return None
