"""Reading a log of records: by the process that appends to it, or by another one meanwhile."""

from __future__ import annotations

import logging
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from robotlearn.errors import LogError, WireError
from robotlearn.wire.layout import ALIGNMENT
from robotlearn.wire.record import MAGIC, PREFIX, check, is_hole, prefix

logger = logging.getLogger("robotlearn.buffer")

SUFFIX = ".log"
NEW = ".new"  # of a file that is to take the place of another one
_OPEN_FILES = 32  # kept open for reading
_READ_BYTES = 1 << 20  # read at once, or one record


class Position(NamedTuple):
    """Where a record lies: number of the file, offset in it, length. Positions sort in the order of appending."""

    file: int
    offset: int
    length: int


class _Reader:
    """A file open for reading, closed when its last user lets go of it."""

    __slots__ = ("descriptor",)

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class LogFiles:
    """The records in `path/0000000000000000.log`, `...1.log`, ...; any thread may call anything.

    Another process may delete whole files meanwhile, or exchange one for what is kept of it: `scan` passes over what is
    gone.
    """

    _tail_grows = False

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.corrupt = 0  # damaged records found by scans and reads, before the tail
        self.unfinished = 0  # bytes at the end of the last scan: a write that had not ended
        self._sizes: dict[int, int] = {}
        self._read_lock = threading.Lock()
        self._readers: OrderedDict[int, _Reader] = OrderedDict()
        self._known_corrupt: set[tuple[int, int]] = set()

    def file_sizes(self) -> dict[int, int]:
        """Bytes in each file, by its number, in order."""
        return dict(self._sizes)

    def read(self, position: Position, *, verify: bool = True) -> memoryview:
        """The record at a position, in memory of its own. Raises LogError when it isn't there or is damaged."""
        record = self.read_many((position,), verify=verify)[0]
        if isinstance(record, LogError):
            raise record
        return record

    def read_many(self, positions: Sequence[Position], *, verify: bool = True) -> list[memoryview | LogError]:
        """The records at these positions; what isn't there or is damaged is a LogError in its place.

        Neighbours are read together, so this is fastest for positions in order. `verify=False` takes the bytes as they
        are, which is right where somebody else checks them.
        """
        records: list[memoryview | LogError] = []
        for run in _runs(positions):
            start, size = run[0].offset, run[-1].offset + run[-1].length - run[0].offset
            try:
                reader = self._reader(run[0].file)
                data = memoryview(os.pread(reader.descriptor, size, start))
            except OSError as error:
                reason = error.strerror or str(error)
                records += [LogError(f"log {self.path}: {position} can't be read: {reason}") for position in run]
                continue
            for position in run:
                view = data[position.offset - start :][: position.length]
                try:
                    if verify:
                        check(view)
                    elif len(view) != position.length:
                        raise WireError("it is cut off")
                    records.append(view)
                except WireError as error:
                    self._found_corrupt(position.file, position.offset)
                    records.append(LogError(f"log {self.path}: {position} is damaged: {error}"))
        return records

    def glance(self, file: int, offset: int, length: int) -> bytes:
        """The bytes that lie there, or as many of them as do. Raises LogError when the file can't be read."""
        try:
            return os.pread(self._reader(file).descriptor, length, offset)
        except OSError as error:
            raise LogError(f"log {self.path}: file {file} can't be read: {error.strerror or error}") from error

    def scan(self, start: Position | None = None, *, verify: bool = True) -> Iterator[tuple[Position, memoryview]]:
        """All records from `start` (its record included) to `end` as it is now, in order; not what is a hole.

        The memoryviews are read-only and stay valid after the log is closed. What is damaged is stepped over and
        counted once in `corrupt`. `verify=False` looks only at the lengths, not at the checksums.
        """
        sizes, self.unfinished = self.file_sizes(), 0
        for number, size in sizes.items():
            if start is not None and number < start.file:
                continue
            offset = start.offset if start is not None and number == start.file else 0
            view = self._map(number, size)
            if view is None:
                continue
            size = len(view)  # it may have been exchanged for a shorter one
            while offset < size:
                length = record_at(view, offset, verify)
                if length:
                    if not is_hole(view, offset):
                        yield Position(number, offset, length), view[offset : offset + length]
                    offset += length
                    continue
                following = next_record(view, offset)
                if self._tail_grows and number == max(sizes) and _begun(view, offset):
                    self.unfinished = size - offset  # it is being written now, or was when its writer ended
                    return
                self._found_corrupt(number, offset)
                offset = size if following is None else following

    def pieces(self, number: int) -> Iterator[tuple[Position, memoryview, bool]]:
        """All bytes of a file in order: each undamaged record, holes included, and (True) what lies between them."""
        view = self._map(number, self._sizes[number])
        offset, size = 0, 0 if view is None else len(view)
        while view is not None and offset < size:
            length = record_at(view, offset, True)
            damaged = not length
            if damaged:
                following = next_record(view, offset)
                length = (size if following is None else following) - offset
            yield Position(number, offset, length), view[offset : offset + length], damaged
            offset += length

    def bytes_at(self, position: Position) -> memoryview:
        """What lies there, a record or not; fewer bytes where the file ends before."""
        view = self._map(position.file, self._sizes[position.file]) or memoryview(b"")
        return view[position.offset : position.offset + position.length]

    def holes(self, number: int) -> int:
        """Bytes of a file that are holes."""
        return sum(at.length for at, view, damaged in self.pieces(number) if not damaged and is_hole(view, 0))

    def _name(self, number: int) -> Path:
        return self.path / f"{number:016d}{SUFFIX}"

    def _reader(self, number: int) -> _Reader:
        """A file to read from; it is kept open for the next time."""
        with self._read_lock:
            reader = self._readers.get(number)
            if reader is None:
                reader = self._readers[number] = _Reader(self._name(number))
                if len(self._readers) > _OPEN_FILES:
                    self._readers.popitem(last=False)
            else:
                self._readers.move_to_end(number)
            return reader

    def _map(self, number: int, size: int) -> memoryview | None:
        """The first `size` bytes of a file, or all where it is shorter now; read-only. None when it is empty or was
        dropped meanwhile.
        """
        try:
            with self._name(number).open("rb") as stream:
                size = min(size, os.fstat(stream.fileno()).st_size)
                if not size:
                    return None
                return memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LogError(f"log {self.path}: file {number} can't be read: {error}") from error

    def _found_corrupt(self, number: int, offset: int) -> None:
        if (number, offset) not in self._known_corrupt:
            self._known_corrupt.add((number, offset))
            self.corrupt += 1
            logger.error("log %s: damaged record in file %d at offset %d", self.path, number, offset)

    def _look(self) -> dict[int, int]:
        names = [os.path.splitext(name) for name in os.listdir(self.path)]
        numbers = sorted(int(stem) for stem, suffix in names if suffix == SUFFIX and stem.isdigit())
        found = {}
        for number in numbers:  # after all were listed: behind which there is another one is finished
            with suppress(FileNotFoundError):
                found[number] = self._name(number).stat().st_size
        return found


class LogReader(LogFiles):
    """A log as it was when `refresh` was called last; another process may append to it. Changes nothing on disk."""

    _tail_grows = True

    def __init__(self, path: Path | str) -> None:
        """Raises LogError when there is no such folder or it can't be read."""
        super().__init__(path)
        self.refresh()

    def _map(self, number: int, size: int) -> memoryview | None:
        # A learner that comes again cuts off the end of the last file; in mapped memory that would end this process.
        if number != max(self._sizes, default=number):
            return super()._map(number, size)
        try:
            with self._name(number).open("rb") as stream:
                return memoryview(stream.read(size))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogError(f"log {self.path}: file {number} can't be read: {error}") from error

    def refresh(self) -> None:
        """Look which files there are now, and how long."""
        try:
            self._sizes = self._look()
            with self._read_lock:
                self._readers.clear()  # files may have been exchanged
        except OSError as error:
            raise LogError(f"log {self.path} can't be read: {error.strerror or error}") from error

    @property
    def end(self) -> Position:
        """Behind the last byte (of length 0)."""
        last = max(self._sizes, default=0)
        return Position(last, self._sizes.get(last, 0), 0)


def _runs(positions: Sequence[Position]) -> Iterator[list[Position]]:
    """Positions that lie one behind the other in a file, put together up to some size."""
    run: list[Position] = []
    for position in positions:
        if run:
            last = run[-1]
            follows = position.file == last.file and position.offset == last.offset + last.length
            if not follows or position.offset - run[0].offset > _READ_BYTES:
                yield run
                run = []
        run.append(position)
    if run:
        yield run


def record_at(view: memoryview, offset: int, verify: bool) -> int:
    """Length of the record at `offset`, 0 when there is no whole (and, if asked, undamaged) one."""
    try:
        length = prefix(view, offset).length
        if offset + length > len(view):
            return 0
        if verify:
            check(view[offset : offset + length])
        return length
    except WireError:
        return 0


def _begun(view: memoryview, offset: int) -> bool:
    """Whether the first part of a record lies at `offset`, and its rest is still to come."""
    try:
        return offset + prefix(view, offset).length > len(view)
    except WireError:
        return len(view) - offset < PREFIX


def next_record(view: memoryview, offset: int) -> int | None:
    """Offset of the first undamaged record after a damaged one; None when there is none in this file."""
    with suppress(WireError):
        following = offset + prefix(view, offset).length
        if following < len(view) and record_at(view, following, True):
            return following
    # The lengths themselves are damaged: look at every place where a record may start.
    for following in range(offset // ALIGNMENT * ALIGNMENT + ALIGNMENT, len(view), ALIGNMENT):
        if view[following : following + len(MAGIC)] == MAGIC and record_at(view, following, True):
            return following
    return None
