"""`robotlearn data merge|repair`: several stores in one, and a damaged one that is whole again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robotlearn import checkpoint
from robotlearn.buffer.index import NAME
from robotlearn.buffer.log import LogFull
from robotlearn.buffer.log_files import LogReader, Position
from robotlearn.buffer.merge import merge
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from robotlearn.checkpoint import Checkpoint
from robotlearn.errors import LogError
from tests.buffer.faults import FullFiles
from tests.buffer.kill_points import kill_at_calls
from tests.buffer.victims import stored
from tests.commands.test_data_kept import made, store_all
from tests.commands.test_data_stored import said


def held(store: Path) -> list[tuple[str, int, int]]:
    with SegmentStore(store) as opened:
        return [(header.edge, header.session, header.sequence) for _, header in opened.scan_headers()]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Of edge-a: segments 0 to 5 in one run and 0 to 3, the same, in the other, which has some of edge b as well."""
    same = [made(n) for n in range(6)]
    store_all(tmp_path / "one", same)
    store_all(tmp_path / "two", same[:4])
    store_all(tmp_path / "two", [made(n, edge="b") for n in range(5)], session=8)
    return tmp_path / "one", tmp_path / "two"


EXPECTED = [("edge-a", 7, n) for n in range(6)] + [("b", 8, n) for n in range(5)]


def test_each_segment_is_there_once(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    before = {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()}
    out = tmp_path / "new"
    with SegmentStore(runs[1] / "segments"):  # a learner goes on with one of them
        done = said("merge", *runs, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"{runs[0] / 'segments'}: 6 segments, 0.0 MB",
        f"{runs[1] / 'segments'}: 5 segments, 0.0 MB, 4 were there",
        f"{out}: 11 segments",
    ]
    files = {path: path.read_bytes() for path in before if "lock" not in path.name and "seen" not in path.parts}
    assert all(before[path] == data for path, data in files.items())
    assert held(out) == EXPECTED
    assert verify(out).wrong == [] and (out / NAME).exists()
    assert json.loads(said("stats", out, "--json").stdout)["total"]["episodes"] == 11
    assert len(json.loads(said("ls", out, "--json").stdout)["episodes"]) == 11


def test_it_is_added_to_only_when_asked(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    out = tmp_path / "new"
    assert said("merge", runs[0], "--out", out).exit_code == 0
    refused = said("merge", runs[1], "--out", out)
    assert isinstance(refused.exception, LogError) and "is not empty; with --append" in str(refused.exception)
    told = json.loads(said("merge", *runs, "--out", out, "--append", "--json").stdout)
    assert [(one["segments"], one["duplicates"]) for one in told["from"]] == [(0, 6), (5, 4)]
    assert told["segments"] == 11 and held(out) == EXPECTED


@pytest.mark.parametrize("out", ["one/segments", "one", "three", "other"])
def test_into_what_it_does_not_merge(tmp_path: Path, runs: tuple[Path, Path], out: str) -> None:
    (runs[0] / "config.yaml").touch()
    store_all(tmp_path / "three", [made(0)])
    (tmp_path / "three" / "config.yaml").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    place = tmp_path / out / "segments" if out == "three" else tmp_path / out
    refused = said("merge", *runs, "--out", place, "--append")
    assert isinstance(refused.exception, LogError) and str(place) in str(refused.exception)
    assert "give another folder" in str(refused.exception)


def test_damaged_segments_are_left_out_and_that_is_said(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    file = runs[0] / "segments" / "records" / f"{0:016d}.log"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1  # of the third segment, which the other run has whole
    file.write_bytes(data)
    done = said("merge", *runs, "--out", tmp_path / "new")
    assert done.exit_code == 1 and "5 segments, 0.0 MB, 1 damaged are left out" in done.stdout
    assert sorted(held(tmp_path / "new")) == sorted(EXPECTED)


def test_a_full_disk_breaks_it_off_and_it_goes_on_later(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    files = FullFiles(3000)
    folders = [run / "segments" for run in runs]
    with SegmentStore(tmp_path / "new", files=files) as store, pytest.raises(LogFull):
        merge(folders, store)
    assert said("merge", *runs, "--out", tmp_path / "new", "--append").exit_code == 0
    assert held(tmp_path / "new") == EXPECTED


def merge_two(say: Callable[..., None], path: Path) -> None:
    for name, sessions in (("one", (1, 2)), ("two", (2, 3))):
        with SegmentStore(path / name) as store:
            for session in sessions:
                store.append([stored(n, session=session) for n in range(4)])
    say("made", 1)
    with SegmentStore(path / "new", file_bytes=9000) as store:
        merge([path / "one", path / "two"], store)
    say("merged", 1)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_killed_at_any_call_it_goes_on(tmp_path: Path, step: int) -> None:
    lives = [life for life in kill_at_calls(merge_two, tmp_path, step=step) if life.numbers("made")]
    assert lives[-1].ended and len(lives) > 2
    for life in lives:
        one, two, new = (life.path / name for name in ("one", "two", "new"))
        assert said("merge", one, two, "--out", new, "--append").exit_code == 0
        assert sorted(held(life.path / "new")) == [("edge-a", session, n) for session in (1, 2, 3) for n in range(4)]
        assert verify(life.path / "new").wrong == []


def test_a_repair_says_what_was_lost_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    at = store_all(tmp_path, [made(n) for n in range(9)])
    facts = {"unused": [list(at[2]), list(at[4])], "end": list(at[7])}
    checkpoint.save(Checkpoint(1, {"one": torch.zeros(1)}, {}, facts), tmp_path / "checkpoints")
    for position in (at[1], at[3]):
        file = tmp_path / "segments" / "records" / f"{position.file:016d}.log"
        data = bytearray(file.read_bytes())
        data[position.offset + 500] ^= 1
        file.write_bytes(data)
    assert said("verify", tmp_path).exit_code == 1
    before = LogReader(tmp_path / "segments" / "records").file_sizes()
    planned = said("repair", tmp_path, "--dry-run")
    assert planned.exit_code == 0 and "2 damaged pieces would be moved to" in planned.stdout
    assert said("verify", tmp_path).exit_code == 1, "nothing was changed"
    done = said("repair", tmp_path)
    place = f"file 0, offset {at[1].offset}, {at[1].length} bytes"
    assert done.stdout.splitlines()[0] == f"{place}: no whole record with a right checksum"
    assert f"lost: edge edge-a, session {7:016x}, segments 1, 3" in done.stdout
    store = tmp_path / "segments"
    well = f"{store}: 7 segments are well; 2 damaged pieces moved to {store / 'quarantine'}"
    assert done.stdout.splitlines()[-1] == well
    assert "7 segments, 42 steps, 0.0 MB (2 lost to damage before): all well" in said("verify", tmp_path).stdout
    assert LogReader(tmp_path / "segments" / "records").file_sizes().items() >= before.items()
    again = checkpoint.load_newest(tmp_path / "checkpoints", {})
    with SegmentStore(tmp_path / "segments") as store:
        assert [store.read(Position(*position)).episode for position in again.facts["unused"]] == [2, 4]
        assert [segment.episode for _, segment in store.scan(Position(*again.facts["end"]))] == [7, 8]
    told = json.loads(said("repair", tmp_path, "--json").stdout)
    assert (told["damaged"], told["missing_files"], told["lost"], told["lost_nameless"]) == ([], [], [], 0)
    assert said("repair", tmp_path).stdout == f"{tmp_path / 'segments'}: 7 segments, nothing to repair\n"


def test_notes_that_are_gone_are_said_and_made_anew(tmp_path: Path) -> None:
    store_all(tmp_path, [made(n) for n in range(9)])
    shutil.rmtree(tmp_path / "segments" / "seen")
    for command in ("stats", "verify"):
        refused = said(command, tmp_path)
        assert "lacks seen, its notes of what was stored: `robotlearn data repair`" in str(refused.exception)
    assert "and would be made anew: what was evicted is known no more" in said("repair", tmp_path, "--dry-run").stdout
    assert not (tmp_path / "segments" / "seen").exists()
    done = said("repair", tmp_path).stdout
    assert "and are made anew: what was evicted is known no more" in done and "nothing else to repair" in done
    assert "9 segments, 54 steps, 0.0 MB: all well" in said("verify", tmp_path).stdout
    assert "nothing to repair" in said("repair", tmp_path).stdout


def test_no_repair_while_a_learner_has_it(runs: tuple[Path, Path]) -> None:
    with SegmentStore(runs[0] / "segments"):
        done = said("repair", runs[0])
        assert isinstance(done.exception, LogError) and f"is in use by process {os.getpid()}" in str(done.exception)
