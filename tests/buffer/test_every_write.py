"""Killed before any call that changes the disk, a store, its index and the checkpoints are whole when opened again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from robotlearn.buffer.compact import evict
from robotlearn.buffer.files import Files
from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.log_files import LogReader
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from tests.buffer.faults import KillingFiles, When, run_until_killed
from tests.buffer.kill_points import Killed, kill_at_calls
from tests.buffer.test_compact import FILE_BYTES, piece

STARRED, EPISODES, KEPT = (0, 3), 8, 5 * FILE_BYTES // 2

every = pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow, id="every_call"), pytest.param(11, id="every_11th")]
)


# ---- what is killed


def fill_and_evict(say: Callable[..., None], path: Path, files: Files | None = None) -> None:
    """Twice: store some episodes, bring the index up to date, evict the oldest."""
    store = SegmentStore(path, file_bytes=FILE_BYTES, files=files)
    index = SegmentIndex(path, store.records, keep=True)
    for half in range(2):
        for episode in range(half * EPISODES // 2, (half + 1) * EPISODES // 2):
            sequences = range(3 * episode, 3 * episode + 3)
            store.append([piece(sequence, STARRED) for sequence in sequences])
            say("stored", *sequences)
        index.update()
        say("evicting", half)
        evict(store, index, KEPT)
        say("evicted", half)
    index.close()
    store.close()


def save_checkpoints(say: Callable[..., None], path: Path) -> None:
    from robotlearn import checkpoint
    from tests.test_checkpoint import made

    for version in range(1, 5):
        checkpoint.save(made(version), path)
        say("saved", version)
        checkpoint.prune(path, 2)
        say("pruned", version)


# ---- what is there then


def assert_whole(life: Killed) -> None:
    """Opened again: what was acknowledged is there, or evicted and counted; and counts, files and index agree."""
    stored, evicting = set(life.numbers("stored")), life.numbers("evicting")
    with SegmentStore(life.path, file_bytes=FILE_BYTES) as store:
        found = {header.sequence: position for position, header in store.scan_headers()}
        assert store.stored == len(found) + store.evicted
        gone = stored - found.keys()
        assert len(gone) <= store.evicted and (not gone or evicting)
        assert not any(sequence // 3 in STARRED for sequence in gone)
        assert all(sequence < min(found.keys() - {0, 1, 2, 9, 10, 11}) for sequence in gone), "the oldest first"
        assert all(store.seen("edge-a", 1, sequence) for sequence in stored)
        for sequence, position in found.items():
            assert bytes(store.read_record(position)) == bytes(piece(sequence, STARRED))
        with SegmentIndex(life.path, store.records, keep=True) as index:
            index.update()
            kept = list(index.segments())
    assert verify(life.path).wrong == []
    (life.path / NAME).unlink()
    with SegmentIndex(life.path, LogReader(life.path / "records"), keep=False) as anew:
        anew.update()
        assert list(anew.segments()) == kept, "the index is like one made of the files alone"
    with SegmentStore(life.path, file_bytes=FILE_BYTES) as store:  # the edge sends all of it again
        outcomes = store.append([piece(sequence, STARRED) for sequence in range(3 * EPISODES)])
        assert {o.header.sequence for o in outcomes if o.kind == "stored" and o.header} == set(
            range(3 * EPISODES)
        ) - set(range(store.stored - sum(o.kind == "stored" for o in outcomes)))
        assert store.stored == 3 * EPISODES
    assert verify(life.path).wrong == []


@every
def test_a_store_that_evicts_and_its_index(tmp_path: Path, step: int) -> None:
    lives = kill_at_calls(fill_and_evict, tmp_path, step=step)
    assert lives[-1].ended and lives[-1].numbers("evicted") == [0, 1] and lives[-1].at > 100
    assert any(life.numbers("evicting")[-1:] != life.numbers("evicted")[-1:] for life in lives), "in the middle of it"
    for life in lives:
        assert_whole(life)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "half"])
def test_a_store_that_evicts_broken_off_within_a_write(tmp_path: Path, when: When) -> None:
    for at in itertools.count():
        path = tmp_path / str(at)
        told, killed = run_until_killed(fill_and_evict_killing, path, at, when)
        lines = [line.split() for line in told.splitlines()]
        life = Killed(at, path, not killed, lines)
        assert_whole(life)
        if not killed and at >= life.numbers("calls")[0]:
            assert at > 40
            return


def fill_and_evict_killing(say: Callable[..., None], path: Path, at: int, when: When) -> None:
    files = KillingFiles(at, when)
    fill_and_evict(say, path, files)
    say("calls", files.calls)


@every
def test_checkpoints(tmp_path: Path, step: int) -> None:
    from robotlearn import checkpoint
    from robotlearn.errors import CheckpointError
    from tests.test_checkpoint import CONTRACT, assert_equal, made

    lives = kill_at_calls(save_checkpoints, tmp_path, step=step, imports="tests.test_checkpoint")
    assert lives[-1].ended and lives[-1].at > 40
    for life in lives:
        saved = max(life.numbers("saved"), default=0)
        try:
            found = checkpoint.load_newest(life.path, CONTRACT)
        except CheckpointError:
            assert saved == 0
            continue
        assert found.version in (saved, saved + 1), "the last complete one, or the one that was just being finished"
        expected = made(found.version)
        assert found.facts == expected.facts
        assert_equal(found.policy, expected.policy)
        assert_equal(found.algorithm, expected.algorithm)
        checkpoint.save(made(9), life.path)
        checkpoint.prune(life.path, 1)
        assert [path.name for path in life.path.iterdir()] == ["000009"], "nothing half is left behind"
