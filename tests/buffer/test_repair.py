"""Repair: what is damaged goes aside, nothing else moves, and all that is gone is counted and, where known, named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robotlearn.buffer import repair as mending
from robotlearn.buffer.compact import evict
from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.repair import repair, survey
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from robotlearn.errors import LogError
from robotlearn.wire import record
from tests.buffer.kill_points import kill_at_calls
from tests.buffer.test_compact import FILE_BYTES, SIZE, Kept, piece

COUNT = 30  # seven in a file


@pytest.fixture
def at(tmp_path: Path) -> dict[int, Position]:
    """Where the segments of a store in `tmp_path` lie."""
    return fill(tmp_path)


def fill(path: Path) -> dict[int, Position]:
    with Kept(path, episodes=COUNT // 3) as kept:
        return kept.at


def change(path: Path, at: Position, offset: int, data: bytes) -> None:
    with (path / "records" / f"{at.file:016d}.log").open("r+b") as stream:
        stream.seek(at.offset + offset)
        stream.write(data)


def flip(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[9], SIZE - 70, b"\xff" * 8)
    return [9]


def no_prefix(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[3], 0, bytes(64))
    return [3]


def several(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[0], 0, bytes(2 * SIZE))
    change(path, at[4], 40, bytes(8))
    change(path, at[10], 900, b"\xee" * 90)
    return [0, 1, 4, 10]


def end_of_a_file(path: Path, at: dict[int, Position]) -> list[int]:
    os.truncate(path / "records" / f"{at[6].file:016d}.log", at[6].offset + 100)
    return [6]


def last_record(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[COUNT - 1], SIZE - 100, b"\xff")
    return [COUNT - 1]


def in_the_last_file(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[COUNT - 2], SIZE - 100, b"\xff")
    return [COUNT - 2]


def a_file(path: Path, at: dict[int, Position]) -> list[int]:
    (path / "records" / f"{1:016d}.log").unlink()
    return list(range(7, 14))


def the_last_files(path: Path, at: dict[int, Position]) -> list[int]:
    for file in (3, 4):
        (path / "records" / f"{file:016d}.log").unlink()
    return list(range(21, 30))


def notes(path: Path, at: dict[int, Position]) -> list[int]:
    for file in (path / "seen").glob("*.log"):
        file.write_bytes(bytes(100))
    return []


def no_notes(path: Path, at: dict[int, Position]) -> list[int]:
    shutil.rmtree(path / "seen")
    return []


def twice(path: Path, at: dict[int, Position]) -> list[int]:
    change(path, at[12], 0, bytes(piece(11)))
    return [12]


HARMS = (
    flip, no_prefix, several, end_of_a_file, last_record, in_the_last_file, a_file, the_last_files, notes, twice
)  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "indexed"),
    [(harm, True) for harm in HARMS] + [(harm, False) for harm in (several, a_file, the_last_files, no_notes)],
)
def test_it_is_whole_again_and_says_what_is_gone(
    tmp_path: Path, at: dict[int, Position], harm: Callable[[Path, dict[int, Position]], list[int]], indexed: bool
) -> None:
    lost = harm(tmp_path, at)
    if not indexed:
        (tmp_path / NAME).unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    planned = survey(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, "looking is looking"
    assert planned.segments == COUNT - len(lost)
    assert len(planned.lost) + planned.nameless == len(lost)
    assert {key[2] for key in planned.lost} <= set(lost) and (not indexed or planned.nameless == 0)
    found = repair(tmp_path)
    assert found == planned
    well = verify(tmp_path)
    assert (well.wrong, well.segments, well.lost) == ([], COUNT - len(lost), len(lost))
    with Kept(tmp_path, episodes=0) as kept:
        assert kept.sequences() == [n for n in range(COUNT) if n not in lost]
        for sequence in set(range(COUNT)) - set(lost):
            assert bytes(kept.store.read_record(at[sequence])) == bytes(piece(sequence)), "where a checkpoint has it"
        assert kept.store.stored == COUNT
        known = [outcome.kind for outcome in kept.store.append([piece(n) for n in range(COUNT)])]
        assert known == ["duplicate"] * COUNT
        kept.index.update()
        assert [entry.sequence for entry in kept.index.segments()] == kept.sequences()
    again = repair(tmp_path)
    assert (again.damaged, again.missing, again.lost, again.nameless) == ([], [], [], 0)


def test_what_is_damaged_is_kept_with_a_report(tmp_path: Path, at: dict[int, Position]) -> None:
    several(tmp_path, at)
    log = LogReader(tmp_path / "records")
    was = {one.name: bytes(log.bytes_at(one.position)) for one in survey(tmp_path).damaged}
    found = repair(tmp_path)
    aside = tmp_path / mending.QUARANTINE
    assert {path.name: path.read_bytes() for path in aside.glob("*.bytes")} == was and len(was) == 3
    assert sum(map(len, was.values())) == 4 * SIZE
    assert json.loads((aside / "repair-0000.json").read_bytes()) == json.loads(json.dumps(found.report))
    assert found.ranges() == [("edge-a", 1, [(0, 2), (4, 5), (10, 11)])]


def test_a_repaired_store_can_evict(tmp_path: Path, at: dict[int, Position]) -> None:
    several(tmp_path, at)
    repair(tmp_path)
    with SegmentStore(tmp_path) as store, SegmentIndex(tmp_path, store.records, keep=True) as index:
        evict(store, index, 0)
        assert store.evicted == COUNT - 4 and [*store.scan_headers()] == []
    well = verify(tmp_path)
    assert (well.wrong, well.evicted, well.lost) == ([], COUNT - 4, 4)


def test_not_while_a_learner_has_it(tmp_path: Path, at: dict[int, Position]) -> None:
    with SegmentStore(tmp_path), pytest.raises(LogError, match="is in use by process"):
        repair(tmp_path)


def test_nothing_is_cut_that_could_not_be_set_aside(
    tmp_path: Path, at: dict[int, Position], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(tmp_path, at)
    file = tmp_path / "records" / f"{at[9].file:016d}.log"
    before = file.read_bytes()
    monkeypatch.setattr(mending, "write_atomic", lambda path, data: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(LogError, match="can't be written, so nothing is repaired: full"):
        repair(tmp_path)
    assert file.read_bytes() == before


def test_a_hole_from_the_wire_is_no_segment(tmp_path: Path) -> None:
    with SegmentStore(tmp_path, file_bytes=FILE_BYTES) as store:
        [outcome] = store.append([record.hole(128)])
        assert outcome.kind == "damaged" and store.stored == 0


def repair_one(say: Callable[..., None], path: Path) -> None:
    several(path, fill(path))
    say("damaged", 1)
    repair(path)
    say("repaired", 1)


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow, id="every_call"), pytest.param(19, id="some")]
)
def test_killed_at_any_call_the_next_repair_ends_it(tmp_path: Path, step: int) -> None:
    lives = [life for life in kill_at_calls(repair_one, tmp_path, step=step) if life.numbers("damaged")]
    assert lives[-1].ended and len(lives) > 3
    for life in lives:
        repair(life.path)
        well = verify(life.path)
        assert (well.wrong, well.segments, well.lost) == ([], COUNT - 4, 4)
        kept = b"".join(path.read_bytes() for path in sorted((life.path / mending.QUARANTINE).glob("*.bytes")))
        assert len(kept) == 4 * SIZE
