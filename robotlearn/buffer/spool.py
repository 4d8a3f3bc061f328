"""The edge's log of segments: recorded here first, sent from here, kept until the learner has answered."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from robotlearn.buffer.files import Files
from robotlearn.buffer.ledger import Fate, Ledger, Range
from robotlearn.buffer.log import LogFull, RecordLog, Sync
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.order import Key, SendOrder
from robotlearn.buffer.quarantine import Quarantine
from robotlearn.errors import LogError, WireError
from robotlearn.wire import record as records
from robotlearn.wire.segment import Segment

logger = logging.getLogger("robotlearn.buffer")
_TELL_S = 10.0  # between two lines about rejected records: a learner may reject all of a long log


class SpoolFull(LogError):
    """Raised when a segment can't be recorded: no space on the disk, or nothing left in the spool that may be evicted.

    The segment is counted as refused, not as recorded; later ones are accepted as soon as there is space again.
    """


@dataclass(frozen=True)
class Counts:
    """recorded = acknowledged + evicted + rejected + pending, always. `refused` were never recorded (since opening)."""

    recorded: int
    acknowledged: int
    evicted: int
    rejected: int
    pending: int
    refused: int


class Outgoing(msgspec.Struct, gc=False):
    """A record on its way out of the spool."""

    session: int
    sequence: int
    record: memoryview


class _Entry(msgspec.Struct, gc=False):
    position: Position
    episode: int
    starred: bool
    last: bool
    at: float  # time.monotonic of its recording; may be negative


class Spool:
    """Records of this edge that the learner hasn't answered yet, and the accounts of all that there ever were.

    `record` gives session and sequence, encodes the segment once and appends it: after that it survives the death of
    this process; with sync "power" it survives the loss of power once `sync` has run, and is sent only then. `take`
    hands records out for sending, in the order of `SendOrder`; `acknowledge` and `reject` settle them. Each opening is
    a new session; what earlier sessions left is still sent. When the files grow beyond `max_bytes`, the oldest records
    are evicted, and by `expire` those older than `max_age_s`; never one in which a person intervened (starred), nor one
    that may have reached the learner already.

    One process has it open at a time (LogError names it otherwise). Any thread may call anything. `record` may wait for
    the operating system to take the bytes; it never waits for the learner.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        edge: str,
        sync: Sync = "process",
        max_bytes: int = 1 << 30,
        max_age_s: float = math.inf,
        files: Files | None = None,
    ) -> None:
        """Open or create. Raises LogError when another process has it open or the disk fails."""
        if max_bytes < 1 << 20:
            raise LogError(f"spool {path}: max_bytes is {max_bytes}, expected at least {1 << 20}")
        self.path = Path(path)
        self.edge = edge
        self.session = secrets.randbits(63)
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.full = ""  # why the last segment was refused; empty again once one is recorded
        self._record_lock = threading.Lock()  # order of locks: record, ledger, state
        self._ledger_lock = threading.RLock()
        self._state = threading.Lock()
        self._pending: dict[Key, _Entry] = {}
        self._unsent = SendOrder()
        self._live: dict[int, int] = {}  # file -> pending records in it
        self._in_file: dict[int, set[int]] = {}  # file -> sessions that have records in it
        self._filling = 0  # from this file on there may be records, just being recorded, that are not in `_live` yet
        self._sequence = 0
        self._lasts = 0
        self._mark = 0
        self._lost_lasts = 0
        self._refused = 0
        self._rejected_untold, self._rejected_told_at = 0, -math.inf
        self.recorded_bytes = 0  # of all records since opening
        self.recorded: Callable[[], None] | None = None  # called after each `record`, on its thread
        self._log = RecordLog(self.path / "records", sync=sync, file_bytes=min(max_bytes // 16, 64 << 20), files=files)
        with contextlib.ExitStack() as opened:
            opened.callback(self._log.close)
            self._ledger = Ledger(self.path, sync=sync, max_bytes=max_bytes // 32, files=files)
            opened.callback(self._ledger.close)
            self._quarantine = Quarantine(self.path / "quarantine", max_bytes=max(max_bytes // 8, 1 << 20))
            self._load()
            # Found after a restart, these may not be durable yet, and must be before they are sent.
            self._log.sync()
            opened.pop_all()
        self._durable = self._log.end
        self.session_state = self._ledger.session(self.session)

    # ---- the recorder's side

    def record(self, segment: Segment) -> int:
        """Record one segment; returns its sequence number within this session.

        Raises SpoolFull (counted as refused) or WireError when the segment's arrays don't fit together.
        """
        return self.record_many((segment,))[0]

    def record_many(self, segments: Sequence[Segment]) -> list[int]:
        """Record several segments in one write, which is faster; returns their sequence numbers.

        Raises as `record` does; then none of them is recorded, and where there was no room all are counted as refused.
        """
        with self._record_lock:
            first = self._sequence
            batch = [
                records.encode(segment, session=self.session, sequence=sequence)
                for sequence, segment in enumerate(segments, first)
            ]
            size = sum(map(len, batch))
            try:
                if self._log.bytes + self._ledger.bytes + size > self.max_bytes:
                    self._make_room(size)
                positions = self._log.append_many(batch) if len(batch) != 1 else [self._log.append(batch[0])]
            except (LogFull, SpoolFull) as error:
                self._refused += len(batch)
                self.full = str(error)
                raise SpoolFull(f"spool {self.path}: a segment is refused: {error}") from error
            self.full = ""
            now = time.monotonic()
            with self._state:
                for sequence, (segment, position) in enumerate(zip(segments, positions, strict=True), first):
                    last, starred = segment.last, segment.starred
                    self._lasts += last
                    key = (self.session, sequence)
                    self._add(key, _Entry(position, segment.episode, starred, last, now))
                    self._unsent.add(key, (self.session, segment.episode), starred=starred, last=last)
                self._sequence = self.session_state.recorded = first + len(batch)
                self.recorded_bytes += size
                self._filling = self._log.end.file
        if self.recorded is not None:
            self.recorded()
        return list(range(first, first + len(batch)))

    def sync(self) -> None:
        """Make what is recorded durable, as `sync` at opening says; the uplink does this before it sends. Blocks."""
        end = self._log.end
        if end != self._durable:
            self._log.sync()
            self._durable = end

    # ---- the uplink's side

    def take(self, max_bytes: int, max_count: int = 256) -> list[Outgoing]:
        """The next durable records to send, until they are `max_bytes` (the last one may exceed it) or `max_count`."""
        keys: list[tuple[Key, _Entry]] = []
        early: list[Key] = []  # not durable yet
        size = 0
        with self._ledger_lock:
            with self._state:
                while size < max_bytes and len(keys) < max_count and (key := self._unsent.next()) is not None:
                    entry = self._pending.get(key)
                    if entry is None:
                        continue
                    if entry.position >= self._durable:
                        early.append(key)
                        continue
                    size += entry.position.length
                    keys.append((key, entry))
                kept_up = not self._unsent
                self._unsent.put_back(early)
            keys.sort(key=_place)  # neighbours are read at once
            self._mark_sent(keys, kept_up)
        return self._read(keys)

    def take_again(self, keys: Iterable[Key] | None = None) -> None:
        """Let `take` hand out these records again, before all others; None: everything that is pending."""
        with self._state:
            if keys is None:
                self._order_all()
            else:
                self._unsent.put_back(keys)

    def acknowledge(self, ranges: Iterable[tuple[int, int, int]]) -> int:
        """The learner has stored (session, first sequence, count) for good; returns how many that settled.

        What is not pending is passed over: an acknowledgement may come twice.
        """
        return self._settle(self._recorded(ranges), "acknowledged")

    def _recorded(self, ranges: Iterable[tuple[int, int, int]]) -> Iterator[Key]:
        """What of these was recorded; wild counts, and the same said again and again, make it neither long nor large.
        """
        left: dict[int, int] = {}
        for session, first, count in ranges:
            known = self._ledger.sessions.get(session)
            recorded = known.recorded if known else 0
            end = min(first + count, recorded, first + left.get(session, recorded))
            if end > first:
                left[session] = left.get(session, recorded) - (end - first)
                yield from ((session, sequence) for sequence in range(first, end))

    def reject(self, session: int, sequence: int, reason: str) -> bool:
        """The learner can never store this record: move it to the quarantine folder. False when it isn't pending.

        It counts as rejected even where the quarantine can't be written; the log says so then.
        """
        with self._ledger_lock:
            with self._state:
                entry = self._pending.get((session, sequence))
            if entry is None:
                return False
            try:
                self._quarantine.put(session, sequence, self._log.read(entry.position, verify=False), reason)
            except LogError as error:
                logger.error("spool %s: record %016x-%d is lost to quarantine: %s", self.path, session, sequence, error)
            self._rejected_untold += 1
            if (now := time.monotonic()) - self._rejected_told_at > _TELL_S:
                more = f" (and {self._rejected_untold - 1} before it)" if self._rejected_untold > 1 else ""
                logger.warning("record %d of session %016x%s is rejected: %s", sequence, session, more, reason)
                self._rejected_untold, self._rejected_told_at = 0, now
            return bool(self._settle([(session, sequence)], "rejected", reason))

    def expire(self) -> int:
        """Evict what is older than `max_age_s`, as far as it may be evicted; returns how many records.

        The time that a computer was off counts by its clock and the files' own times.
        """
        limit = time.monotonic() - self.max_age_s
        with self._ledger_lock:
            with self._state:
                old = itertools.takewhile(lambda item: item[1].at < limit, self._pending.items())
                evicted = [key for key, entry in old if self._evictable(key, entry)]
            if evicted:
                logger.warning("spool %s: %d records are older than max_age_s and evicted", self.path, len(evicted))
            return self._settle(evicted, "evicted") if evicted else 0

    def retry(self, session: int, sequence: int) -> None:
        """Take a rejected record out of quarantine: it is pending again, and goes out as it was, so that it is stored
        once whatever is killed meanwhile. Raises LogError when it isn't there, is damaged or not of this spool, or when
        the disk fails.
        """
        key = (session, sequence)
        with self._record_lock, self._ledger_lock:
            data = self._quarantine.get(*key)
            if key not in self._pending:
                known = self._ledger.sessions.get(session)
                if known is None or sequence not in known.settled:
                    raise LogError(f"spool {self.path}: record {sequence} of session {session} was never recorded here")
                header = records.header_of(data, records.check(data))
                position = self._log.append(data)
                self.sync()
                entry = _Entry(position, header.episode, header.starred, header.last, time.monotonic())
                with self._state:
                    self._ledger.reopen(*key)
                    self._add(key, entry)
                    self._unsent.put_back((key,))
            self._quarantine.remove(*key)

    def quarantined(self) -> list[Key]:
        """What `retry` can take."""
        with self._ledger_lock:
            return list(self._quarantine)

    def head(self) -> tuple[int, int]:
        """(next sequence, last segments recorded) of this session, at one moment; `lost_lasts` counts from here."""
        with self._state:
            self._mark, self._lost_lasts = self._sequence, 0
            return self._sequence, self._lasts

    @property
    def lasts(self) -> int:
        """Last segments of episodes recorded in this session."""
        return self._lasts

    @property
    def lost_lasts(self) -> int:
        """Last segments, recorded since `head`, that were evicted or rejected: episodes that the learner never sees."""
        return self._lost_lasts

    def floors(self) -> list[tuple[int, int]]:
        """(session, sequence below which nothing comes any more) of the newest sessions, for the learner's set of seen
        ones. What lies in quarantine may come again.
        """
        with self._ledger_lock:
            floors = {number: session.settled.floor for number, session in self._ledger.sessions.items()}
            for session, sequence in self._quarantine:
                if session in floors:
                    floors[session] = min(floors[session], sequence)
            return list(floors.items())[-64:]

    # ---- both

    def counts(self) -> Counts:
        """The accounts, over all sessions that this spool has ever had."""
        with self._ledger_lock, self._state:
            total = self._ledger.total
            recorded = self._ledger.recorded()
            return Counts(
                recorded, total("acknowledged"), total("evicted"), total("rejected"), len(self._pending), self._refused
            )

    @property
    def needs_sync(self) -> bool:
        """Whether something was recorded since the last `sync`."""
        return self._log.end != self._durable

    @property
    def pending(self) -> int:
        """Records not answered yet."""
        return len(self._pending)

    @property
    def bytes(self) -> int:
        """On disk, without the quarantine (which has a bound of its own: an eighth of `max_bytes`)."""
        return self._log.bytes + self._ledger.bytes

    @property
    def corrupt(self) -> int:
        """Damaged records found since opening; they are counted as rejected."""
        return self._log.corrupt

    def close(self) -> None:
        """Sync and release. Idempotent."""
        if self._rejected_untold:
            logger.warning("spool %s: %d more records are rejected", self.path, self._rejected_untold)
            self._rejected_untold = 0
        with self._record_lock, self._ledger_lock:
            self._log.close()
            self._ledger.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside

    def _load(self) -> None:
        found: dict[Key, _Entry] = {}
        written = self._log.written()
        for position, view in self._log.scan(verify=False):
            if position.file not in self._live:
                self._live[position.file], self._in_file[position.file] = 0, set()
                at = time.monotonic() - max(0.0, time.time() - written[position.file])
            try:
                header = records.peek(view)
            except WireError as error:
                logger.error("spool %s: record at %s can't be read: %s", self.path, position, error)
                continue
            self._in_file[position.file].add(header.session)
            session = self._ledger.session(header.session)
            session.recorded = max(session.recorded, header.sequence + 1)
            if header.sequence not in session.settled:
                # A record that was moved (see `_make_room`) may be there twice; the later one stays.
                found[header.session, header.sequence] = _Entry(
                    position, header.episode, header.starred, header.last, at
                )
        order = {number: index for index, number in enumerate(self._ledger.sessions)}
        for key in sorted(found, key=lambda key: (order[key[0]], key[1])):
            self._add(key, found[key])
        self._order_all()
        for key in self._quarantine:
            if key in found:  # it was taken out of quarantine, or not yet put there, when the process ended
                self._quarantine.remove(*key)
        for number, session in self._ledger.sessions.items():
            present = [sequence for (s, sequence) in found if s == number]
            if session.settled.count + len(present) != session.recorded:
                missing = set(range(session.recorded)).difference(present)
                lost = _ranges(sequence for sequence in missing if sequence not in session.settled)
                logger.error("spool %s: session %d lost sequences %s to damage", self.path, number, lost)
                self._ledger.settle(number, "rejected", lost, "damaged in the spool")
        self._filling = self._log.end.file
        self._reclaim()

    def _order_all(self) -> None:
        self._unsent.clear()
        sessions = self._ledger.sessions
        for key, entry in self._pending.items():
            session, sequence = key
            known = sessions.get(session)
            sent = known is not None and sequence in known.sent
            self._unsent.add(key, (session, entry.episode), starred=entry.starred, last=entry.last, sent=sent)

    def _add(self, key: Key, entry: _Entry) -> None:
        self._pending[key] = entry
        file = entry.position.file
        if file not in self._live:
            self._live[file], self._in_file[file] = 0, set()
        self._live[file] += 1
        self._in_file[file].add(key[0])

    def _read(self, taken: list[tuple[Key, _Entry]]) -> list[Outgoing]:
        """The records of these entries; they come from the page cache when they were just written."""
        found: list[Outgoing] = []
        for (key, entry), data in zip(taken, self._log.read_many([entry.position for _, entry in taken]), strict=True):
            if not isinstance(data, LogError):
                found.append(Outgoing(*key, data))
                continue
            with self._state:
                now = self._pending.get(key)
            if now is None:
                continue  # settled meanwhile
            if now.position != entry.position:  # moved meanwhile
                found += self._read([(key, now)])
                continue
            logger.error("spool %s: record %d of session %d is damaged: %s", self.path, key[1], key[0], data)
            self.reject(*key, f"damaged in the spool: {data}")
        return found

    def _mark_sent(self, keys: list[tuple[Key, _Entry]], kept_up: bool) -> None:
        new: dict[int, list[int]] = {}
        for (session, sequence), _ in keys:
            if sequence not in self._ledger.session(session).sent:
                new.setdefault(session, []).append(sequence)
        if not new:
            return
        marks = {session: _ranges(sequences) for session, sequences in new.items()}
        if kept_up and self.session in marks:
            # Those to come at once: each mark costs a sync, and they are only kept from eviction. Not while records
            # wait, which may never be sent.
            start, end = marks[self.session][-1]
            marks[self.session][-1] = (start, end + self.max_bytes // 32 // keys[-1][1].position.length)
        self._ledger.mark_sent(marks)

    def _settle(self, keys: Iterable[Key], fate: Fate, reason: str = "") -> int:
        with self._ledger_lock:
            settled: dict[int, list[int]] = {}
            with self._state:
                for key in keys:
                    entry = self._pending.pop(key, None)
                    if entry is None:
                        continue
                    settled.setdefault(key[0], []).append(key[1])
                    self._live[entry.position.file] -= 1
                    if fate != "acknowledged" and entry.last and key[0] == self.session and key[1] >= self._mark:
                        self._lost_lasts += 1
                for session, sequences in settled.items():
                    self._ledger.settle(session, fate, _ranges(sequences), reason)
            self._reclaim()
            if self._ledger.long:
                self._ledger.compact(self._sessions_on_disk())
        return sum(map(len, settled.values()))

    def _sessions_on_disk(self) -> set[int]:
        with self._state:
            return {self.session, *(session for session, _ in self._quarantine)}.union(*self._in_file.values())

    def _reclaim(self) -> None:
        """Delete the files in which nothing is pending any more."""
        with self._state:
            settled = [file for file, live in self._live.items() if not live and file < self._filling]
        if not settled or not self._ledger.sync():  # what became of their records must outlive them
            return
        with self._state:
            for file in settled:
                self._live.pop(file, None)
                self._in_file.pop(file, None)
        for file in settled:
            self._log.drop_file(file)

    def _make_room(self, needed: int) -> None:
        """Empty the oldest files until `needed` bytes fit: evict what may be evicted, move the rest to the end."""
        with self._ledger_lock:
            before = self.bytes + 1
            while self.bytes + needed > self.max_bytes:
                # Without progress, as on a full disk that takes no entry of the ledger, it would go on for ever.
                file = self._file_to_empty() if self.bytes < before else None
                before = self.bytes
                if file is None:
                    raise SpoolFull(
                        f"it holds {self.bytes} of {self.max_bytes} bytes and nothing in it may be evicted "
                        "(starred, or perhaps already at the learner)"
                    )
                if file == self._log.end.file:
                    try:
                        self._filling = self._log.rotate().file
                    except LogError as error:
                        raise SpoolFull(str(error)) from error
                with self._state:
                    inside = [(key, entry) for key, entry in self._pending.items() if entry.position.file == file]
                evicted = [key for key, entry in inside if self._evictable(key, entry)]
                kept = [(key, entry) for key, entry in inside if not self._evictable(key, entry)]
                for key, entry in kept:
                    self._move(key, entry)
                if kept:  # durable at their new place before the old one goes
                    try:
                        self._log.sync()
                    except LogError as error:
                        raise SpoolFull(str(error)) from error
                if evicted:
                    logger.warning("spool %s is full: the %d oldest records are evicted", self.path, len(evicted))
                self._settle(evicted, "evicted")

    def _evictable(self, key: Key, entry: _Entry) -> bool:
        return not entry.starred and key[1] not in self._ledger.session(key[0]).sent

    def _file_to_empty(self) -> int | None:
        """The oldest file that would become smaller by at least an eighth."""
        kept: dict[int, int] = {}
        with self._state:
            for key, entry in self._pending.items():
                if not self._evictable(key, entry):
                    kept[entry.position.file] = kept.get(entry.position.file, 0) + entry.position.length
        for file, size in self._log.file_sizes().items():
            if size and kept.get(file, 0) <= size * 7 // 8:
                return file
        return None

    def _move(self, key: Key, entry: _Entry) -> None:
        with contextlib.suppress(LogError):  # damaged: found when it is sent
            position = self._log.append(self._log.read(entry.position, verify=False))
            with self._state:
                self._live[entry.position.file] -= 1
                self._add(key, msgspec.structs.replace(entry, position=position))


def _ranges(sequences: Iterable[int]) -> list[Range]:
    """Sorted sequences as half-open ranges."""
    ranges: list[Range] = []
    for sequence in sorted(sequences):
        if ranges and ranges[-1][1] == sequence:
            ranges[-1] = (ranges[-1][0], sequence + 1)
        else:
            ranges.append((sequence, sequence + 1))
    return ranges


def _place(taken: tuple[Key, _Entry]) -> Position:
    return taken[1].position
