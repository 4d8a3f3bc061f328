"""The store: each segment once, whatever is sent twice, killed or pruned."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotlearn.buffer.log import LogFull
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.faults import FullFiles, When, run_until_killed
from tests.buffer.victims import append_to_store
from tests.buffer.victims import stored as data
from tests.wire.make import make_segment
from tests.wire.test_record import reheaded


def kinds(store: SegmentStore, *batch: bytes | bytearray) -> list[str]:
    return [outcome.kind for outcome in store.append(batch)]


def stored_sequences(store: SegmentStore) -> list[int]:
    return [segment.sequence for _, segment in store.scan()]


def test_each_segment_is_stored_once_over_batches_and_restarts(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store:
        assert kinds(store, data(0), data(1), data(0)) == ["stored", "stored", "duplicate"]
        assert (
            kinds(store, data(1), data(2), data(1, session=2), data(1, edge="other")) == ["duplicate"] + ["stored"] * 3
        )
    for _ in range(2):
        with SegmentStore(tmp_path) as store:
            assert kinds(store, data(0), data(2), data(1, session=2), data(1, edge="other")) == ["duplicate"] * 4
            assert store.stored == 5 and stored_sequences(store) == [0, 1, 2, 1, 1]


def test_a_stored_segment_is_read_again_by_its_position(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store:
        [outcome] = store.append([data(7)])
        assert outcome.position is not None and outcome.header is not None and outcome.header.sequence == 7
        segment = store.read(outcome.position)
        np.testing.assert_array_equal(segment.chunk_path, make_segment(seed=7).chunk_path)
        assert bytes(store.read_record(outcome.position)) == bytes(data(7))
        assert [header.sequence for _, header in store.scan_headers()] == [7]


def test_what_can_never_be_stored_says_why_and_what_is_damaged_is_told_apart(tmp_path: Path) -> None:
    bad = make_segment(reward=np.full(6, np.nan, np.float32))
    damaged = data(3)
    damaged[-1] ^= 1
    with SegmentStore(tmp_path) as store:
        invalid, broken, good = store.append([record.encode(bad, session=1, sequence=2), damaged, data(4)])
        assert (invalid.kind, broken.kind, good.kind) == ("invalid", "damaged", "stored")
        assert "reward" in invalid.reason and invalid.header is not None and invalid.header.sequence == 2
        assert "checksum" in broken.reason and broken.header is None
        assert store.append([b"nonsense", b""])[1].kind == "damaged"
        twice = record.encode(bad, session=1, sequence=9)
        assert kinds(store, data(5), twice, data(6), twice) == ["stored", "invalid", "stored", "invalid"]
        assert not store.seen("edge-a", 1, 2) and stored_sequences(store) == [4, 5, 6]


def test_a_batch_of_records_that_are_alike_is_checked_as_thoroughly_as_each(tmp_path: Path) -> None:
    def changed(sequence: int, **fields: Any) -> bytearray:
        return record.encode(make_segment(seed=sequence, **fields), session=1, sequence=sequence)

    bad = {
        10: changed(10, reward=np.full(6, np.nan, np.float32)),
        20: changed(20, terminated=np.array([0, 1, 0, 0, 0, 0], bool)),
        30: changed(30, chunk_start=np.array([0, 4], np.int32)),
        40: reheaded(data(40), version=9),
        50: reheaded(data(50), success=True),
        60: reheaded(data(60), steps=7),
    }
    with SegmentStore(tmp_path) as store:
        for victim, broken in bad.items():
            batch = [broken if n == victim else data(n) for n in range(victim - 5, victim + 5)]
            assert [o.kind for o in store.append(batch)] == ["stored"] * 5 + ["invalid"] + ["stored"] * 4
        assert store.stored == 9 * len(bad)


def test_what_was_pruned_stays_seen(tmp_path: Path) -> None:
    with SegmentStore(tmp_path / "a", file_bytes=20_000) as store:
        outcomes = store.append([data(n) for n in range(40)])
        middle = outcomes[25].position
        assert middle is not None and store.drop_before(middle) > 0
        kept = stored_sequences(store)
        assert 0 < kept[0] <= 25 and kept[-1] == 39
        shutil.copytree(tmp_path / "a", tmp_path / "b")  # what a process leaves that is killed now
    with SegmentStore(tmp_path / "b", file_bytes=20_000) as store:
        assert set(kinds(store, *[data(n) for n in range(40)])) == {"duplicate"}
        assert store.stored == 40 and stored_sequences(store) == kept


def test_holes_close_only_below_the_floor_that_the_edge_names(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store:
        store.append([data(n) for n in (0, 3, 6)])
        store.settle_below("edge-a", 1, 5)
        store.settle_below("unknown", 1, 5)
        assert [store.seen("edge-a", 1, n) for n in range(8)] == [True] * 5 + [False, True, False]
        assert kinds(store, data(5), data(2)) == ["stored", "duplicate"]
        assert store.stored == 4


def test_a_full_disk_stores_none_of_the_batch_and_the_same_batch_later(tmp_path: Path) -> None:
    files = FullFiles()
    with SegmentStore(tmp_path, files=files) as store:
        files.room = 5000
        with pytest.raises(LogFull):
            store.append([data(n) for n in range(5)])
        assert store.stored == 0 and not store.seen("edge-a", 1, 0)
        files.room = 1 << 40
        assert kinds(store, *[data(n) for n in range(5)]) == ["stored"] * 5


def test_a_full_disk_at_the_snapshot_takes_nothing_back(tmp_path: Path) -> None:
    files = FullFiles()
    with SegmentStore(tmp_path, files=files, file_bytes=4096) as store:
        store.append([data(0)])
        files.room = len(data(1))  # for the record, not for the snapshot that a new file of records calls for
        assert kinds(store, data(1)) == ["stored"] and store.stored == 2
        files.room = 1 << 40
        assert kinds(store, data(1), data(2)) == ["duplicate", "stored"]
    with SegmentStore(tmp_path) as store:
        assert store.stored == 3 and stored_sequences(store) == [0, 1, 2]


def test_a_full_disk_does_not_keep_it_from_closing(tmp_path: Path) -> None:
    files = FullFiles()
    store = SegmentStore(tmp_path, files=files)
    store.append([data(0)])
    files.room = 0
    store.close()
    with SegmentStore(tmp_path) as store:
        assert stored_sequences(store) == [0] and store.seen("edge-a", 1, 0)


def test_what_does_not_fit_the_run_is_invalid(tmp_path: Path) -> None:
    with SegmentStore(tmp_path, misfit=lambda header, layout: f"horizon {layout.dims.horizon}") as store:
        (outcome,) = store.append([data(1)])
        assert outcome.kind == "invalid" and outcome.reason == f"horizon {make_segment().chunk_path.shape[2]}"
        assert store.stored == 0


def test_after_a_failed_sync_it_stores_no_more(tmp_path: Path) -> None:
    class Failing(FullFiles):
        broken = False

        def sync(self, descriptor: int) -> None:
            if self.broken:
                raise OSError(5, os.strerror(5))
            super().sync(descriptor)

    files = Failing()
    store = SegmentStore(tmp_path, files=files)
    files.broken = True
    with pytest.raises(LogError, match="made durable"):
        store.append([data(0)])
    files.broken = False
    with pytest.raises(LogError, match="made durable"):
        store.append([data(1)])
    store.close()


@pytest.mark.parametrize("when", ["before", pytest.param("half", marks=pytest.mark.slow)])
def test_killed_at_every_call_what_was_acknowledged_is_there_once(tmp_path: Path, when: When) -> None:
    killed_at = 0
    for at in itertools.count():
        path = tmp_path / str(at)
        told, killed = run_until_killed(append_to_store, path, at, when)
        words = [line.split() for line in told.splitlines()]
        acknowledged = {int(number) for word, number in words if word == "acknowledged"}
        with SegmentStore(path, file_bytes=9000) as store:
            found = stored_sequences(store)
            assert acknowledged <= set(found) and len(found) == len(set(found)) == store.stored
            store.append([data(n) for n in range(10)])  # the edge sends all of it again
            assert sorted(stored_sequences(store)) == list(range(10)) and store.stored == 10
        killed_at += killed
        if not killed and at >= int(words[-1][1]):
            break
    assert killed_at > 10
