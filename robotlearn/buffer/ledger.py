"""The accounts of a spool: what became of every record, kept durable as small entries in a log of their own.

Each record of a session (sequence 0, 1, 2, ...) is pending until it is settled: acknowledged, evicted or
rejected; a rejected one may be pending again, by a person's wish. An entry that is applied twice changes nothing. So,
whatever is killed between two writes, replaying gives
    recorded = acknowledged + evicted + rejected + pending.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from robotlearn.buffer.files import Files
from robotlearn.buffer.intervals import IntervalSet
from robotlearn.buffer.log import LogFull, RecordLog, Sync
from robotlearn.errors import LogError
from robotlearn.wire import record as records

logger = logging.getLogger("robotlearn.buffer")

Fate = Literal["acknowledged", "evicted", "rejected"]
_MAX_BYTES = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Range = tuple[Count, Count]  # [start, end) of sequences


class Settled(msgspec.Struct, tag="settled", forbid_unknown_fields=True):
    """These records of a session have met this fate."""

    session: Count
    fate: Fate
    ranges: list[Range]
    reason: str = ""


class Sent(msgspec.Struct, tag="sent", forbid_unknown_fields=True):
    """These records of a session may have reached the learner, so they are never evicted."""

    session: Count
    ranges: list[Range]


class Reopened(msgspec.Struct, tag="reopened", forbid_unknown_fields=True):
    """A record that was rejected is pending again: a person wants it sent once more."""

    session: Count
    sequence: Count


class SessionState(msgspec.Struct, forbid_unknown_fields=True):
    """A session inside a snapshot."""

    session: Count
    settled: list[Range]
    counts: dict[Fate, Count]
    sent: list[Range]


class Snapshot(msgspec.Struct, tag="snapshot", forbid_unknown_fields=True):
    """Everything that the entries before it said."""

    folded: dict[Fate, Count]
    sessions: list[SessionState]


Entry = Settled | Sent | Reopened | Snapshot
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_encoder = msgspec.msgpack.Encoder()


def _no_counts() -> dict[Fate, int]:
    return {"acknowledged": 0, "evicted": 0, "rejected": 0}


@dataclass(slots=True)
class Session:
    """What is known of one session of the spool."""

    settled: IntervalSet = field(default_factory=IntervalSet)
    counts: dict[Fate, int] = field(default_factory=_no_counts)
    sent: IntervalSet = field(default_factory=IntervalSet)  # or perhaps; settled ones may be among them or not
    recorded: int = 0  # sequences 0 to recorded - 1 were given out


class Ledger:
    """The sessions of a spool and the log of entries that they are rebuilt from.

    Not safe for use by two threads at once. When the disk is full, a reserve is given up so that records can still be
    settled, which is what frees space. Entries and reserve have about `max_bytes` each.
    """

    def __init__(self, path: Path, *, sync: Sync, max_bytes: int = _MAX_BYTES, files: Files | None = None) -> None:
        self._max_bytes = min(max_bytes, _MAX_BYTES)
        self._log = RecordLog(path / "ledger", sync=sync, file_bytes=4 * self._max_bytes, files=files)
        self._reserve = path / "reserve"
        self._has_reserve = False
        self._unwritten: list[bytearray] = []  # entries for which the disk had no space
        self.sessions: dict[int, Session] = {}
        self.folded: dict[Fate, int] = _no_counts()  # of sessions that nothing is left of
        try:
            for _, view in self._log.scan():
                self._apply(self._decode(view))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
            self._log.close()
            raise LogError(f"ledger {self._log.path} holds an entry that this version can't read: {error}") from error
        self._make_reserve()

    @property
    def bytes(self) -> int:
        """On disk, the reserve included."""
        return self._log.bytes + self._max_bytes * self._has_reserve

    @property
    def long(self) -> bool:
        """Whether there are so many entries that `compact` would begin them anew."""
        return self._log.bytes >= self._max_bytes

    def session(self, number: int) -> Session:
        """The session of that number, made if need be."""
        return self.sessions.setdefault(number, Session())

    def settle(self, session: int, fate: Fate, ranges: Sequence[Range], reason: str = "") -> None:
        """Count these records under a fate, those that were not settled yet, and write it down."""
        entry = Settled(session, fate, list(ranges), reason[:1024])
        self._apply(entry)
        self._write(entry)

    def reopen(self, session: int, sequence: int) -> None:
        """Make a rejected record pending again, and write it down, durable when this returns.

        Raises LogFull when there is no space; it stays rejected then.
        """
        entry = Reopened(session, sequence)
        self._write(entry)
        if not self.sync():
            self._unwritten.pop()
            raise LogFull(f"ledger {self._log.path}: no space to write down that a record is pending again")
        self._apply(entry)

    def mark_sent(self, ranges: Mapping[int, Sequence[Range]]) -> None:
        """Write down, durable when this returns, that these records of each session may have been sent.

        On a disk that takes nothing more it is known until this process ends only: what isn't sent is never freed.
        """
        for session, sent in ranges.items():
            entry = Sent(session, list(sent))
            self._apply(entry)
            self._write(entry)
        self._log.sync()

    def sync(self) -> bool:
        """Make all entries durable; the file of a settled record may be deleted only after this has returned True."""
        if self._unwritten:
            self._retry()
        if self._unwritten:
            return False
        self._log.sync()
        return True

    def total(self, fate: Fate) -> int:
        """How many records have met a fate, over all sessions."""
        return self.folded[fate] + sum(session.counts[fate] for session in self.sessions.values())

    def recorded(self) -> int:
        """How many sequences were given out, over all sessions."""
        return sum(self.folded.values()) + sum(session.recorded for session in self.sessions.values())

    def compact(self, on_disk: Iterable[int], *, force: bool = False) -> None:
        """Once the entries have grown long, begin them anew with a snapshot.

        Sessions whose records are all settled and that have no record left in any file (not `on_disk`) are folded into
        plain counts.
        """
        if not (self.long or force):
            return
        keep = set(on_disk)
        for number in [n for n, s in self.sessions.items() if n not in keep and s.settled.count == s.recorded]:
            for fate, count in self.sessions.pop(number).counts.items():
                self.folded[fate] += count
        for session in self.sessions.values():
            for low, high in session.settled:
                session.sent.add_range(low, high)  # which makes fewer and longer ranges, and nobody asks for these
        snapshot = Snapshot(
            dict(self.folded),
            [SessionState(n, list(s.settled), dict(s.counts), list(s.sent)) for n, s in self.sessions.items()],
        )
        try:
            start = self._log.rotate()
        except LogError as error:  # no space: later then
            logger.warning("ledger %s is not compacted: %s", self._log.path, error)
            return
        self._write(snapshot)
        if self.sync():
            self._log.drop_files_before(start)
        self._make_reserve()

    def close(self) -> None:
        """Sync and release. Idempotent."""
        self._log.close()

    def _apply(self, entry: Entry | None) -> None:
        match entry:
            case Settled():
                session = self.session(entry.session)
                for start, end in entry.ranges:
                    session.counts[entry.fate] += session.settled.add_range(start, end)
                    session.recorded = max(session.recorded, end)
            case Sent():
                session = self.session(entry.session)
                for start, end in entry.ranges:
                    session.sent.add_range(start, end)
            case Reopened():
                session = self.session(entry.session)
                if session.settled.remove(entry.sequence):
                    session.counts["rejected"] -= 1
            case Snapshot():
                self.folded = _no_counts() | entry.folded
                self.sessions = {
                    s.session: Session(
                        settled := IntervalSet(s.settled), _no_counts() | s.counts, IntervalSet(s.sent), settled.end
                    )
                    for s in entry.sessions
                }

    def _decode(self, view: memoryview) -> Entry | None:
        return _decoder.decode(view[records.PREFIX : records.PREFIX + records.prefix(view).header_length])

    def _write(self, entry: Entry) -> None:
        """Append an entry, and before it those that found no space; what finds none now is kept for later."""
        self._unwritten.append(records.pack(records.ENTRY, _encoder.encode(entry), [], 0))
        self._retry()

    def _retry(self) -> None:
        try:
            self._log.append_many(self._unwritten)
        except LogFull:
            if not self._has_reserve:
                return
            logger.warning("ledger %s: the disk is full; its reserve is given up", self._log.path)
            self._reserve.unlink()
            self._has_reserve = False
            with contextlib.suppress(LogFull):
                self._log.append_many(self._unwritten)
                self._unwritten.clear()
        else:
            self._unwritten.clear()

    def _make_reserve(self) -> None:
        """Take the reserve (back) where there is space; a full disk is what it is for, so that is no error."""
        if self._has_reserve:
            return
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._has_reserve = os.write(descriptor, bytes(self._max_bytes)) == self._max_bytes
        except OSError:
            self._has_reserve = False
        finally:
            os.close(descriptor)
        if not self._has_reserve:
            self._reserve.unlink()
