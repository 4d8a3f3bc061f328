"""Mending a damaged store: what is damaged goes into a folder beside it, the rest is whole again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from robotlearn.buffer import snapshots
from robotlearn.buffer.files import Files
from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log import lock
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.snapshots import Snapshot
from robotlearn.buffer.store import SegmentStore
from robotlearn.durable import sync_directory, write_atomic
from robotlearn.errors import LogError, WireError
from robotlearn.wire import record as records

QUARANTINE = "quarantine"

Key = tuple[str, int, int]
"""(edge, session, sequence)"""


@dataclass(frozen=True)
class Damage:
    """Bytes that are no good: where, why, and whose segment they were (None: that can't be read)."""

    position: Position
    reason: str
    key: Key | None = None

    @property
    def name(self) -> str:
        """Of its file in the quarantine."""
        return f"{self.position.file:016d}-{self.position.offset:012d}.bytes"


@dataclass
class Survey:
    """What is wrong with a store. `missing`: files that are gone. `lost`: segments that are not there (any more) and
    whose names are known; `nameless`: so many more that were stored and are neither there nor were evicted.
    `without_notes`: what was stored, evicted and lost was not noted any more.
    """

    damaged: list[Damage] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    segments: int = 0
    lost: list[Key] = field(default_factory=list)
    nameless: int = 0
    without_notes: bool = False

    def ranges(self) -> list[tuple[str, int, list[tuple[int, int]]]]:
        """The lost ones by edge and session, their sequences as intervals [start, end)."""
        found: dict[tuple[str, int], IntervalSet] = {}
        for edge, session, sequence in self.lost:
            found.setdefault((edge, session), IntervalSet()).add(sequence)
        return [(edge, session, list(sequences)) for (edge, session), sequences in sorted(found.items())]

    @property
    def report(self) -> dict[str, object]:
        """As plain values."""
        return {
            "damaged": [
                {"file": one.position.file, "offset": one.position.offset, "bytes": one.position.length}
                | {"reason": one.reason, "kept_as": one.name}
                | (dict(zip(("edge", "session", "sequence"), one.key, strict=True)) if one.key else {})
                for one in self.damaged
            ],
            "missing_files": self.missing,
            "lost": [{"edge": e, "session": f"{s:016x}", "sequences": ranges} for e, s, ranges in self.ranges()],
            "lost_nameless": self.nameless,
            "without_notes": self.without_notes,
        }


def survey(folder: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> Survey:
    """Read all of a store and say what a repair would mend; changes nothing. `progress(bytes read, of how many)`.

    Raises LogError when there is no store or it can't be read.
    """
    log = LogReader(folder / "records")
    sizes, found = log.file_sizes(), Survey(without_notes=not (folder / snapshots.FOLDER).is_dir())
    noted = (Snapshot(0, (0, 0), []) if found.without_notes else snapshots.last(folder)).settled(sizes)
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    there: set[Key] = set()
    for file in sizes:
        for position, view, unreadable in log.pieces(file):
            progress(starts[file] + position.offset + position.length, sum(sizes.values()))
            if unreadable:
                tail = position.offset + position.length == sizes[file] and file == log.end.file
                reason = "a write that did not end, or damage" if tail else "no whole record with a right checksum"
                found.damaged.append(Damage(position, reason, _key_in(view)))
            elif not records.is_hole(view, 0):
                _look_at(position, view, found, there)
    dropped = IntervalSet(noted.dropped)
    found.missing = [file for file in range(max(sizes, default=0)) if file not in sizes and file not in dropped]
    if noted.evicted is None:  # of a version that did not note which it deleted
        found.missing = [file for file in found.missing if file > min(sizes)]
    lost = {one.key for one in found.damaged if one.key is not None} | set(_indexed(folder, log, found))
    seen = {(one.edge, one.session): IntervalSet(one.intervals) for one in noted.seen}
    found.lost = sorted(key for key in lost - there if key[2] in seen.get(key[:2], IntervalSet()))
    found.segments = len(there)
    new = sum(key[2] not in seen.get(key[:2], IntervalSet()) for key in there)
    gone = noted.stored + new - len(there) - (noted.evicted or 0) - noted.lost
    if noted.evicted is not None or min(sizes, default=0) == 0:
        found.nameless = max(0, gone - len(found.lost))
    return found


def repair(
    folder: Path, progress: Callable[[int, int], None] = lambda done, of: None, files: Files | None = None
) -> Survey:
    """Mend what a survey finds, which is returned. `verify` finds nothing afterwards.

    Damaged bytes are copied into `folder`/quarantine, with a report, before holes take their place; nothing that is
    whole moves, so that positions in checkpoints stay right. What was stored and is gone is counted as lost, and is
    known still: no edge's copy is stored under its name again. The index is made anew. Killed at any moment, the next
    repair ends it.

    Raises LogError when another process has the store open, or when the disk fails or is full.
    """
    with _locked(folder / "records"):
        found = survey(folder, progress)
        if found.damaged or found.missing or found.lost or found.nameless:
            _set_aside(folder, found)
        for path in folder.glob(NAME + "*"):
            path.unlink()
    with SegmentStore(folder, files=files) as store:
        sizes = store.records.file_sizes()
        damaged: dict[int, list[Position]] = {}
        for one in found.damaged:
            if one.position.offset < sizes[one.position.file]:  # else it was at the end, which opening cut off
                damaged.setdefault(one.position.file, []).append(one.position)
        if store.end.file in damaged:
            store.rotate()
        for file, positions in damaged.items():
            store.punch(file, positions)
        store.recount()
        with SegmentIndex(folder, store.records, keep=True) as index:
            index.update()
    return found


def _look_at(position: Position, view: memoryview, found: Survey, there: set[Key]) -> None:
    try:
        fixed = records.prefix(view)
        header = records.header_of(view, fixed)
        records.verify_checked(view, fixed, header)
    except WireError as error:
        found.damaged.append(Damage(position, str(error), _key_in(view)))
        return
    key = (header.edge, header.session, header.sequence)
    if key in there:
        found.damaged.append(Damage(position, "it is there twice", key))
    there.add(key)


def _key_in(view: memoryview) -> Key | None:
    """Whose segment it was, if so much of a damaged record can be read."""
    try:
        header = records.header_of(view, records.prefix(view))
    except WireError:
        return None
    return header.edge, header.session, header.sequence


def _indexed(folder: Path, log: LogReader, found: Survey) -> Iterator[Key]:
    """What the index, as it was left, has in the files in which something is missing."""
    files = {one.position.file for one in found.damaged} | set(found.missing) | {log.end.file}
    with SegmentIndex(folder, log, keep=False) as index:
        for entry in index.segments():
            if entry.file in files or entry.file > log.end.file:
                yield entry.edge, entry.session, entry.sequence


def _set_aside(folder: Path, found: Survey) -> None:
    aside, log = folder / QUARANTINE, LogReader(folder / "records")
    try:
        aside.mkdir(exist_ok=True)
        sync_directory(folder)
        for one in found.damaged:
            write_atomic(aside / one.name, bytes(log.bytes_at(one.position)))
        number = len(list(aside.glob("repair-*.json")))
        write_atomic(aside / f"repair-{number:04d}.json", json.dumps(found.report, indent=1).encode())
    except OSError as error:
        raise LogError(f"{aside} can't be written, so nothing is repaired: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = lock(path)
    except OSError as error:
        raise LogError(f"log {path} can't be opened: {error.strerror or error}") from error
    try:
        yield
    finally:
        os.close(descriptor)
