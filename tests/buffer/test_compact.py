"""Eviction: the oldest first, never what a person did or somebody needs, and everything else stays as it was."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from robotlearn.buffer import snapshots
from robotlearn.buffer.compact import Evicted, Needs, chosen, evict
from robotlearn.buffer.files import Files
from robotlearn.buffer.index import SegmentIndex
from robotlearn.buffer.log import LogFull
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.faults import FullFiles
from tests.buffer.victims import stored

PIECES = 3  # of an episode
SIZE = len(stored(0))
FILE_BYTES = 7 * SIZE + 10  # so that episodes lie across files


def piece(sequence: int, starred: Sequence[int] = ()) -> bytearray:
    episode, number = divmod(sequence, PIECES)
    return stored(
        sequence,
        episode=episode,
        first_step=6 * number,
        last=number == PIECES - 1,
        starred=episode in starred and number == 0,
    )


class Kept:
    """A store and its index, with `episodes` of three segments each."""

    def __init__(self, path: Path, episodes: int = 20, starred: Sequence[int] = (), **options: object) -> None:
        self.store = SegmentStore(path, **({"file_bytes": FILE_BYTES} | options))  # type: ignore[arg-type]
        self.index = SegmentIndex(path, self.store.records, keep=True)
        self.at: dict[int, Position] = {}
        self.add(range(episodes * PIECES), starred)

    def add(self, sequences: range, starred: Sequence[int] = ()) -> None:
        for outcome in self.store.append([piece(sequence, starred) for sequence in sequences]):
            assert outcome.header is not None and outcome.position is not None
            self.at[outcome.header.sequence] = outcome.position
        self.index.update()

    def evict(self, segments: float, **needs: object) -> Evicted:
        """So many segments' worth, or a little more."""
        return evict(self.store, self.index, self.store.bytes - int(segments * SIZE), needs=Needs(**needs))  # type: ignore[arg-type]

    def sequences(self) -> list[int]:
        return [header.sequence for _, header in self.store.scan_headers()]

    def episodes(self) -> list[int]:
        return sorted({sequence // PIECES for sequence in self.sequences()})

    def close(self) -> None:
        self.index.close()
        self.store.close()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def assert_well(kept: Kept, evicted: int) -> None:
    """The store, its index and its counts say the same, now and when it is opened again."""
    found = verify(kept.store.path)
    assert found.wrong == [] and found.evicted == evicted == kept.store.evicted
    assert kept.store.stored == found.segments + evicted
    assert [entry[:6] for entry in kept.index.segments()] == [
        (*position, header.edge, header.session, header.sequence) for position, header in kept.store.scan_headers()
    ]


def test_the_oldest_episodes_go_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        assert kept.evict(0) == Evicted(), "it is small enough"
        before = kept.store.bytes
        done = kept.evict(20)
        gone = list(range(done.episodes))
        assert 20 * SIZE <= done.nbytes == done.segments * SIZE and before - kept.store.bytes >= 19 * SIZE
        assert 7 <= done.episodes <= 9 and done.segments == PIECES * done.episodes
        assert kept.episodes() == list(range(done.episodes, 20))
        for sequence, position in kept.at.items():
            now = done.moved.get(position, position)
            assert (now is None) == (sequence // PIECES in gone)
            if now is not None:
                assert bytes(kept.store.read_record(now)) == bytes(piece(sequence))
        assert_well(kept, done.segments)
    with Kept(tmp_path, episodes=0) as again:
        assert again.store.stored == 60 and again.store.seen("edge-a", 1, 0)
        assert {outcome.kind for outcome in again.store.append([piece(n) for n in range(60)])} == {"duplicate"}
        assert_well(again, done.segments)


def test_what_a_person_did_stays_however_little_room_there_is(tmp_path: Path) -> None:
    with Kept(tmp_path, starred=(0, 7, 19)) as kept:
        done = evict(kept.store, kept.index, 0)
        assert kept.episodes() == [0, 7, 19] and done.episodes == 17
        assert kept.sequences() == [0, 1, 2, 21, 22, 23, 57, 58, 59], "whole episodes, in the order of storing"
        assert evict(kept.store, kept.index, 0) == Evicted(), "nothing more can go"
        assert_well(kept, 51)
        kept.add(range(60, 63))
        assert kept.episodes() == [0, 7, 19, 20]


def test_what_is_needed_neither_goes_nor_moves(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        needed = [kept.at[10], kept.at[30]]
        end = kept.at[45]
        evict(kept.store, kept.index, 0, needs=Needs(end, needed))
        for sequence in (10, 30, *range(45, 60)):
            assert bytes(kept.store.read_record(kept.at[sequence])) == bytes(piece(sequence))
        resumed = [segment.sequence for _, segment in kept.store.scan(end)]
        assert resumed == list(range(45, 60))
        assert kept.store.evicted > 0 and 0 not in kept.episodes()
        assert_well(kept, kept.store.evicted)


def test_what_was_learnt_from_to_the_end_may_all_go_and_what_comes_is_read_from_there(tmp_path: Path) -> None:
    with Kept(tmp_path, starred=(19,)) as kept:
        end = kept.store.end
        evict(kept.store, kept.index, 0, needs=Needs(end))
        assert kept.episodes() == [19]
        kept.add(range(60, 63))
        assert [segment.sequence for _, segment in kept.store.scan(end)] == [60, 61, 62]


def test_a_file_is_not_written_anew_for_little(tmp_path: Path) -> None:
    """Of the first files all is starred but one segment's episode; younger ones go before, since they free more."""
    with SegmentStore(tmp_path, file_bytes=FILE_BYTES) as store:
        for n in range(21):
            store.append([stored(n, episode=n, last=True, starred=n < 14 and n != 3)])
        with SegmentIndex(tmp_path, store.records, keep=True) as index:
            index.update()
            first = (tmp_path / "records" / f"{0:016d}.log").stat()
            done = evict(store, index, store.bytes - 2 * SIZE)
            assert 2 <= done.episodes <= 7 and (tmp_path / "records" / f"{0:016d}.log").stat() == first
            left = evict(store, index, 0)
            assert done.episodes + left.episodes == 8, "where nothing else helps, it is"
            assert [h.sequence for _, h in store.scan_headers()] == [n for n in range(14) if n != 3]


def test_a_bound_on_the_time_leaves_the_rest_to_a_later_call(tmp_path: Path) -> None:
    with Kept(tmp_path, starred=(6,)) as kept:
        first = evict(kept.store, kept.index, 0, limit_s=0)
        assert first.segments == 7 and len(kept.sequences()) == 53, "one file at least, or it would never end"
        assert_well(kept, 7)
        work: dict[int, tuple[list[Position], int]] = {file: ([], 7) for file in (3, 4, 5)}
        clock = iter([0.0, 1.0, 2.0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("robotlearn.buffer.store.time.monotonic", lambda: next(clock))
            assert sorted(kept.store.keep_only(work, limit_s=1.5)) == [3, 4]
        kept.index.update()
        assert_well(kept, 21)
        evict(kept.store, kept.index, 0)
        assert kept.episodes() == [6]
        assert_well(kept, 57)


def test_a_learner_that_reads_follows(tmp_path: Path) -> None:
    """What it has open of a file is the old one, until it lets go; views that it holds stay as they are."""
    with Kept(tmp_path, starred=(1,)) as kept:
        view = kept.store.read_record(kept.at[3])
        mapped = {header.sequence: data for (_, data), header in _views(kept)}
        done = kept.evict(6)
        now = done.moved[kept.at[3]]
        assert now is not None and now != kept.at[3]
        assert bytes(kept.store.read_record(now)) == bytes(view) == bytes(piece(3, (1,)))
        with pytest.raises(LogError):
            kept.store.read_record(kept.at[6])
        assert bytes(mapped[0]) == bytes(piece(0, (1,)))


def _views(kept: Kept):  # type: ignore[no-untyped-def]
    for position, view in kept.store.records.scan():
        yield (position, view), record.peek(view)


def test_a_damaged_file_is_left_to_a_repair(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        at = kept.at[1]
    with (tmp_path / "records" / f"{at.file:016d}.log").open("r+b") as stream:
        stream.seek(at.offset)
        stream.write(bytes(8))
    (tmp_path / "index.sqlite").unlink()
    with Kept(tmp_path, episodes=0) as kept:
        evict(kept.store, kept.index, 0)
        assert kept.sequences() == [0, *range(2, 9)], "with what else there is of its episodes"
        assert (tmp_path / "records" / f"{at.file:016d}.log").stat().st_size == 7 * SIZE


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path) -> None:
    files = FullFiles()
    with Kept(tmp_path, starred=(0, 3), files=files) as kept:
        files.room = 2500  # for the note of what is to go, not for a file
        with pytest.raises(LogFull):
            evict(kept.store, kept.index, 0)
        files.room = 0  # not even for the note
        with pytest.raises(LogFull):
            evict(kept.store, kept.index, 0)
        files.room = 1 << 40
        assert kept.store._removing == {} and len(kept.sequences()) + kept.store.evicted == 60
        assert not list((tmp_path / "records").glob("*.new"))
        evict(kept.store, kept.index, 0)
        assert kept.episodes() == [0, 3]
        assert_well(kept, 54)


def test_the_file_that_is_written_to_is_not_to_be_touched(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept, pytest.raises(LogError, match="that is written to nothing can be evicted"):
        kept.store.keep_only({kept.store.end.file: ((), 1)})


def test_half_a_rewriting_is_forgotten_at_the_next_opening(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        records = tmp_path / "records"
    (records / f"{0:016d}.new").write_bytes(b"half")
    with Kept(tmp_path, episodes=0) as kept:
        assert not list(records.glob("*.new")) and len(kept.sequences()) == 60


@pytest.mark.parametrize("deleted", [0, 3], ids=["none deleted", "the oldest files deleted"])
def test_a_store_of_a_version_that_did_not_count_is_opened_and_counts(tmp_path: Path, deleted: int) -> None:
    with Kept(tmp_path) as kept:
        for file in range(deleted):
            (tmp_path / "records" / f"{file:016d}.log").unlink()
    noted = snapshots.last(tmp_path)
    old = {"stored": noted.stored, "position": noted.position, "seen": noted.seen}
    [seen] = (tmp_path / "seen").glob("*.log")
    seen.write_bytes(bytes(record.pack(record.ENTRY, msgspec.msgpack.encode(old), [], 0)))
    assert verify(tmp_path).wrong == []
    with Kept(tmp_path, episodes=0) as kept:
        assert (kept.store.stored, kept.store.evicted) == (60, deleted * 7)
    with Kept(tmp_path, episodes=0) as kept:
        assert_well(kept, deleted * 7)


def test_what_was_counted_must_be_there(tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        kept.evict(9)
        last = max(kept.store.records.file_sizes()) - 2
    (tmp_path / "records" / f"{last:016d}.log").unlink()
    wrong = verify(tmp_path).wrong
    assert any(f"file {last} is missing" in line for line in wrong)
    assert any("7 of 60 segments that were stored are not there any more" in line for line in wrong)


def test_the_index_finds_a_file_that_was_exchanged_for_one_of_the_size_it_knew(tmp_path: Path) -> None:
    """Killed before it saw the whole file, it knows two records of four; the two others are what is kept."""
    with SegmentStore(tmp_path, file_bytes=4 * SIZE) as store:
        store.append([stored(0), stored(1)])
        with SegmentIndex(tmp_path, store.records, keep=True) as index:
            index.update()
        store.append([stored(n) for n in range(2, 6)])
        old = [position for position, _ in store.scan_headers()]
        store.keep_only({0: (old[2:4], 2)})
        with SegmentIndex(tmp_path, store.records, keep=True) as index:
            index.update()
            assert [entry.sequence for entry in index.segments()] == [2, 3, 4, 5]
        with SegmentIndex(tmp_path, LogReader(tmp_path / "records"), keep=False) as index:
            index.update()
            assert [entry.sequence for entry in index.segments()] == [2, 3, 4, 5]


def test_who_looks_on_is_not_ended_by_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    with Kept(tmp_path, starred=(1,)) as kept:
        reader = LogReader(tmp_path / "records")
        kept.evict(6)
        found = [record.peek(view).sequence for _, view in reader.scan()]
        assert found == kept.sequences() and reader.corrupt == 0


def test_chosen_episodes_go_wherever_they_lie(tmp_path: Path) -> None:
    with Kept(tmp_path, starred=(8,)) as kept:
        wanted = [one for one in kept.index.episodes() if one.episode in (2, 8, 11)]
        plan = chosen(kept.index, kept.store.records.file_sizes(), wanted)
        assert (plan.episodes, plan.segments, plan.starred, plan.needed) == (2, 6, 1, 0)
        assert plan.nbytes == 6 * SIZE and os.path.getsize(tmp_path / "records" / f"{0:016d}.log") == 7 * SIZE


def test_segments_come_and_others_look_while_it_goes_on(tmp_path: Path) -> None:
    """As in a learner: the intake's thread stores, the loop evicts, and a person asks whether all is well."""
    with Kept(tmp_path, episodes=0, sync="process") as kept:
        stop, failed, wrong = threading.Event(), [], []
        needed: list[Position] = []

        def take_in() -> None:
            try:
                for sequence in range(600):
                    [outcome] = kept.store.append([piece(sequence, range(0, 200, 10))])
                    assert outcome.kind == "stored" and outcome.position is not None
                    needed.append(outcome.position)
            except BaseException as error:
                failed.append(error)
            stop.set()

        def look() -> None:
            while not stop.is_set():
                wrong.extend(verify(tmp_path).wrong)

        threads = [threading.Thread(target=take_in), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        while not stop.is_set():
            done = len(needed)
            keep_from = needed[done - 10] if done >= 10 else Position(0, 0, 0)
            evict(kept.store, kept.index, 40 * SIZE, needs=Needs(keep_from))
            for sequence in range(max(0, done - 10), done):
                assert record.peek(kept.store.read_record(needed[sequence])).sequence == sequence
        for thread in threads:
            thread.join()
        assert failed == [] and wrong == []
        kept.index.update()
        assert kept.store.stored == 600 and kept.store.evicted > 300
        assert {n for n in range(0, 200, 10)} <= set(kept.episodes())
        assert_well(kept, kept.store.evicted)


class FullLater(Files):
    """Has room for so many new files."""

    room = 1 << 30

    def create(self, path: Path) -> int:
        if path.suffix == ".new":
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= 1
        return super().create(path)


def test_what_moved_before_the_disk_was_full_is_told(tmp_path: Path) -> None:
    files = FullLater()
    with Kept(tmp_path / "store", starred=(1, 3, 5, 7), files=files) as kept:
        before = kept.store.records.file_sizes()
        files.room = 1
        evicted = kept.evict(30)
        after = kept.store.records.file_sizes()
        changed = {file for file in before if before[file] != after.get(file)}
        assert {position.file for position in evicted.moved} == changed and changed
        for sequence, position in kept.at.items():
            there = evicted.moved.get(position, position)
            if there is not None:
                assert kept.store.read(there).sequence == sequence
        files.room = 0
        with pytest.raises(LogError, match="No space"):
            kept.evict(30)
    assert not verify(tmp_path / "store").wrong
