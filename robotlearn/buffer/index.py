"""An index of a store's segments, in SQLite: made of the files alone, and made anew where it doesn't fit them."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robotlearn.buffer.log_files import LogFiles, Position
from robotlearn.errors import LogError, WireError
from robotlearn.wire import record as records

logger = logging.getLogger("robotlearn.buffer")

NAME = "index.sqlite"
_SCHEMA = 1  # of the table below; another one is made anew
_AT_ONCE = 10_000  # rows of one transaction


class Entry(NamedTuple):
    """One stored segment, as its header says; `file`, `offset`, `length`: where it lies."""

    file: int
    offset: int
    length: int
    edge: str
    session: int
    sequence: int
    robot: str
    embodiment: str
    task: str
    episode: int
    first_step: int
    steps: int
    last: bool
    success: bool
    starred: bool
    version: int

    @property
    def position(self) -> Position:
        return Position(self.file, self.offset, self.length)


class EpisodeEntry(NamedTuple):
    """One episode, of what is stored of it. `whole`: from its first step to its end. `versions`: oldest and newest."""

    edge: str
    session: int
    episode: int
    robot: str
    embodiment: str
    task: str
    segments: int
    steps: int
    nbytes: int
    whole: bool
    success: bool
    starred: bool
    versions: tuple[int, int]

    @property
    def key(self) -> EpisodeKey:
        return self.edge, self.session, self.episode


EpisodeKey = tuple[str, int, int]
"""(edge, session, episode)"""

_TEXTS = ("edge", "robot", "embodiment", "task")
_COLUMNS = ", ".join(f"{name} {'TEXT' if name in _TEXTS else 'INTEGER'} NOT NULL" for name in Entry._fields)
_TABLE = f"""
CREATE TABLE segments ({_COLUMNS}, PRIMARY KEY (file, offset)) WITHOUT ROWID;
CREATE INDEX episodes ON segments (edge, session, episode);
PRAGMA user_version = {_SCHEMA};
"""
_INSERT = f"INSERT OR REPLACE INTO segments VALUES ({', '.join('?' * len(Entry._fields))})"
_EPISODES = """
SELECT edge, session, episode, min(robot), min(embodiment), min(task), count(*), sum(steps), sum(length),
       max(last) AND sum(steps) = max(first_step + steps), max(success), max(starred),
       min(version), max(version)
FROM segments GROUP BY edge, session, episode ORDER BY max(file * 1099511627776 + offset)
"""


class SegmentIndex:
    """What is stored where, without reading it all. Used by one thread at a time.

    The process that has the store open keeps the index beside it; any other one takes a copy into its memory, and adds
    what the copy lacks. The files are the truth: `update` follows them.
    """

    def __init__(self, folder: Path, log: LogFiles, *, keep: bool) -> None:
        """`log`: the records in `folder`. `keep`: on disk, which only the process that has the store open may.

        Raises LogError when it can't be made.
        """
        self.path = folder / NAME
        self._log = log
        try:
            self._base = self._kept() if keep else self._copy()
            found = self._base.execute("SELECT DISTINCT file FROM segments").fetchall()
        except (sqlite3.Error, OSError) as error:
            raise LogError(f"index {self.path} can't be made: {error}") from error
        self._files = {file for (file,) in found}
        self._looked_at: dict[int, int] = {}
        """Sizes of finished files that the rows were found to fit: such a file can only become shorter."""

    def update(self, limit_s: float = math.inf) -> None:
        """Follow the files, for about `limit_s` [s] at most. Raises LogError when the disk fails or is full; a later
        call goes on where this one was.
        """
        try:
            self._drop_what_is_gone()
            self._add_what_is_new(time.monotonic() + limit_s)
        except sqlite3.Error as error:
            raise LogError(f"index {self.path}: {error}") from error

    def segments(self, after: Position | None = None) -> Iterator[Entry]:
        """All of them behind `after`, in the order of storing."""
        place = (-1, -1) if after is None else after[:2]
        query = "SELECT * FROM segments WHERE (file, offset) > (?, ?) ORDER BY file, offset"
        for row in self._base.execute(query, place):
            yield Entry._make((*row[:12], *map(bool, row[12:15]), row[15]))

    def episodes(self) -> Iterator[EpisodeEntry]:
        """All of them, in the order in which their last segments were stored."""
        for row in self._base.execute(_EPISODES):
            yield EpisodeEntry._make((*row[:9], *map(bool, row[9:12]), (row[12], row[13])))

    def of_episode(self, key: EpisodeKey) -> list[Position]:
        """Where its segments lie, in the order of storing."""
        where = "WHERE edge = ? AND session = ? AND episode = ?"
        return self._positions(where, key)

    def of_file(self, file: int) -> list[Position]:
        """Where the segments of a file lie, in its order."""
        return self._positions("WHERE file = ?", (file,))

    def covers(self, file: int, size: int) -> bool:
        """Whether a file of this size holds nothing but the segments known here, and holes."""
        known = sum(position.length for position in self.of_file(file))
        return known == size or (known < size and known + self._log.holes(file) == size)

    def episodes_of(self, file: int) -> Iterator[tuple[Position, EpisodeKey]]:
        """The segments of a file, each with its episode."""
        query = "SELECT file, offset, length, edge, session, episode FROM segments WHERE file = ?"
        for row in self._base.execute(query, (file,)):
            yield Position._make(row[:3]), row[3:]

    def _positions(self, where: str, values: Sequence[str | int]) -> list[Position]:
        query = f"SELECT file, offset, length FROM segments {where} ORDER BY file, offset"
        return [Position._make(row) for row in self._base.execute(query, values)]

    def __len__(self) -> int:
        return int(self._base.execute("SELECT count(*) FROM segments").fetchone()[0])

    def close(self) -> None:
        """Idempotent."""
        self._base.close()

    def __enter__(self) -> SegmentIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _kept(self) -> sqlite3.Connection:
        try:
            base = _fitting(_connect(self.path))
        except sqlite3.OperationalError:  # a full disk, say: it is not the index that is wrong
            raise
        except sqlite3.DatabaseError as error:
            logger.warning("index %s is made anew: %s", self.path, error)
            for name in (self.path, *self.path.parent.glob(NAME + "-*")):
                name.unlink(missing_ok=True)
            base = _fitting(_connect(self.path))
        # The last commits may go with the power, but what is there is whole; and readers don't wait.
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        return base

    def _copy(self) -> sqlite3.Connection:
        base = _connect(":memory:")
        # Without a journal nobody writes, and then SQLite makes no file of its own for those who read.
        how = "mode=ro" if self.path.with_name(NAME + "-wal").exists() else "mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?{how}", uri=True)) as there:
                there.backup(base)
            return _fitting(base)
        except sqlite3.DatabaseError:  # none, or damaged: then all comes from the files
            base.close()
            return _fitting(_connect(":memory:"))

    def _drop_what_is_gone(self) -> None:
        """Rows of files that were deleted, cut off after a loss of power, or exchanged; an exchanged file's are made
        anew, since only what comes behind the last row is added later.
        """
        sizes = self._log.file_sizes()
        newest = max(sizes, default=0)
        if self._of_another_store(sizes):
            with self._base:
                self._base.execute("DELETE FROM segments")
            self._files.clear()
            return
        for file in sorted(self._files):
            size = sizes.get(file, 0)
            if size and file < newest and self._looked_at.get(file) == size:
                continue
            last = self._last("WHERE file = ?", file)
            if last is None or not self._is(last, size):
                rows = self._rows_of(file) if file < newest else []
                with self._base:
                    if file < newest:
                        self._base.execute("DELETE FROM segments WHERE file = ?", (file,))
                        self._base.executemany(_INSERT, rows)
                    else:
                        beyond = "DELETE FROM segments WHERE file = ? AND offset + length > ?"
                        self._base.execute(beyond, (file, size))
            if file < newest:
                self._looked_at[file] = size
        self._files &= sizes.keys()
        self._looked_at = {file: size for file, size in self._looked_at.items() if file in self._files}

    def _of_another_store(self, sizes: Mapping[int, int]) -> bool:
        """Whether something else lies where the last row has its record, in a file that only grows."""
        last = self._last()
        if last is None or last.file != max(sizes, default=-1) or last.offset + last.length > sizes[last.file]:
            return False
        return not self._is(last, sizes[last.file])

    def _last(self, where: str = "", *values: int) -> Entry | None:
        query = f"SELECT * FROM segments {where} ORDER BY file DESC, offset DESC LIMIT 1"
        row = self._base.execute(query, values).fetchone()
        return Entry._make(row) if row is not None else None

    def _is(self, entry: Entry, size: int) -> bool:
        """Whether the record lies where the index has it, in a file of this size. Of it only the header is read."""
        if entry.offset + entry.length > size:
            return False
        try:
            fixed = records.prefix(self._log.glance(entry.file, entry.offset, records.PREFIX))
            start = self._log.glance(entry.file, entry.offset, records.PREFIX + fixed.header_length)
            header = records.header_of(memoryview(start), fixed)
        except (LogError, WireError):
            return False
        there = (fixed.length, header.edge, header.session, header.sequence)
        return there == (entry.length, entry.edge, entry.session, entry.sequence)

    def _rows_of(self, file: int) -> list[Entry]:
        rows: list[Entry] = []
        for position, view in self._log.scan(Position(file, 0, 0), verify=False):
            if position.file != file:
                break
            self._row(position, view, rows)
        return rows

    def _row(self, position: Position, view: memoryview, rows: list[Entry]) -> None:
        try:
            header = records.peek(view)
        except WireError as error:  # damaged since it was stored
            logger.error("index %s: the record at %s can't be read: %s", self.path, position, error)
            return
        rows.append(Entry._make((*position, *(getattr(header, name) for name in Entry._fields[3:]))))

    def _add_what_is_new(self, until: float) -> None:
        last = self._last()
        start = Position(last.file, last.offset + last.length, 0) if last is not None else None
        rows: list[Entry] = []
        for position, view in self._log.scan(start, verify=False):
            self._row(position, view, rows)
            if len(rows) == _AT_ONCE:
                self._add(rows)
                rows.clear()
            if time.monotonic() > until:
                break
        self._add(rows)

    def _add(self, rows: Sequence[Entry]) -> None:
        with self._base:
            self._base.executemany(_INSERT, rows)
        self._files.update(row.file for row in rows)


def _connect(path: Path | str) -> sqlite3.Connection:
    # One thread at a time uses it, not always the one that made it.
    return sqlite3.connect(path, check_same_thread=False)


def _fitting(base: sqlite3.Connection) -> sqlite3.Connection:
    """The same, with a table like ours; raises sqlite3.DatabaseError when it has another one or is damaged."""
    try:
        (schema,) = base.execute("PRAGMA user_version").fetchone()
        if schema == 0 and not base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            base.executescript(_TABLE)
        elif schema != _SCHEMA:
            raise sqlite3.DatabaseError(f"it has schema {schema}, this version {_SCHEMA}")
        if (found := base.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        return base
    except sqlite3.DatabaseError:
        base.close()
        raise
