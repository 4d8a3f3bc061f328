"""An append-only log of records in numbered files: the edge's spool and the learner's memory are both built on it."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from robotlearn.buffer.files import MAX_BUFFERS, Files
from robotlearn.buffer.log_files import NEW, LogFiles, Position, next_record, record_at
from robotlearn.errors import LogError
from robotlearn.wire.record import hole

Sync = Literal["process", "power"]
logger = logging.getLogger("robotlearn.buffer")


class LogFull(LogError):
    """Raised when the disk has no space for a record, or the process no descriptor for a file.

    The log is as it was before, and later appends may succeed.
    """


class RecordLog(LogFiles):
    """A log to append to, and to read from; each file is about `file_bytes` long.

    `append` hands a record to the operating system: from then on it survives the death of the process. With sync
    "power" it survives the loss of power once `sync` has returned; with "process" `sync` does nothing. So one `sync`
    may cover many appends. Opening truncates what an interrupted write left at the end (`torn_bytes`); a record that is
    damaged anywhere else is stepped over and counted (`corrupt`), never silently lost.

    One process has the log open at a time. Any thread may call anything; only appending holds the lock for long.
    """

    def __init__(self, path: Path | str, *, sync: Sync, file_bytes: int = 64 << 20, files: Files | None = None) -> None:
        """Open or create. Raises LogError when another process has it open, or when it can't be read or written."""
        if sync not in ("process", "power"):
            raise LogError(f"log {path}: sync is {sync!r}, expected 'process' or 'power'")
        super().__init__(path)
        self.torn_bytes = 0  # cut off at opening
        self.bytes = 0  # of all files
        self.power = sync == "power"
        self._file_bytes = file_bytes
        self._files = files or Files()
        self._append_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._rewrite_lock = threading.Lock()
        self._unsynced: list[int] = []  # descriptors of finished files, to be synced and closed
        self._directory_changed = False
        self._dirty = False
        self._finished: dict[int, int] = {}  # sizes of files that a batch has filled, while it may still fail
        self._broken_tail = False
        self._lost: str | None = None
        self._lock_file = -1
        self._descriptor = -1
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_file = lock(self.path)
            for left in self.path.glob("*" + NEW):  # of a rewriting that was killed
                self._files.remove(left)
            self._sizes = self._look()
            self.bytes = sum(self._sizes.values())
            if self._sizes:
                self._open_last()
            else:
                self._create(0)
            self._tail = Position(self._last, self._end, 0)
        except OSError as error:
            self._release()
            kind = LogFull if error.errno in _NO_SPACE else LogError
            raise kind(f"log {self.path} can't be opened: {error.strerror or error}") from error
        except BaseException:
            self._release()
            raise

    # ---- writing

    def append(self, record: bytes | bytearray | memoryview) -> Position:
        """Append one record, which must be whole and undamaged (it is not checked). See `append_many`."""
        length = len(record)
        with self._append_lock:
            if not self._broken_tail and 0 < self._end <= self._file_bytes - length and self._descriptor >= 0:
                # The common case, without the lists.
                try:
                    complete = self._files.write(self._descriptor, (record,)) == length
                except OSError as error:
                    self._undo((self._last, self._end))
                    raise self._failure(error) from error
                if complete:
                    position = Position(self._last, self._end, length)
                    self._end += length
                    self._committed(length)
                    return position
                self._undo((self._last, self._end))
        return self.append_many((record,))[0]

    def append_many(self, batch: Sequence[bytes | bytearray | memoryview]) -> list[Position]:
        """Append records in as few writes as it takes; returns their positions in the same order.

        Raises LogFull when there is no space, LogError when the disk fails; none of the batch is in the log then. May
        wait for the operating system to take the bytes, never for `sync`.
        """
        views = [memoryview(record) for record in batch]
        with self._append_lock:
            if self._descriptor < 0:
                raise LogError(f"log {self.path} is closed")
            start = (self._last, self._end)
            positions: list[Position] = []
            written = 0
            try:
                if self._broken_tail:
                    self._files.truncate(self._descriptor, self._end)
                    self._broken_tail = False
                while written < len(views):
                    if self._end and self._end + len(views[written]) > self._file_bytes:
                        self._rotate()
                    group = self._group(views, written)
                    self._write(self._descriptor, group)
                    for view in group:
                        positions.append(Position(self._last, self._end, len(view)))
                        self._end += len(view)
                    written += len(group)
            except OSError as error:
                self._undo(start)
                raise self._failure(error) from error
            self._committed(sum(position.length for position in positions))
        return positions

    def sync(self) -> None:
        """Make everything appended before this call durable, as `sync` at opening says. Blocks; appends go on.

        Raises LogError when the disk fails, and ever after: what was appended since the last sync may be lost.
        """
        if not self.power:
            self._close_finished()
            return
        with self._sync_lock:
            if self._lost is not None:  # the kernel forgets what it couldn't write: no later sync makes up for it
                raise LogError(self._lost)
            with self._append_lock:
                if self._descriptor < 0:
                    raise LogError(f"log {self.path} is closed")
                finished, self._unsynced = self._unsynced, []
                directory, self._directory_changed = self._directory_changed, False
                current = self._descriptor if self._dirty else -1
                self._dirty = False
            try:
                for descriptor in finished:
                    self._files.sync(descriptor)
                if current >= 0:
                    self._files.sync(current)
                if directory:
                    self._files.sync_directory(self.path)
            except OSError as error:
                self._lost = f"log {self.path} could not be made durable: {error.strerror or error}"
                raise LogError(self._lost) from error
            finally:
                for descriptor in finished:
                    os.close(descriptor)

    def rotate(self) -> Position:
        """Go on in a new file; returns the position where it starts (of length 0)."""
        with self._append_lock:
            try:
                self._rotate()
            except OSError as error:
                raise LogError(f"log {self.path}: no new file: {error.strerror or error}") from error
            self._committed(0)
            return self._tail

    def drop_files_before(self, position: Position) -> int:
        """Delete all files that end before `position`; returns how many. Raises LogError when one can't be deleted."""
        with self._append_lock:
            return self._drop([number for number in sorted(self._sizes) if number < position.file])

    def drop_file(self, number: int) -> bool:
        """Delete one finished file, wherever it stands in the order; False for the last one and for unknown ones."""
        with self._append_lock:
            return number != self._last and bool(self._drop([number] if number in self._sizes else []))

    def rewrite(self, number: int, kept: Sequence[Position]) -> dict[Position, Position]:
        """Leave only these records of a finished file, in this order, and delete the file when there are none; returns
        where each is now. With sync "power" this is durable when it returns. Blocks for the disk; appends go on.

        Killed at any moment it leaves the file as it was or as it is to be. Whoever knows positions in it must follow;
        views of what was read before stay as they are. Raises LogFull or LogError; then the file is as it was, or
        already as it is to be.
        """
        with self._rewrite_lock:
            self._exchange(number, self._views(number, kept))
        return rewritten(number, kept)

    def punch(self, number: int, damaged: Sequence[Position]) -> None:
        """Put holes in place of damaged bytes of a finished file; at its end they are cut off. Records don't move.

        Blocks, and is safe to kill, as `rewrite`; raises as it does.
        """
        with self._rewrite_lock:
            size = self._sizes.get(number, 0)
            parts, at = [], 0
            for position in sorted(damaged):
                parts += self._views(number, [Position(number, at, position.offset - at)])
                at = position.offset + position.length
                if at < size:
                    parts.append(memoryview(hole(position.length)))
            if at < size:
                parts += self._views(number, [Position(number, at, size - at)])
            self._exchange(number, [part for part in parts if len(part)])

    # ---- reading

    @property
    def open(self) -> bool:
        """Whether it was not closed yet."""
        return self._descriptor >= 0

    @property
    def end(self) -> Position:
        """Where the next record goes (of length 0). Never waits for a write."""
        return self._tail

    def written(self) -> dict[int, float]:
        """When each file was last written to, by its number: seconds since 1970, by the clock of that time."""
        with self._append_lock:
            return {number: self._name(number).stat().st_mtime for number in self._sizes}

    def close(self) -> None:
        """Sync, release the lock. Idempotent. Of a failed sync nothing is said a second time."""
        if self._descriptor >= 0:
            try:
                if self._lost is None:
                    self.sync()
            finally:
                with self._sync_lock:  # a sync of another thread uses the descriptor
                    self._release()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _views(self, number: int, positions: Sequence[Position]) -> list[memoryview]:
        view = self._map(number, self._sizes.get(number, 0)) or memoryview(b"")
        if any(position.offset + position.length > len(view) for position in positions):
            raise LogError(f"log {self.path}: file {number} is shorter than what is to be kept of it")
        return [view[position.offset : position.offset + position.length] for position in positions]

    def _exchange(self, number: int, content: list[memoryview]) -> None:
        """Put a file of this content in place of a finished one; without content that is deleted."""
        if number not in self._sizes or number >= self._tail.file:
            raise LogError(f"log {self.path}: no finished file {number} that could be rewritten")
        name = self._name(number)
        new = name.with_suffix(NEW)
        try:
            if content:
                descriptor = self._files.create(new)
                try:
                    for first in range(0, len(content), MAX_BUFFERS):
                        self._write(descriptor, content[first : first + MAX_BUFFERS])
                    if self.power:
                        self._files.sync(descriptor)
                finally:
                    os.close(descriptor)
                self._files.replace(new, name)
            else:
                self._files.remove(name)
            self._exchanged(number, sum(map(len, content)))
            if self.power:
                self._files.sync_directory(self.path)
        except OSError as error:
            with suppress(OSError):
                self._files.remove(new)
            kind = LogFull if error.errno in _NO_SPACE else LogError
            raise kind(f"log {self.path}: file {number} can't be rewritten: {error.strerror or error}") from error

    def _exchanged(self, number: int, size: int) -> None:
        """A finished file is of this size now; 0: it is gone."""
        with self._append_lock:
            self.bytes -= self._sizes[number] - size
            if size:
                self._sizes[number] = size
            else:
                del self._sizes[number]
        with self._read_lock:
            self._readers.pop(number, None)
            self._known_corrupt = {place for place in self._known_corrupt if place[0] != number}

    def _create(self, number: int) -> None:
        descriptor = self._files.create(self._name(number))
        self._descriptor, self._last, self._end = descriptor, number, 0
        self._sizes[number] = 0
        self._directory_changed = True

    def _open_last(self) -> None:
        self._last = max(self._sizes)
        self._descriptor = self._files.open(self._name(self._last))
        size = self._sizes[self._last]
        self._end = size
        view = self._map(self._last, size)
        offset = 0
        while view is not None and offset < size:
            offset += record_at(view, offset, True) or self._skip(view, offset, size)
        # What a process left that died before its sync may not be durable yet: one sync is owed.
        self._directory_changed = self._dirty = True
        if self.power:
            for number in sorted(self._sizes)[:-1]:
                descriptor = self._files.open(self._name(number))
                try:
                    self._files.sync(descriptor)
                finally:
                    os.close(descriptor)

    def _skip(self, view: memoryview, offset: int, size: int) -> int:
        """Deal with bytes that are no record at the end of the log; returns how far to go on."""
        following = next_record(view, offset)
        if following is not None:
            self._found_corrupt(self._last, offset)
            return following - offset
        self.torn_bytes = size - offset
        self.bytes -= self.torn_bytes
        self._end = self._sizes[self._last] = offset
        logger.info("log %s: %d bytes of an interrupted write cut off its end", self.path, self.torn_bytes)
        self._files.truncate(self._descriptor, offset)
        return size - offset

    def _group(self, views: Sequence[memoryview], first: int) -> list[memoryview]:
        """As many of the views as fit into this file and one write, at least one."""
        group = [views[first]]
        size = self._end + len(group[0])
        for view in views[first + 1 : first + MAX_BUFFERS]:
            size += len(view)
            if size > self._file_bytes:
                break
            group.append(view)
        return group

    def _write(self, descriptor: int, group: list[memoryview]) -> None:
        left = sum(map(len, group))
        while True:
            count = self._files.write(descriptor, group)
            left -= count
            if not left:
                return
            # A short write: the disk is full, which the next call will say, or a signal came.
            while count >= len(group[0]):
                count -= len(group[0])
                group = group[1:]
            group = [group[0][count:], *group[1:]]

    def _committed(self, length: int) -> None:
        # Only now: whoever reads by these sizes maps the files, and what failed is cut off again.
        self._sizes |= self._finished
        self._finished.clear()
        self._sizes[self._last] = self._end
        self._dirty = True
        self.bytes += length
        self._tail = Position(self._last, self._end, 0)  # in one assignment, for those who read it without the lock

    def _rotate(self) -> None:
        descriptor, number, end = self._descriptor, self._last, self._end
        self._create(number + 1)
        self._unsynced.append(descriptor)
        self._finished[number] = end

    def _undo(self, start: tuple[int, int]) -> None:
        """Take back a batch that failed half-way, files that it began included."""
        self._finished.clear()
        for number in range(self._last, start[0], -1):
            os.close(self._descriptor)
            self._descriptor = self._unsynced.pop()
            self._sizes.pop(number, None)
            self._last = number - 1
            with suppress(OSError):
                self._files.remove(self._name(number))
        self._end = self._sizes[self._last] = start[1]
        try:
            self._files.truncate(self._descriptor, self._end)
        except OSError:
            self._broken_tail = True  # tried again before the next write

    def _failure(self, error: OSError) -> LogError:
        kind = LogFull if error.errno in _NO_SPACE else LogError
        return kind(f"log {self.path}: a record could not be written: {error.strerror or error}")

    def _close_finished(self) -> None:
        with self._append_lock:
            finished, self._unsynced = self._unsynced, []
        for descriptor in finished:
            os.close(descriptor)

    def _drop(self, numbers: list[int]) -> int:
        for number in numbers:
            try:
                self._files.remove(self._name(number))
            except OSError as error:
                raise LogError(f"log {self.path}: file {number} can't be deleted: {error.strerror or error}") from error
            self.bytes -= self._sizes.pop(number)
            with self._read_lock:
                self._readers.pop(number, None)
        if numbers:
            self._directory_changed = True
        return len(numbers)

    def _release(self) -> None:
        with self._read_lock:
            descriptors = [*self._unsynced, self._descriptor, self._lock_file]
            self._readers.clear()
        self._unsynced, self._descriptor, self._lock_file = [], -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


# No space, and no descriptor left for a new file, as during a flood of connections: both may pass.
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE))


def lock(path: Path) -> int:
    """Take the log's lock, which goes with the descriptor; raises LogError naming the process that holds it."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LogError(f"log {path} is in use by process {owner}; stop it or choose another folder") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def rewritten(number: int, kept: Sequence[Position]) -> dict[Position, Position]:
    """Where each of these records is in a file that holds nothing else."""
    ends = itertools.accumulate((position.length for position in kept), initial=0)
    return {position: Position(number, start, position.length) for position, start in zip(kept, ends, strict=False)}
