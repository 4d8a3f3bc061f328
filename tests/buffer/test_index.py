"""The index: made of the files alone, and always like them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robotlearn.buffer.index import NAME, Entry, EpisodeEntry, SegmentIndex
from robotlearn.buffer.log_files import LogReader
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.victims import stored
from tests.wire.make import make_segment

FILE_BYTES = 8192  # two records each


def keep(store: SegmentStore) -> SegmentIndex:
    return SegmentIndex(store.path, store.records, keep=True)


def look(path: Path) -> SegmentIndex:
    return SegmentIndex(path, LogReader(path / "records"), keep=False)


def indexed(index: SegmentIndex) -> list[Entry]:
    index.update()
    return list(index.segments())


def in_files(store: SegmentStore) -> list[tuple[object, ...]]:
    return [(*position, h.edge, h.session, h.sequence) for position, h in store.scan_headers()]


def assert_like_the_files(index: SegmentIndex, store: SegmentStore) -> None:
    assert [entry[:6] for entry in indexed(index)] == in_files(store)


def test_it_follows_what_is_stored_and_what_is_dropped(tmp_path: Path) -> None:
    with SegmentStore(tmp_path, file_bytes=FILE_BYTES) as store, keep(store) as index:
        assert indexed(index) == []
        for first in (0, 5):
            store.append([stored(sequence) for sequence in range(first, first + 5)])
            assert_like_the_files(index, store)
        [entry] = [one for one in index.segments() if one.sequence == 7]
        assert store.read(entry.position).sequence == 7
        assert [one.sequence for one in index.segments(entry.position)] == [8, 9]
        assert store.drop_before(entry.position) > 1
        assert_like_the_files(index, store)
        assert 0 < len(index) < 10


def test_it_says_what_the_headers_say(tmp_path: Path) -> None:
    segment = make_segment(episode=3, last=True, starred=True, version=9, edge="left", robot="arm", task="push")
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([record.encode(segment, session=2**62, sequence=5)])
        [entry] = indexed(index)
        assert entry[3:] == ("left", 2**62, 5, "arm", "panda", "push", 3, 0, 6, True, True, True, 9)
        assert entry.last is True and entry.starred is True


def test_episodes_are_put_together(tmp_path: Path) -> None:
    pieces = [
        make_segment(episode=1, version=4),
        make_segment(episode=2, version=5),
        make_segment(episode=1, first_step=6, last=True, starred=True, version=5),
        make_segment(episode=3, first_step=6, last=True),  # its beginning was evicted
    ]
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([record.encode(piece, session=1, sequence=number) for number, piece in enumerate(pieces)])
        index.update()
        found = [(e.episode, e.segments, e.steps, e.whole, e.success, e.starred, e.versions) for e in index.episodes()]
        assert found == [
            (2, 1, 6, False, False, False, (5, 5)),
            (1, 2, 12, True, True, True, (4, 5)),
            (3, 1, 6, False, True, False, (3, 3)),
        ]
        nbytes = sum(e.nbytes for e in index.episodes())
        assert nbytes == sum(position.length for position, _ in store.scan_headers())
        assert isinstance(next(index.episodes()), EpisodeEntry)


def test_a_later_learner_goes_on_with_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(0), stored(1)])
        index.update()
        store.append([stored(2)])
    with SegmentStore(tmp_path) as store, keep(store) as index:
        assert len(index) == 2, "what was not indexed yet"
        looked_at: list[bytes] = []
        peek = record.peek
        monkeypatch.setattr(record, "peek", lambda view: looked_at.append(bytes(view)) or peek(view))
        assert [entry.sequence for entry in indexed(index)] == [0, 1, 2]
        assert looked_at == [bytes(stored(2))], "only what is new"


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def another_schema(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()


def in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, overwrite, another_schema, in_the_middle])
def test_lost_or_damaged_it_is_made_anew(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(sequence) for sequence in range(9)])
        index.update()
    harm(tmp_path / NAME)
    with look(tmp_path) as index:
        assert [entry.sequence for entry in indexed(index)] == list(range(9))
    with SegmentStore(tmp_path) as store, keep(store) as index:
        assert_like_the_files(index, store)


def test_of_another_store_it_is_made_anew(tmp_path: Path) -> None:
    """A folder restored from a copy, whose index is newer or older than its files."""
    with SegmentStore(tmp_path / "a") as store, keep(store) as index:
        store.append([stored(sequence, session=1) for sequence in range(4)])
        index.update()
    with SegmentStore(tmp_path / "b") as store:
        store.append([stored(sequence, session=2) for sequence in range(6)])
    (tmp_path / "a" / NAME).rename(tmp_path / "b" / NAME)
    with SegmentStore(tmp_path / "b") as store, keep(store) as index:
        assert_like_the_files(index, store)


def test_what_a_loss_of_power_cut_off_is_not_in_it(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(sequence) for sequence in range(4)])
        last = indexed(index)[-1]
    [file] = (tmp_path / "records").glob("*.log")
    os.truncate(file, last.offset + 100)
    with SegmentStore(tmp_path) as store, keep(store) as index:
        assert [entry.sequence for entry in indexed(index)] == [0, 1, 2]
        store.append([stored(7)])
        assert_like_the_files(index, store)


def test_another_process_looks_while_one_writes(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(0)])
        index.update()
        store.append([stored(1)])
        code = (
            "import sys; from pathlib import Path; from tests.buffer.test_index import *\n"
            "with look(Path(sys.argv[1])) as index: print([entry.sequence for entry in indexed(index)])"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout == "[0, 1]\n"
        assert len(index) == 1, "it changed nothing"
        # What is being written is no damage to those who look.
        last = indexed(index)[-1]
        with (tmp_path / "records" / f"{last.file:016d}.log").open("ab") as stream:
            stream.write(bytes(stored(2))[:1000])
        with look(tmp_path) as looking:
            assert [entry.sequence for entry in indexed(looking)] == [0, 1] and looking._log.corrupt == 0


def test_who_looks_leaves_nothing_behind(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(0)])
        index.update()
    before = sorted(path.name for path in tmp_path.iterdir())
    with look(tmp_path) as index:
        assert len(indexed(index)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_who_looks_sees_the_files_of_one_moment_though_a_learner_goes_on(tmp_path: Path) -> None:
    with SegmentStore(tmp_path, file_bytes=FILE_BYTES) as store, keep(store) as index:
        store.append([stored(0)])
        then = LogReader(tmp_path / "records")
        for sequence in range(1, 9):
            store.append([stored(sequence)])
        index.update()
        with SegmentIndex(tmp_path, then, keep=False) as looking:
            assert [entry.sequence for entry in indexed(looking)] == [0]


def test_a_full_disk_is_no_reason_to_make_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(0)])
        index.update()
    full = sqlite3.OperationalError("database or disk is full")
    monkeypatch.setattr("robotlearn.buffer.index._fitting", lambda base: (_ for _ in ()).throw(full))
    with SegmentStore(tmp_path) as store, pytest.raises(LogError, match="can't be made: database or disk is full"):
        keep(store)
    assert (tmp_path / NAME).stat().st_size > 0


def test_it_takes_no_longer_at_once_than_it_may(tmp_path: Path) -> None:
    with SegmentStore(tmp_path) as store, keep(store) as index:
        store.append([stored(sequence) for sequence in range(5)])
        for length in range(1, 6):
            index.update(limit_s=0)
            assert len(index) == length


DYING = """
import os, sys
from pathlib import Path
import robotlearn.buffer.index as module
from robotlearn.buffer.store import SegmentStore
from tests.buffer.test_index import keep

def dying(self, rows):
    global left
    left -= 1
    self._base.executemany(module._INSERT, rows)
    if left or sys.argv[3] == "committed":
        self._base.commit()
    if not left:
        os.kill(os.getpid(), 9)

module._AT_ONCE, left = 3, int(sys.argv[2])
module.SegmentIndex._add = dying
with SegmentStore(Path(sys.argv[1])) as store:
    keep(store).update()
"""


@pytest.mark.parametrize("when", ["committed", "uncommitted"])
def test_killed_while_it_is_made_it_goes_on(tmp_path: Path, when: str) -> None:
    with SegmentStore(tmp_path) as store:
        store.append([stored(sequence) for sequence in range(20)])
    there = 0
    for batches in (1, 2, 3):
        done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), str(batches), when], check=False)
        assert done.returncode == -signal.SIGKILL
        there += 3 * (batches if when == "committed" else batches - 1)
        with look(tmp_path) as index:
            assert len(index) == there
    with SegmentStore(tmp_path) as store, keep(store) as index:
        assert_like_the_files(index, store)


def test_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"log .*records can't be read: No such file"):
        look(tmp_path)
