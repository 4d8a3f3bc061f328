"""What the processes do that the kill tests of log, spool and store kill: each says what it has achieved so far."""

from collections.abc import Callable
from pathlib import Path

from robotlearn.buffer.log import RecordLog
from robotlearn.buffer.spool import Spool
from robotlearn.buffer.store import SegmentStore
from robotlearn.wire import record
from tests.buffer.faults import KillingFiles, When
from tests.wire.make import make_segment

Say = Callable[..., None]
BATCHES = [[0, 1], [1, 2, 3], [4], [2, 5, 6, 7], [8, 9]]


def entry(number: int, size: int = 100) -> bytearray:
    """A log's entry that carries a number."""
    return record.pack(record.ENTRY, number.to_bytes(4, "little") + bytes(number % 251 for _ in range(size)), [], 0)


def stored(sequence: int, session: int = 1, **fields: object) -> bytearray:
    """The record of a segment, different for each sequence."""
    return record.encode(make_segment(seed=sequence, **fields), session=session, sequence=sequence)  # type: ignore[arg-type]


def append_to_log(say: Say, path: Path, at: int, when: When) -> None:
    files = KillingFiles(at, when)
    log = RecordLog(path, sync="power", file_bytes=500, files=files)
    for n in range(0, 12, 3):
        log.append(entry(n))
        log.append_many([entry(n + 1), entry(n + 2)])
        log.sync()
        say("synced", n + 2)
        if n == 6:
            log.drop_files_before(log.rotate())
    log.close()
    say("calls", files.calls)


def use_spool(say: Say, path: Path, at: int, when: When) -> None:
    files = KillingFiles(at, when)
    spool = Spool(path, edge="edge-a", sync="power", max_bytes=1 << 20, files=files)
    for n in range(16):
        spool.record(make_segment(starred=n % 5 == 0, image=75))  # 120 kB, a file each
        say("recorded", n)
        if n in (2, 9):
            spool.sync()
            for out in spool.take(1 << 30, 2):
                say("sent", out.sequence)
        if n == 11:
            spool.acknowledge([(spool.session, 0, 2)])
            say("acknowledged", n)
        if n == 12:
            spool.reject(spool.session, 5, "because")
            spool._ledger.compact(spool._sessions_on_disk(), force=True)
    say("evicted", spool.counts().evicted)
    spool.close()
    say("calls", files.calls)


def retry_in_spool(say: Say, path: Path, at: int, when: When) -> None:
    files = KillingFiles(at, when)
    spool = Spool(path, edge="edge-a", sync="power", max_bytes=1 << 20, files=files)
    for n in range(3):
        spool.record(make_segment(seed=n))
        say("recorded", n)
    for n in range(2):
        spool.reject(spool.session, n, "because")
        say("rejected", n)
    for session, sequence in spool.quarantined():
        spool.retry(session, sequence)
        say("retried", sequence)
    spool.close()
    say("calls", files.calls)


def append_to_store(say: Say, path: Path, at: int, when: When) -> None:
    files = KillingFiles(at, when)
    store = SegmentStore(path, file_bytes=9000, files=files)
    for batch in BATCHES:
        for outcome, sequence in zip(store.append([stored(n) for n in batch]), batch, strict=True):
            if outcome.kind in ("stored", "duplicate"):
                say("acknowledged", sequence)
    store.close()
    say("calls", files.calls)
