"""The spool: recorded = acknowledged + evicted + rejected + pending, whatever happens to it."""

import errno
import itertools
import math
import os
from collections.abc import Buffer, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from robotlearn.buffer.files import Files
from robotlearn.buffer.spool import Counts, Spool, SpoolFull
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.faults import FullFiles, When, run_until_killed
from tests.buffer.victims import retry_in_spool, use_spool
from tests.wire.make import make_segment

MB = 1 << 20


def open_spool(path: Path, **options: Any) -> Spool:
    return Spool(path, edge="edge-a", **({"sync": "power", "max_bytes": 64 * MB} | options))


def balanced(spool: Spool) -> Counts:
    counts = spool.counts()
    assert counts.recorded == counts.acknowledged + counts.evicted + counts.rejected + counts.pending
    return counts


def sequences(spool: Spool) -> list[int]:
    """Everything that is pending, in the order in which it would be sent."""
    spool.sync()
    spool.take_again()
    return [out.sequence for out in spool.take(1 << 40, 10**6)]


def fill(spool: Spool, count: int, **fields: Any) -> list[int]:
    return [spool.record(make_segment(**fields)) for _ in range(count)]


def test_a_record_carries_its_session_and_sequence_and_is_taken_once(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        assert fill(spool, 3) == [0, 1, 2]
        spool.sync()
        taken = spool.take(1 << 30)
        headers = [record.verify(out.record) for out in taken]
        assert [(h.edge, h.session, h.sequence) for h in headers] == [("edge-a", spool.session, n) for n in range(3)]
        assert spool.take(1 << 30) == []
        spool.take_again([(spool.session, 1)])
        assert [out.sequence for out in spool.take(1 << 30)] == [1]


def test_nothing_is_taken_before_it_is_durable(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 2)
        assert spool.needs_sync and spool.take(1 << 30) == []
        spool.sync()
        fill(spool, 1)
        assert [out.sequence for out in spool.take(1 << 30)] == [0, 1]


def test_taking_keeps_within_the_bytes_asked_for(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 10)
        spool.sync()
        size = len(spool.take(1)[0].record)  # one may exceed
        assert len(spool.take(3 * size)) == 3
        assert len(spool.take(1 << 30, 2)) == 2


def test_an_answer_at_the_moment_of_recording_does_not_take_what_is_recorded_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_spool(tmp_path, max_bytes=MB) as spool:
        size = len(record.encode(make_segment(), session=spool.session, sequence=0))
        fill(spool, MB // 16 // size - 1)  # one more fits into the first file
        before = spool.pending
        sequences(spool)
        original = spool._log.append_many

        def answered(batch: Any) -> Any:
            positions = original(batch)
            assert len({position.file for position in positions}) == 2
            assert spool.acknowledge([(spool.session, 0, before)]) == before
            return positions

        monkeypatch.setattr(spool._log, "append_many", answered)
        spool.record_many([make_segment(), make_segment()])
        assert sequences(spool) == [before, before + 1]
        assert balanced(spool).rejected == 0


def test_what_is_settled_is_not_sent_again_and_files_go_when_all_of_them_is(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=16 * MB) as spool:
        fill(spool, 400, image=16)
        before = spool.bytes
        assert spool.acknowledge([(spool.session, 0, 390), (99, 0, 5)]) == 390
        assert spool.acknowledge([(spool.session, 0, 2**62)]) == 10  # twice, and more than there are
        assert balanced(spool) == Counts(400, 400, 0, 0, 0, 0)
        assert spool.bytes < before / 2 and len(list((tmp_path / "records").glob("*.log"))) == 1
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(400, 400, 0, 0, 0, 0)


def one_by_one(spool: Spool) -> list[tuple[int, int]]:
    """Everything that is not sent, as it would be over a link that takes one record at a time."""
    spool.sync()
    found = []
    while taken := spool.take(1):
        found += [(out.session, out.sequence) for out in taken]
    return found


def test_of_earlier_sessions_is_sent_what_is_left_and_the_accounts_go_on(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        first = spool.session
        fill(spool, 4)
        spool.acknowledge([(first, 1, 1)])
    with open_spool(tmp_path) as spool:
        assert spool.session != first
        fill(spool, 2)
        later = spool.session
        assert one_by_one(spool) == [(later, 0), (later, 1), (first, 0), (first, 2), (first, 3)], "the newest first"
        assert balanced(spool) == Counts(6, 1, 0, 0, 5, 0)
        assert dict(spool.floors())[first] == 0
        spool.acknowledge([(first, 0, 1)])
        assert dict(spool.floors())[first] == 2


def test_a_rejected_record_lies_in_quarantine_with_its_reason(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 2)
        assert spool.reject(spool.session, 1, "task unknown")
        assert not spool.reject(spool.session, 1, "again") and not spool.reject(5, 5, "never was")
        [kept] = (tmp_path / "quarantine").glob("*.record")
        assert record.verify(kept.read_bytes()).sequence == 1
        assert "task unknown" in kept.with_suffix(".json").read_text()
        assert balanced(spool) == Counts(2, 0, 0, 1, 1, 0)
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(2, 0, 0, 1, 1, 0)


def test_the_newest_that_is_not_durable_yet_does_not_hold_back_what_is(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 1, episode=1)
        spool.sync()
        fill(spool, 2, episode=2)
        assert [out.sequence for out in spool.take(1 << 30)] == [0]
        spool.sync()
        assert [out.sequence for out in spool.take(1 << 30)] == [1, 2]
        assert spool.take(1 << 30) == []


def test_many_rejected_records_are_one_line_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 4)
        for sequence in range(3):
            spool.reject(spool.session, sequence, "task unknown")
        assert [line for line in caplog.messages if "task unknown" in line] == [
            f"record 0 of session {spool.session:016x} is rejected: task unknown"
        ]
        spool._rejected_told_at = -math.inf  # as if time had passed
        spool.reject(spool.session, 3, "task unknown")
        assert "record 3" in caplog.messages[-1] and "(and 2 before it)" in caplog.messages[-1]
        assert spool.counts().rejected == 4


def test_the_quarantine_is_bounded(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=MB) as spool:
        for _ in range(12):
            spool.reject(spool.session, spool.record(make_segment(image=80)), "no")
        kept = list((tmp_path / "quarantine").glob("*.record"))
        assert 0 < sum(file.stat().st_size for file in kept) <= MB and len(kept) < 12
        assert balanced(spool).rejected == 12


def test_beyond_its_bound_the_oldest_are_evicted_and_counted(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=2 * MB, sync="process") as spool:
        fill(spool, 1000)
        counts = balanced(spool)
        assert counts.evicted > 0 and counts.refused == 0
        assert spool.bytes <= 2 * MB and sum(f.stat().st_size for f in tmp_path.rglob("*.*")) <= 2 * MB
        assert sequences(spool) == list(range(counts.evicted, 1000)), "the oldest went, all others are there"
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(1000, 0, counts.evicted, 0, 1000 - counts.evicted, 0)


def test_interventions_are_sent_first_then_what_was_begun_then_the_newest_also_after_a_restart(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        session = spool.session
        fill(spool, 2, episode=1)
        spool.sync()
        assert [out.sequence for out in spool.take(1)] == [0]
        fill(spool, 1, episode=2)
        fill(spool, 1, episode=3, starred=True)
        fill(spool, 1, episode=4)
        fill(spool, 1, episode=1, last=True)
        assert one_by_one(spool) == [(session, n) for n in (3, 1, 5, 4, 2)]
        spool.take_again()
        assert next(iter(one_by_one(spool))) == (session, 3)
    with open_spool(tmp_path) as spool:
        spool.acknowledge([(session, 0, 1), (session, 4, 1)])
        assert one_by_one(spool) == [(session, n) for n in (3, 1, 2, 5)], "all had been begun"


def test_on_a_link_too_slow_for_everything_the_oldest_are_evicted_never_what_was_sent(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=2 * MB, sync="process") as spool:
        sent = set()
        for episode in range(200):
            fill(spool, 6, episode=episode)
            spool.sync()
            sent |= {out.sequence for out in spool.take(1)}
        counts = balanced(spool)
        assert counts.evicted > 300 and counts.refused == 0, "what was sent out of order does not keep the rest"
        left, unsent = set(sequences(spool)), sorted(set(range(1200)) - sent)
        assert sent <= left and left - sent == set(unsent[counts.evicted :])


def test_beyond_their_age_records_are_evicted_but_for_starred_and_sent_ones(tmp_path: Path) -> None:
    with open_spool(tmp_path, sync="process", max_age_s=1e-9) as spool:
        fill(spool, 1, starred=True)
        fill(spool, 3)
        spool.sync()
        assert [out.sequence for out in spool.take(1)] == [0] and [out.sequence for out in spool.take(1)] == [1]
        spool._log.rotate()
        assert spool.expire() == 2 and spool.expire() == 0
        assert balanced(spool) == Counts(4, 0, 2, 0, 2, 0)
        assert sequences(spool) == [0, 1]


def test_the_age_of_records_outlives_a_restart(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 2)
    [file] = (tmp_path / "records").glob("*.log")
    os.utime(file, (file.stat().st_mtime - 1000,) * 2)
    with open_spool(tmp_path, max_age_s=2000) as spool:
        assert spool.expire() == 0
    os.utime(file, (file.stat().st_mtime - 1000,) * 2)
    with open_spool(tmp_path, max_age_s=2000) as spool:
        fill(spool, 1)
        assert spool.expire() == 2 and balanced(spool) == Counts(3, 0, 2, 0, 1, 0)
    os.utime(sorted((tmp_path / "records").glob("*.log"))[-1], (4e9, 4e9))  # written by a clock that was ahead
    with open_spool(tmp_path, max_age_s=2000) as spool:
        assert spool.expire() == 0 and spool.pending == 1


def test_starred_segments_are_never_evicted(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=2 * MB, sync="process") as spool:
        starred = [spool.record(make_segment(starred=n % 10 == 0)) for n in range(1000)][::10]
        assert balanced(spool).evicted > 0 and spool.bytes <= 2 * MB
        assert set(starred) <= set(sequences(spool))
    with open_spool(tmp_path) as spool:  # those that were moved to a newer file are there once
        assert set(starred) <= set(sequences(spool))
        assert len(sequences(spool)) == len(set(sequences(spool))) == balanced(spool).pending


def test_what_may_have_reached_the_learner_is_never_evicted_even_after_a_restart(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=2 * MB) as spool:
        first = spool.session
        fill(spool, 20)
        spool.sync()
        sent = {(out.session, out.sequence) for out in spool.take(1 << 30, 15)}
    with open_spool(tmp_path, max_bytes=2 * MB, sync="process") as spool:
        fill(spool, 1000)
        assert balanced(spool).evicted > 0
        spool.sync()
        spool.take_again()
        left = {(out.session, out.sequence) for out in spool.take(1 << 40, 10**6)}
        assert sent <= left and len(sent) == 15
        spool.acknowledge([(first, 0, 15)])
        assert balanced(spool).acknowledged == 15


def test_when_nothing_may_be_evicted_a_segment_is_refused_and_counted_apart(tmp_path: Path) -> None:
    with open_spool(tmp_path, max_bytes=2 * MB, sync="process") as spool:
        with pytest.raises(SpoolFull, match="nothing in it may be evicted"):
            fill(spool, 1000, starred=True)
        counts = balanced(spool)
        assert counts.evicted == 0 and counts.refused == 1 and spool.bytes <= 2 * MB
        spool.acknowledge([(spool.session, 0, counts.recorded)])
        assert spool.record(make_segment()) == counts.recorded  # no gap in the sequences


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    files = FullFiles()
    with open_spool(tmp_path, files=files) as spool:
        fill(spool, 5)
        files.room = 1000
        for _ in range(3):
            with pytest.raises(SpoolFull, match=os.strerror(errno.ENOSPC)):
                spool.record(make_segment())
            assert os.strerror(errno.ENOSPC) in spool.full
        assert balanced(spool) == Counts(5, 0, 0, 0, 5, 3)
        files.room = 1 << 40
        assert spool.record(make_segment()) == 5 and not spool.full
        assert sequences(spool) == list(range(6))
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(6, 0, 0, 0, 6, 0)


def test_on_a_full_disk_answers_are_still_taken_in_and_free_it(tmp_path: Path) -> None:
    files = FullFiles()
    with open_spool(tmp_path, files=files, max_bytes=4 * MB) as spool:
        fill(spool, 400)
        files.room = 0
        spool.acknowledge([(spool.session, 0, 300)])  # the ledger can't be written, even with its reserve
        assert balanced(spool).acknowledged == 300
        assert len(list((tmp_path / "records").glob("*.log"))) > 2, "no file goes before its end is written down"
        files.room = 1 << 40
        spool.acknowledge([(spool.session, 300, 90)])
        assert len(list((tmp_path / "records").glob("*.log"))) == 1
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(400, 390, 0, 0, 10, 0)


def test_on_a_full_disk_the_reserve_is_given_up_so_that_answers_are_written_down(tmp_path: Path) -> None:
    class FullButForTheReserve(FullFiles):
        def write(self, descriptor: int, buffers: Any) -> int:
            self.room = 0 if full and (tmp_path / "reserve").exists() else 1 << 40
            return super().write(descriptor, buffers)

    full = False
    with open_spool(tmp_path, files=FullButForTheReserve(), max_bytes=4 * MB) as spool:
        fill(spool, 400)
        full = True
        spool.acknowledge([(spool.session, 0, 390)])
        assert len(list((tmp_path / "records").glob("*.log"))) == 1 and not (tmp_path / "reserve").exists()
        size = spool._ledger.bytes
        spool.acknowledge([(spool.session, 390, 1)])
        assert spool._ledger.bytes - size <= 128, "each entry is written once"
    full = False
    with open_spool(tmp_path) as spool:
        assert balanced(spool) == Counts(400, 391, 0, 0, 9, 0)
        assert (tmp_path / "reserve").exists(), "taken back"


def test_a_record_damaged_on_the_disk_is_rejected_not_sent(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 5)
    [file] = (tmp_path / "records").glob("*.log")
    data = bytearray(file.read_bytes())
    data[len(data) // 5 * 2 + 1500] ^= 1
    file.write_bytes(data)
    with open_spool(tmp_path) as spool:
        assert sequences(spool) == [0, 1, 3, 4]
        assert balanced(spool) == Counts(5, 0, 0, 1, 4, 0) and spool.corrupt == 1


def test_a_record_whose_header_is_damaged_is_counted_as_rejected(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 5)
    [file] = (tmp_path / "records").glob("*.log")
    data = bytearray(file.read_bytes())
    data[len(data) // 5 * 2 + 3] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        with open_spool(tmp_path) as spool:
            assert sequences(spool) == [0, 1, 3, 4]
            assert balanced(spool) == Counts(5, 0, 0, 1, 4, 0)


def test_the_ledger_stays_small_and_its_counts_survive_that(tmp_path: Path) -> None:
    for session in range(3):
        with open_spool(tmp_path, sync="process") as spool:
            for n in range(20):
                fill(spool, 1)
                spool.acknowledge([(spool.session, n, 1)])
            spool._log.rotate()
            spool._reclaim()
            spool._ledger.compact(spool._sessions_on_disk(), force=True)
            assert balanced(spool).recorded == 20 * (session + 1)
            assert len(spool._ledger.sessions) == 1, "sessions of which nothing is left are folded"
    assert sum(file.stat().st_size for file in (tmp_path / "ledger").glob("*.log")) < 2000


def test_lost_last_segments_are_told_apart_from_those_before_the_mark(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        fill(spool, 2, last=True)
        assert spool.head() == (2, 2)
        fill(spool, 2, last=True)
        fill(spool, 1)
        spool.reject(spool.session, 0, "before the mark")
        spool.reject(spool.session, 3, "after it")
        spool.reject(spool.session, 4, "not the last of its episode")
        assert (spool.lasts, spool.lost_lasts) == (4, 1)


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    with open_spool(tmp_path), pytest.raises(LogError, match="in use"):
        open_spool(tmp_path)


@pytest.mark.parametrize("when", ["before", pytest.param("half", marks=pytest.mark.slow)])
def test_killed_at_every_call_the_accounts_still_balance(tmp_path: Path, when: When) -> None:
    killed_at, evicted = 0, 0
    for at in itertools.count():
        path = tmp_path / str(at)
        told, killed = run_until_killed(use_spool, path, at, when)
        words = [line.split() for line in told.splitlines()]
        kinds = ("recorded", "sent", "acknowledged", "evicted")
        said = {kind: [int(number) for word, number in words if word == kind] for kind in kinds}
        for _ in range(2):  # opened again, and again
            with open_spool(path) as spool:
                counts = balanced(spool)
                assert counts.recorded in (len(said["recorded"]), len(said["recorded"]) + 1)
                assert counts.refused == 0 and counts.rejected <= 1
                assert counts.acknowledged >= 2 * len(said["acknowledged"])
                pending = sequences(spool)
                assert len(pending) == len(set(pending)) == counts.pending
                starred = {n for n in said["recorded"] if n % 5 == 0}
                if not counts.acknowledged and not counts.rejected:
                    assert starred | set(said["sent"]) <= set(pending), "neither starred nor sent ones are evicted"
        evicted = max([evicted, *said["evicted"]])
        killed_at += killed
        if not killed and at >= int(words[-1][1]):
            break
    assert killed_at > (20 if when == "half" else 50) and evicted > 0


@pytest.mark.parametrize("when", ["before", pytest.param("half", marks=pytest.mark.slow)])
def test_killed_at_every_call_of_a_retry_a_record_is_pending_or_in_quarantine(tmp_path: Path, when: When) -> None:
    killed_at = 0
    for at in itertools.count():
        path = tmp_path / str(at)
        told, killed = run_until_killed(retry_in_spool, path, at, when)
        words = [line.split() for line in told.splitlines()]
        recorded, rejected, retried = (
            {int(number) for word, number in words if word == kind} for kind in ("recorded", "rejected", "retried")
        )
        for _ in range(2):  # opened again, and again
            with open_spool(path) as spool:
                balanced(spool)
                pending, kept = set(sequences(spool)), {sequence for _, sequence in spool.quarantined()}
                assert recorded <= pending | kept and retried <= pending and not pending & kept
                assert balanced(spool).rejected == len(kept)
        with open_spool(path) as spool:
            for key in spool.quarantined():
                spool.retry(*key)
            assert recorded <= set(sequences(spool)) and balanced(spool).rejected == 0
        killed_at += killed
        if not killed and at >= int(words[-1][1]):
            break
    assert rejected == {0, 1} and killed_at > (5 if when == "half" else 15)


def test_what_is_sent_again_from_quarantine_is_under_its_own_name_and_keeps_the_floor_below_it(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        session = spool.session
        fill(spool, 4)
        spool.reject(session, 1, "the learner has no such task")
        spool.acknowledge([(session, 0, 1), (session, 2, 2)])
        assert dict(spool.floors())[session] == 1, "or the learner would close the hole, and take it for a duplicate"
        spool._log.rotate()
        spool._reclaim()
        spool._ledger.compact(spool._sessions_on_disk(), force=True)
    with open_spool(tmp_path) as spool:
        spool._ledger.compact(spool._sessions_on_disk(), force=True)
        spool.retry(session, 1)
        assert not list((tmp_path / "quarantine").iterdir())
        assert balanced(spool) == Counts(4, 3, 0, 0, 1, 0)
        assert one_by_one(spool) == [(session, 1)]
        with pytest.raises(LogError, match="No such file"):
            spool.retry(session, 1)
        spool.acknowledge([(session, 1, 1)])
        assert balanced(spool) == Counts(4, 4, 0, 0, 0, 0) and dict(spool.floors())[session] == 4


def test_without_space_to_write_it_down_a_record_stays_in_quarantine(tmp_path: Path) -> None:
    files = FullFiles()
    with open_spool(tmp_path, files=files) as spool:
        fill(spool, 1)
        key = (spool.session, 0)
        spool.reject(*key, "no")
        files.room = len(spool._quarantine.get(*key))
        with pytest.raises(LogError, match="no space"):
            spool.retry(*key)
        assert spool.quarantined() == [key] and balanced(spool) == Counts(1, 0, 0, 1, 0, 0)
    with open_spool(tmp_path) as spool:
        assert spool.quarantined() == [key] and balanced(spool) == Counts(1, 0, 0, 1, 0, 0)
        spool.retry(*key)
        assert one_by_one(spool) == [key] and balanced(spool) == Counts(1, 0, 0, 0, 1, 0)


def test_a_strange_or_damaged_record_in_quarantine_stays_there(tmp_path: Path) -> None:
    with open_spool(tmp_path / "a") as spool, open_spool(tmp_path / "b") as other:
        fill(spool, 1)
        spool.reject(spool.session, 0, "no")
        (tmp_path / "b" / "quarantine").mkdir()
        for file in (tmp_path / "a" / "quarantine").iterdir():
            (tmp_path / "b" / "quarantine" / file.name).write_bytes(file.read_bytes())
        with pytest.raises(LogError, match="never recorded here"):
            other.retry(spool.session, 0)
        [file] = (tmp_path / "a" / "quarantine").glob("*.record")
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(LogError, match="damaged"):
            spool.retry(spool.session, 0)
        assert spool.quarantined() == [(spool.session, 0)] and balanced(spool).rejected == 1


def test_counts_are_plain_numbers(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        assert astuple(spool.counts()) == (0, 0, 0, 0, 0, 0)


def test_what_is_moved_to_make_room_is_durable_before_its_old_place_goes(tmp_path: Path) -> None:
    class Watched(Files):
        """Which bytes of which file no sync has made durable, and those when a file of records goes."""

        def __init__(self) -> None:
            self.names: dict[int, Path] = {}
            self.dirty: dict[Path, int] = {}
            self.at_removals: list[int] = []

        def create(self, path: Path) -> int:
            descriptor = super().create(path)
            self.names[descriptor] = path
            return descriptor

        def write(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
            written = super().write(descriptor, buffers)
            path = self.names[descriptor]
            self.dirty[path] = self.dirty.get(path, 0) + written
            return written

        def sync(self, descriptor: int) -> None:
            super().sync(descriptor)
            self.dirty.pop(self.names[descriptor], None)

        def remove(self, path: Path) -> None:
            if path.parent.name == "records":
                self.at_removals.append(sum(n for one, n in self.dirty.items() if one.parent.name == "records"))
            super().remove(path)

    files = Watched()
    with Spool(tmp_path, edge="a", sync="power", max_bytes=1 << 20, files=files) as spool:
        spool.record(make_segment(starred=True))
        spool.sync()
        while not files.at_removals:
            spool.record(make_segment())
            spool.sync()
    assert files.at_removals[0] == 0
