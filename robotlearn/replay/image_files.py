"""Where the images of one camera lie in the logs, and reading single rows of them from there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robotlearn.buffer.log_files import LogFiles, Position
from robotlearn.errors import LogError, WireError
from robotlearn.wire import encodings as codecs
from robotlearn.wire.encodings import RAW
from robotlearn.wire.record import ImagePlace, image_places

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]

_OPEN_FILES = 128  # of one camera: those of 8 GiB of a learner's log; others are opened anew for each batch
_AT_ONCE = 512  # rows that one call of the system reads at most (it takes 1,024), and
_BYTES_AT_ONCE = 64 << 20
_NOW = getattr(os, "RWF_NOWAIT", 0)  # of Linux: only what needs no disk

# What is known of each segment, a column of a table of int64. IMAGES: where they begin within the record.
SOURCE, FILE, OFFSET, LENGTH, IMAGES, STATE = range(6)
IS_RAW, IS_ENCODED, IS_GONE = range(3)


class _Run(NamedTuple):
    """Rows that lie one behind the other in a file, and where each is wanted."""

    segment: int  # of the first
    source: int
    file: int
    start: int
    into: list[memoryview]


class ImageFiles:
    """The places of all rows of one camera, numbered as their segments were added. Keeps no images.

    `read` and `decode` may run in any thread, but not while `add` or `move` does.
    """

    def __init__(self, key: str, shape: tuple[int, int, int]) -> None:
        self.key, self.shape = key, shape
        self.row_bytes = int(np.prod(shape))
        self.segments = 0
        self._first: Rows = np.zeros(64, np.int64)  # row of each segment, and behind the last
        self._table: NDArray[np.int64] = np.zeros((6, 64), np.int64)
        self._sources: list[LogFiles] = []
        self._open: dict[tuple[int, int], Any] = {}
        self._identities: dict[tuple[int, int], tuple[int, int]] = {}
        """Which file each was when its first segment was added; another process may put one in its place."""
        self._ends: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return int(self._first[self.segments])

    def place(self, source: LogFiles, position: Position, record: memoryview) -> ImagePlace:
        """Where in a record its images are. Raises LogError when it has none of this camera and shape."""
        try:
            place = image_places(record).get(self.key)
        except WireError as error:
            raise LogError(f"log {source.path}: {position} can't be read: {error}") from error
        if place is None or place.shape[1:] != self.shape:
            found = "none" if place is None else f"of shape {place.shape[1:]}"
            raise LogError(
                f"log {source.path}: {position} should have images {self.key!r} of {self.shape}, has {found}"
            )
        return place

    def add(self, source: LogFiles, position: Position, record: memoryview) -> ImagePlace:
        """Note where the images of the next segment lie; reads no pixel. Raises as `place`; nothing is noted then."""
        place = self.place(source, position, record)
        segment = self.segments
        if segment + 1 == len(self._first):
            self._first = np.concatenate((self._first, np.zeros_like(self._first)))
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), 1)
        state = IS_RAW if place.encoding == RAW else IS_ENCODED
        number = self._number(source)
        self._table[:, segment] = (number, *position, place.offset, state)
        self._note(number, position)
        self._first[segment + 1] = self._first[segment] + place.shape[0]
        self.segments += 1
        return place

    def rows(self, segment: int) -> tuple[int, int]:
        """First row of a segment, and the one behind its last."""
        return int(self._first[segment]), int(self._first[segment + 1])

    def state(self, segments: NDArray[np.int64] | int) -> Any:
        """IS_RAW, IS_ENCODED or IS_GONE, for each."""
        return self._table[STATE, segments]

    def find(self, rows: Rows) -> NDArray[np.int64]:
        """The segment of each row. Raises IndexError where there is none, LookupError where it is gone."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} were asked for, there are {len(self)}")
        segments = np.searchsorted(self._first[: self.segments + 1], rows, "right") - 1
        if (gone := self._table[STATE, segments] == IS_GONE).any():
            raise LookupError(f"row {rows[gone][0]} of {self.key!r} is gone with {self._said(int(segments[gone][0]))}")
        return segments

    def read(self, rows: Rows, segments: NDArray[np.int64], onto: Pixels, at: Rows) -> None:
        """Read rows of raw segments straight into the rows `at` of `onto`, (N, row bytes), without a copy between.

        What the page cache holds comes first; meanwhile the disk fetches the rest, all of it at once. The checksums
        aren't looked at, which would take whole records. Raises LogError where a record can't be read; rows of `onto`
        may have been filled then.
        """
        if not len(rows):
            return
        late = [run for run in self._runs(rows, segments, onto, at) if not (_NOW and self._fill(run, _NOW))]
        for run in late if len(late) > 1 else ():
            reader, size = self._reader(run), len(run.into) * self.row_bytes
            os.posix_fadvise(reader.descriptor, run.start, size, os.POSIX_FADV_WILLNEED)
        for run in late:
            if not self._fill(run, 0):
                raise LogError(f"log {self._sources[run.source].path}: {self._position(run.segment)} is cut off")

    def decode(self, segment: int) -> Pixels:
        """All images of a segment, (T+1, row bytes). Raises LogError when its record is damaged."""
        number, position = int(self._table[SOURCE, segment]), self._position(segment)
        source = self._sources[number]
        try:
            self._check(segment, source._reader(position.file))
        except OSError as error:
            raise LogError(f"log {source.path}: {position} can't be read: {error.strerror or error}") from error
        record = source.read(position)
        try:
            return self.images(record, image_places(record)[self.key])
        except (WireError, KeyError) as error:
            raise LogError(f"log {source.path}: {self.key!r} of {position} can't be decoded: {error}") from error

    def images(self, record: memoryview, place: ImagePlace) -> Pixels:
        """The images in a record, (T+1, row bytes). Raises WireError when they can't be decoded."""
        data = record[place.offset : place.offset + place.length]
        if place.encoding == RAW:
            return np.frombuffer(data, np.uint8).reshape(-1, self.row_bytes)
        return codecs.decode(place.encoding, data, place.shape).reshape(-1, self.row_bytes)

    def move(self, source: LogFiles, moved: Mapping[Position, Position | None]) -> list[int]:
        """Note where records lie from now on, None: nowhere. Returns the segments that are gone by it.

        Until then a file that was deleted may be held open here, and take space.
        """
        number, gone = self._number(source), []
        table = self._table[:, : self.segments]
        for file in {position.file for position in moved}:  # a reader may be of a file that was written anew
            for known_of in (self._open, self._identities, self._ends):
                known_of.pop((number, file), None)
        touched = np.isin(table[FILE], [position.file for position in moved])
        known = {
            self._position(segment): segment
            for segment in np.flatnonzero(touched & (table[SOURCE] == number) & (table[STATE] != IS_GONE)).tolist()
        }
        for segment, position in [(known[old], new) for old, new in moved.items() if old in known]:
            if position is None:
                table[STATE, segment] = IS_GONE
                gone.append(segment)
            else:
                table[[FILE, OFFSET, LENGTH], segment] = position
                self._note(number, position)
        return gone

    def _runs(self, rows: Rows, segments: NDArray[np.int64], onto: Pixels, at: Rows) -> Iterator[_Run]:
        table, size = self._table[:, segments], self.row_bytes
        starts = table[OFFSET] + table[IMAGES] + (rows - self._first[segments]) * size
        order = np.lexsort((starts, table[FILE], table[SOURCE]))
        starts, files, sources = starts[order], table[FILE, order], table[SOURCE, order]
        apart = (np.diff(starts) != size) | (np.diff(files) != 0) | (np.diff(sources) != 0)
        ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]
        # Lists from here on: NumPy would take longer for single numbers than the kernel does for a row.
        where = zip(*(each.tolist() for each in (segments[order], sources, files, starts)), strict=True)
        numbers, places = list(where), (at[order] * size).tolist()
        flat, most = memoryview(onto).cast("B"), max(1, min(_AT_ONCE, _BYTES_AT_ONCE // size))
        for low, high in pairwise(ends):
            for first in range(low, high, most):
                segment, source, file, start = numbers[first]
                into = [flat[place : place + size] for place in places[first : min(first + most, high)]]
                yield _Run(segment, source, file, start, into)

    def _fill(self, run: _Run, flags: int) -> bool:
        """Whether all of a run was read; without flags only the end of a file can be in the way."""
        reader = self._reader(run)  # its file is closed when nobody holds it any more
        try:
            return os.preadv(reader.descriptor, run.into, run.start, flags) == len(run.into) * self.row_bytes
        except OSError as error:
            if flags:  # not in the page cache, or a file system that can't tell
                return False
            raise self._unreadable(run, error) from error

    def _reader(self, run: _Run) -> Any:
        key = run.source, run.file
        if (reader := self._open.get(key)) is None:
            try:
                reader = self._sources[run.source]._reader(run.file)
                self._check(run.segment, reader)
            except OSError as error:
                raise self._unreadable(run, error) from error
            if len(self._open) < _OPEN_FILES:
                self._open[key] = reader
        return reader

    def _note(self, number: int, position: Position) -> None:
        """A segment lies there, in the file as it is now."""
        key = number, position.file
        self._ends[key] = max(self._ends.get(key, 0), position.offset + position.length)
        if key not in self._identities:
            with suppress(OSError):  # who reads from it is told
                found = os.stat(self._sources[number]._name(position.file))
                self._identities[key] = found.st_dev, found.st_ino

    def _check(self, segment: int, reader: Any) -> None:
        """Raises LogError when another file has taken the place of the one that was noted: raw rows have no checksum
        that would tell.
        """
        found, key = os.fstat(reader.descriptor), (int(self._table[SOURCE, segment]), int(self._table[FILE, segment]))
        same = self._identities.setdefault(key, (found.st_dev, found.st_ino)) == (found.st_dev, found.st_ino)
        if not same or found.st_size < self._ends.get(key, 0):
            raise LogError(f"log {self._sources[key[0]].path}: {self._position(segment)} can't be read: its file was "
                           "cut off or written anew, so nothing is surely where it was")  # fmt: skip

    def _unreadable(self, run: _Run, error: OSError) -> LogError:
        path = self._sources[run.source].path
        return LogError(f"log {path}: {self._position(run.segment)} can't be read: {error.strerror or error}")

    def _number(self, source: LogFiles) -> int:
        for number, known in enumerate(self._sources):
            if known is source:
                return number
        self._sources.append(source)
        return len(self._sources) - 1

    def _position(self, segment: int) -> Position:
        return Position(*self._table[[FILE, OFFSET, LENGTH], segment].tolist())

    def _said(self, segment: int) -> str:
        return f"{self._position(segment)} of log {self._sources[self._table[SOURCE, segment]].path}"
