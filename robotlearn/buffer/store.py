"""The learner's memory: the log of segments that were received, and the set of those that were ever seen."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Buffer, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from robotlearn.buffer import snapshots
from robotlearn.buffer.files import Files
from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log import LogFull, RecordLog, Sync, rewritten
from robotlearn.buffer.log_files import LogFiles, Position
from robotlearn.buffer.snapshots import Removal, Seen, Snapshot
from robotlearn.errors import LogError, WireError
from robotlearn.wire import layout as layouts
from robotlearn.wire import record as records
from robotlearn.wire.layout import Layout
from robotlearn.wire.record import Prefix, RecordHeader
from robotlearn.wire.segment import Segment

logger = logging.getLogger("robotlearn.buffer")

Kind = Literal["stored", "duplicate", "invalid", "damaged"]


class Outcome(msgspec.Struct, gc=False):
    """What became of one record handed to `append`.

    stored: durable, at `position`. duplicate: stored before. invalid: can never be stored, for `reason`. damaged: its
    bytes can't be trusted, so not even its header can (None); the sender must send it again.
    """

    kind: Kind
    header: RecordHeader | None
    position: Position | None = None
    reason: str = ""


class SegmentStore:
    """Stores each segment once, whatever is sent twice or killed in between.

    A segment is known by (edge, session, sequence). The set of those seen is rebuilt at opening from its last snapshot
    and the headers in the log after it, so it survives restarts and `keep_only`. One process has it open at a time.
    Any thread may call anything; `append` waits for no other call for long.

    Always: stored = those in the files + `evicted` + `lost`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        sync: Sync = "power",
        file_bytes: int = 64 << 20,
        files: Files | None = None,
        misfit: Callable[[RecordHeader, Layout], str] = lambda header, layout: "",
    ) -> None:
        """Open or create. `misfit` says what is wrong with segments of a layout, "" for nothing; they are invalid then.

        Raises LogError when another process has it open or the disk fails.
        """
        self._misfit = misfit
        self.undecodable = 0
        """Times that a segment was read whose images can't be decoded: that isn't tried when it is stored."""
        self.path = Path(path)
        self._removing_lock = threading.Lock()  # order of locks: removing, this, seen
        self._lock = threading.Lock()  # held while a batch is written and synced
        self._seen_lock = threading.Lock()  # of `_seen` and of the counts, never held for long
        self._failed: LogError | None = None
        self._stored = self._evicted = self._lost = 0
        self._log = RecordLog(self.path / "records", sync=sync, file_bytes=file_bytes, files=files)
        with contextlib.ExitStack() as opened:
            opened.callback(self._log.close)
            self._snapshots = RecordLog(self.path / snapshots.FOLDER, sync=sync, file_bytes=1 << 20, files=files)
            opened.callback(self._snapshots.close)
            self._log.sync()  # what is found here counts as stored from now on
            self._load()
            opened.pop_all()
        self._snapshot_file = self._log.end.file

    @property
    def stored(self) -> int:
        """How many segments were ever stored, evicted ones included."""
        return self._stored

    @property
    def evicted(self) -> int:
        """How many of them were taken out again, on purpose."""
        return self._evicted

    @property
    def lost(self) -> int:
        """How many of them a repair found gone, or damaged."""
        return self._lost

    @property
    def end(self) -> Position:
        """Where the next record goes; what `scan` may be given later to see only what was stored from now on."""
        return self._log.end

    @property
    def records(self) -> LogFiles:
        """The log, to be read."""
        return self._log

    @property
    def corrupt(self) -> int:
        """Damaged records found in the log since opening."""
        return self._log.corrupt

    @property
    def bytes(self) -> int:
        """On disk."""
        return self._log.bytes + self._snapshots.bytes

    def append(self, batch: Sequence[Buffer], edges: Sequence[str | None] | None = None) -> list[Outcome]:
        """Check and store records; when this returns, all that are `stored` or `duplicate` are durable (one sync).

        `edges` names for each the edge that proved to have sent it, if one did: a record of another is invalid.

        Raises LogFull when there is no space (nothing of the batch is stored; try again later), LogError when the disk
        fails: then this store refuses every further append, since what is on the disk is no longer certain.
        """
        with self._lock:
            if self._failed is not None:
                raise self._failed
            outcomes = [Outcome("damaged", None)] * len(batch)
            checked: list[tuple[memoryview, Prefix, RecordHeader]] = []
            places: list[int] = []
            new: dict[tuple[str, int, int], int] = {}
            again: list[tuple[int, int]] = []  # within this batch: where, and where it was first
            for index, data in enumerate(batch):
                view = memoryview(data).cast("B")
                try:
                    fixed = records.check(view)
                    header = records.header_of(view, fixed)
                except WireError as error:
                    outcomes[index] = Outcome("damaged", None, None, str(error))
                    continue
                if edges is not None and edges[index] not in (None, header.edge):
                    reason = f"a record of edge {header.edge!r}, sent with the key of {edges[index]!r}"
                    outcomes[index] = Outcome("invalid", header, None, reason)
                    continue
                key = (header.edge, header.session, header.sequence)
                if self.seen(*key):
                    outcomes[index] = Outcome("duplicate", header)
                    continue
                if new.setdefault(key, index) != index:
                    again.append((index, new[key]))
                    continue
                checked.append((view, fixed, header))
                places.append(index)
            for index, (_, _, header), wrong in zip(places, checked, records.verify_many(checked), strict=True):
                reason = str(wrong) if wrong is not None else self._misfit(header, layouts.parse(bytes(header.tensors)))
                outcomes[index] = Outcome("invalid", header, None, reason) if reason else Outcome("stored", header)
            for index, first in again:
                outcome = outcomes[first]
                outcomes[index] = Outcome("duplicate", outcome.header) if outcome.kind == "stored" else outcome
            fresh = [(view, outcomes[place]) for place, (view, _, _) in zip(places, checked, strict=True)]
            fresh = [(view, outcome) for view, outcome in fresh if outcome.kind == "stored"]
            if not fresh:
                return outcomes
            positions = self._log.append_many([data for data, _ in fresh])
            try:
                self._log.sync()
            except LogError as error:
                self._failed = error
                raise
            with self._seen_lock:
                for (_, outcome), position in zip(fresh, positions, strict=True):
                    outcome.position = position
                    known = outcome.header
                    if known is not None:
                        self._seen_of(known.edge, known.session).add(known.sequence)
                self._stored += len(fresh)
            if self._log.end.file != self._snapshot_file:
                try:
                    self._write_snapshot()
                except LogError as error:  # what is stored is stored; opening only has more to read
                    logger.warning("store %s: no snapshot now, tried again later: %s", self.path, error)
        return outcomes

    def read(self, position: Position) -> Segment:
        """The segment at a position. Raises LogError when it is not there (any more), damaged, or can't be decoded."""
        return self._decode(self._log.read(position), position)

    def read_record(self, position: Position) -> memoryview:
        """The record at a position, as it was sent. Raises as `read` does."""
        return self._log.read(position)

    def scan(self, start: Position | None = None) -> Iterator[tuple[Position, Segment]]:
        """All stored segments from a position on (None: from the beginning), in the order of storing.

        What can't be decoded is passed over, and counted.
        """
        for position, view in self._log.scan(start):
            try:
                segment = self._decode(view, position)
            except LogError as error:
                logger.error("%s", error)
                continue
            yield position, segment

    def scan_headers(self, start: Position | None = None) -> Iterator[tuple[Position, RecordHeader]]:
        """As `scan`, but only the headers, which is fast: the tensors are not looked at."""
        for position, view in self._log.scan(start, verify=False):
            try:
                header = records.peek(view)
            except WireError as error:
                logger.error("store %s: record at %s can't be read: %s", self.path, position, error)
                continue
            yield position, header

    def seen(self, edge: str, session: int, sequence: int) -> bool:
        """Whether that segment was ever stored."""
        with self._seen_lock:
            known = self._seen.get((edge, session))
            return known is not None and sequence in known

    def settle_below(self, edge: str, session: int, floor: int) -> None:
        """The edge says that nothing below `floor` comes (again): holes there are closed, the set stays small."""
        with self._seen_lock:
            known = self._seen.get((edge, session))
            if known is not None and known.floor < floor <= known.end:
                known.fill_below(floor)

    def rotate(self) -> Position:
        """Go on in a new file, so that the one before may be worked on; returns where it starts."""
        with self._lock:
            start = self._log.rotate()
            self._log.sync()  # a snapshot that names the new file must not outlive it
            return start

    def drop_before(self, position: Position) -> int:
        """Evict all segments in files that end before a position. Returns how many files that were."""
        files = [number for number in self._log.file_sizes() if number < position.file]
        held = dict.fromkeys(files, 0)
        for place, _ in self._log.scan(verify=False):
            if place.file not in held:
                break
            held[place.file] += 1
        self.keep_only({number: ((), count) for number, count in held.items()})
        return len(files)

    def keep_only(
        self,
        files: Mapping[int, tuple[Sequence[Position], int]],
        limit_s: float = math.inf,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> dict[int, dict[Position, Position]]:
        """Evict segments: in each of these files only the positions named for it stay, and so many segments go.

        Returns, for each file that was worked on, where those that stayed are now; a file of which nothing stays is
        deleted. All stay `seen`. After `limit_s` [s] no file but the first is begun. What was appended last must be
        left alone: see `rotate`. Killed at any moment, each file is as before or as after, and the counts fit.
        `progress(files done, of how many)` is told on the way.

        Raises LogError when the disk fails or is full before anything moved; later that is only said, since whoever
        holds positions must follow what did.
        """
        until = time.monotonic() + limit_s
        moved: dict[int, dict[Position, Position]] = {}
        with self._removing_lock:
            sizes = self._log.file_sizes()
            plan = [
                Removal(number, sizes[number], sum(position.length for position in kept), gone)
                for number, (kept, gone) in sorted(files.items())
                if number in sizes
            ]
            if any(removal.file >= self._log.end.file for removal in plan):
                raise LogError(f"store {self.path}: of the file that is written to nothing can be evicted")
            left = {removal.file for removal in plan}
            with self._seen_lock:
                self._removing |= {removal.file: removal for removal in plan}
            try:
                with self._lock:
                    self._write_snapshot()  # what goes stays seen, and is counted, from here on
                for removal in plan:
                    if moved and time.monotonic() > until:
                        break
                    left.discard(removal.file)
                    kept = files[removal.file][0]
                    try:
                        moved[removal.file] = self._log.rewrite(removal.file, kept)
                    except LogError as error:
                        if self._log.file_sizes().get(removal.file, 0) != removal.after:
                            if not moved:
                                raise
                            logger.warning("store %s: eviction ends before its end: %s", self.path, error)
                            break
                        logger.warning("store %s: file %d was evicted from: %s", self.path, removal.file, error)
                        moved[removal.file] = rewritten(removal.file, kept)
                    with self._seen_lock:
                        del self._removing[removal.file]
                        self._evicted += removal.segments
                        if not removal.after:
                            self._dropped.add(removal.file)
                    progress(len(moved), len(plan))
            finally:
                with self._lock:
                    with self._seen_lock:
                        for number in left:
                            del self._removing[number]
                    try:
                        self._write_snapshot()
                    except LogError as error:  # the snapshot before it says the same of these files
                        if not moved and not isinstance(error, LogFull):
                            raise
                        logger.warning("store %s: no snapshot now, tried again later: %s", self.path, error)
        return moved

    def punch(self, file: int, damaged: Sequence[Position]) -> None:
        """For a repair: put holes where a finished file is damaged; nothing else in it moves. Raises as `keep_only`."""
        with self._removing_lock:
            self._log.punch(file, damaged)

    def recount(self) -> int:
        """For a repair: take what is in the files for all there is. What was stored and is not there, nor was evicted,
        is `lost` from now on. Returns how many more are lost than were before.
        """
        with self._removing_lock, self._lock:
            there, before = 0, self._lost
            with self._seen_lock:
                for _, header in self.scan_headers():
                    there += 1
                    self._stored += self._seen_of(header.edge, header.session).add(header.sequence)
                self._evicted = min(self._evicted, self._stored - there)
                self._lost = self._stored - there - self._evicted
                sizes = self._log.file_sizes()
                for number in set(range(max(sizes))) - sizes.keys():
                    self._dropped.add(number)
            self._write_snapshot()
            return self._lost - before

    def close(self) -> None:
        """Sync and release. Idempotent."""
        with self._lock:
            try:
                if self._log.open and self._failed is None:
                    self._write_snapshot()
            except LogFull:
                pass  # opening only has more to read
            finally:
                self._log.close()
                self._snapshots.close()

    def __enter__(self) -> SegmentStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _decode(self, data: memoryview, position: Position) -> Segment:
        try:
            return records.decode(data, verify=False)
        except WireError as error:
            self.undecodable += 1
            raise LogError(f"store {self.path}: the segment at {position} can't be decoded: {error}") from error

    def _seen_of(self, edge: str, session: int) -> IntervalSet:
        return self._seen.setdefault((edge, session), IntervalSet())

    def _load(self) -> None:
        noted = Snapshot(0, (0, 0), [], 0)
        for _, view in self._snapshots.scan():
            noted = snapshots.unpack(view, self.path)
        noted = noted.settled(sizes := self._log.file_sizes())
        try:
            self._seen = {(s.edge, s.session): IntervalSet(s.intervals) for s in noted.seen}
        except ValueError as error:
            raise LogError(f"store {self.path} holds a snapshot that makes no sense: {error}") from error
        self._removing: dict[int, Removal] = {}
        self._dropped = IntervalSet(noted.dropped)
        self._stored, self._lost = noted.stored, noted.lost
        if noted.evicted is None:  # of a version that did not count: whatever was not there then
            there = sum(position < noted.end for position, _ in self._log.scan(verify=False))
            for number in set(range(min(sizes))) - sizes.keys():
                self._dropped.add(number)
            self._evicted = max(0, noted.stored - there) if min(sizes) > 0 else 0
        else:
            self._evicted = noted.evicted
        # Where the files end before that, some were lost, and what comes may lie before it, too.
        whole = noted.end <= self._log.end
        for position, view in self._log.scan(noted.end if whole else None, verify=False):
            try:
                header = records.peek(view)
            except WireError as error:  # damaged since it was stored: a scan that checks counts it
                logger.error("store %s: record at %s can't be read: %s", self.path, position, error)
                continue
            self._stored += self._seen_of(header.edge, header.session).add(header.sequence)
        if not whole:
            with contextlib.suppress(LogFull):
                self._write_snapshot()

    def _write_snapshot(self) -> None:
        with self._seen_lock:
            end = self._log.end
            snapshot = Snapshot(
                self._stored,
                (end.file, end.offset),
                [Seen(edge, session, list(known)) for (edge, session), known in self._seen.items() if known.count],
                self._evicted,
                self._lost,
                list(self._dropped),
                list(self._removing.values()),
            )
        start = self._snapshots.rotate() if self._snapshots.bytes > 1 << 20 else None
        self._snapshots.append(snapshots.pack(snapshot))
        self._snapshots.sync()
        if start is not None:
            self._snapshots.drop_files_before(start)
        self._snapshot_file = end.file
