"""Labels of stored episodes and steps, beside the data and never in it: STORE/labels/NAME/v0001.npz, v0002.npz, ...

An advantage, what a classifier of outcomes says, a person's correction. A version is written once and whole; another
one has the next number. The data are never rewritten, and labels of episodes that were deleted do no harm.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.stored import EpisodeKey
from robotlearn.durable import sync_directory

FOLDER = "labels"
WHOLE = -1
"""The step of a label that holds for its whole episode."""
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,62}[A-Za-z0-9_\-])?")
_VERSION = re.compile(r"v(\d{4,})\.npz")
_ARRAYS = ("edge", "session", "episode", "step", "value")
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """K labels: (edge, session, episode, step) names what each belongs to, as a segment's fields do.

    edge     (K,) text; session, episode (K,) int64
    step     (K,) int64, within the episode; `WHOLE`: of all its steps that have no label of their own
    value    (K, W) float32; (K,) is taken as (K, 1)

    Raises DatasetError when they don't fit together, a value is not finite, or one step has two labels.
    """

    edge: Array
    session: Array
    episode: Array
    step: Array
    value: Array
    name: str = ""
    version: int = field(default=0)

    def __post_init__(self) -> None:
        value = np.asarray(self.value, np.float32)
        set_field = object.__setattr__
        set_field(self, "value", value[:, None] if value.ndim == 1 else value)
        set_field(self, "edge", np.asarray(self.edge, np.str_))
        for key in ("session", "episode", "step"):
            given = np.asarray(getattr(self, key))
            if given.size and given.dtype.kind not in "iu":
                raise DatasetError(f"labels: {key} is {given.dtype}, expected whole numbers")
            set_field(self, key, given.astype(np.int64))
        shapes = {key: getattr(self, key).shape for key in _ARRAYS}
        if self.value.ndim != 2 or not self.value.shape[1]:
            raise DatasetError(f"labels: value has shape {shapes['value']}, expected (K, W)")
        for key in _ARRAYS[:-1]:
            if shapes[key] != shapes["value"][:1]:
                raise DatasetError(
                    f"labels: {key} has shape {shapes[key]}, expected {shapes['value'][:1]} as value has"
                )
        if not np.isfinite(self.value).all():
            raise DatasetError("labels: a value is not finite")
        if (self.step < WHOLE).any():
            raise DatasetError(f"labels: a step is below {WHOLE}, which stands for the whole episode")
        if sum(len(rows) for rows in self._by_episode.values()) < len(self):
            raise DatasetError("labels: a step has two labels; average them, or write two names")

    def __len__(self) -> int:
        return len(self.step)

    @property
    def width(self) -> int:
        """W, how many numbers a label has."""
        return int(self.value.shape[1])

    @property
    def episodes(self) -> int:
        """How many episodes have a label."""
        return len(self._by_episode)

    def of(self, key: EpisodeKey, steps: int) -> tuple[Array, Array]:
        """(T, W) float32 of an episode's steps, 0 where there is none, and (T,) bool: where there is one."""
        rows = self._by_episode.get(key, {})
        values, given = np.zeros((steps, self.width), np.float32), np.zeros(steps, bool)
        if WHOLE in rows:
            values[:], given[:] = self.value[rows[WHOLE]], True
        for step, row in rows.items():
            if 0 <= step < steps:
                values[step], given[step] = self.value[row], True
        return values, given

    @cached_property
    def _by_episode(self) -> dict[EpisodeKey, dict[int, int]]:
        found: dict[EpisodeKey, dict[int, int]] = {}
        keys = zip(self.edge.tolist(), self.session.tolist(), self.episode.tolist(), self.step.tolist(), strict=True)
        for row, (edge, session, episode, step) in enumerate(keys):
            found.setdefault(EpisodeKey(edge, session, episode), {})[step] = row
        return found


class Version(NamedTuple):
    """One version of some labels, and its file."""

    name: str
    version: int
    path: Path


def write(folder: Path, name: str, labels: Labels) -> int:
    """A new version of the labels `name` of the store in `folder`; its number, 1 or more. Durable when this returns.

    Several processes may write at once; each gets a number of its own. Raises DatasetError, OSError.
    """
    if not _NAME.fullmatch(name):
        raise DatasetError(f"labels can't be called {name!r}: letters, digits, _, - and . (inside), at most 64")
    target = folder / FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, **{key: getattr(labels, key) for key in _ARRAYS})
    temporary = target / f".{secrets.token_hex(8)}.new"
    try:
        with temporary.open("wb") as stream:
            stream.write(packed.getvalue())
            stream.flush()
            os.fsync(stream.fileno())
        version = max((one.version for one in _versions(target)), default=0) + 1
        while True:
            try:
                os.link(temporary, target / f"v{version:04d}.npz")  # unlike a rename it replaces nothing
                break
            except FileExistsError:
                version += 1
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(target)
    return version


def read(folder: Path, name: str, version: int | None = None) -> Labels:
    """The labels `name`, or `NAME@VERSION`, of the store in `folder`; by default the newest. Raises DatasetError."""
    if "@" in name and version is None:
        name, _, number = name.partition("@")
        if not number.isdecimal():
            raise DatasetError(f"labels {name}@{number}: the version is a number, as in {name}@1")
        version = int(number)
    known = {one.version: one for one in versions(folder) if one.name == name}
    if not known:
        names = ", ".join(sorted({one.name for one in versions(folder)})) or "none"
        raise DatasetError(f"{folder} has no labels {name!r}; there are: {names}")
    found = known.get(max(known) if version is None else version)
    if found is None:
        raise DatasetError(f"{folder} has no version {version} of the labels {name!r}; the newest is {max(known)}")
    try:
        with np.load(found.path, allow_pickle=False) as packed:
            return Labels(**{key: packed[key] for key in _ARRAYS}, name=name, version=found.version)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{found.path} is damaged: {' '.join(str(error).split())}") from None


def versions(folder: Path) -> list[Version]:
    """All versions of all labels of the store in `folder`, by name, the oldest first."""
    root = folder / FOLDER
    names = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [one for path in names for one in sorted(_versions(path))]


def _versions(target: Path) -> Iterator[Version]:
    for path in target.iterdir():
        if match := _VERSION.fullmatch(path.name):
            yield Version(target.name, int(match[1]), path)
