"""`robotlearn data ls|stats|verify`: what a learner has stored, as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.buffer.index import NAME, SegmentIndex
from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError
from robotlearn.wire import record
from robotlearn.wire.encodings import Encodings, ImageEncoding
from robotlearn.wire.segment import Segment
from tests.wire.make import make_segment


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


def store_all(run: Path, segments: list[Segment]) -> None:
    with SegmentStore(run / "segments") as store:
        for sequence, segment in enumerate(segments, store.stored):
            [outcome] = store.append([record.encode(segment, session=7, sequence=sequence)])
            assert outcome.kind == "stored", outcome.reason


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of edge a: a success in two pieces, a failure, and one that goes on. Of edge b, another model: a success."""
    store_all(
        tmp_path,
        [
            make_segment(episode=1, version=2),
            make_segment(episode=2, last=True, success=np.zeros(6, bool), version=3),
            make_segment(episode=1, first_step=6, last=True, starred=True, version=3),
            make_segment(episode=3, version=4),
            make_segment(edge="b", robot="left", embodiment="so101", task="push", episode=1, last=True, version=5),
        ],
    )
    return tmp_path


def test_episodes_are_listed_the_newest_last_also_while_a_learner_writes(run: Path) -> None:
    with SegmentStore(run / "segments") as store, SegmentIndex(store.path, store.records, keep=True) as index:
        index.update()
        shown = said("ls", run)
        assert shown.exit_code == 0, shown.output
        lines = shown.stdout.splitlines()
        assert lines[0].split() == ["edge", "robot", "task", "episode", "segments", "steps", "MB", "outcome", "weights"]
        ends = [line.split()[-2:] for line in lines[1:]]
        assert ends == [["failure", "3"], ["3", "intervened"], ["unfinished", "4"], ["success", "5"]]
        assert lines[2].split()[5:10] == ["1", "2", "12", "0.0", "success"] and "2 to 3" in lines[2]
    assert said("ls", run / "segments").stdout == shown.stdout


@pytest.mark.parametrize(
    ("chosen", "episodes"),
    [
        (["--robot", "so101"], [("b", 1)]),
        (["--robot", "left"], [("b", 1)]),
        (["--task", "lift"], [("edge-a", 2), ("edge-a", 1), ("edge-a", 3)]),
        (["--outcome", "success"], [("edge-a", 1), ("b", 1)]),
        (["--outcome", "unfinished"], [("edge-a", 3)]),
        (["--starred"], [("edge-a", 1)]),
        (["--last", "1"], [("b", 1)]),
        (["--last", "0"], [("edge-a", 2), ("edge-a", 1), ("edge-a", 3), ("b", 1)]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_episodes_are_chosen(run: Path, chosen: list[str], episodes: list[tuple[str, int]]) -> None:
    told = json.loads(said("ls", run, "--json", *chosen).stdout)
    assert [(one["edge"], one["episode"]) for one in told["episodes"]] == episodes
    assert told["of"] == (4 if "--last" in chosen else len(episodes))
    if chosen == ["--last", "1"]:
        assert "the newest 1 of 4 episodes; --last 0 shows all" in said("ls", run, *chosen).stdout


def test_sums_say_how_much_there_is_and_how_it_went(run: Path) -> None:
    told = json.loads(said("stats", run, "--json").stdout)
    first, second = told["groups"]
    assert (first["edge"], first["model"], first["episodes"], first["unfinished"]) == ("b", "so101", 1, 0)
    assert (second["edge"], second["model"], second["task"]) == ("edge-a", "panda", "lift the cube")
    assert (second["episodes"], second["unfinished"], second["success"], second["steps"]) == (3, 1, 0.5, 24)
    assert (second["intervened"], second["segments"], second["versions"]) == (1, 4, [2, 4])
    with SegmentStore(run / "segments") as store:
        assert told["total"]["nbytes"] == sum(position.length for position, _ in store.scan_headers())
    lines = said("stats", run).stdout.splitlines()
    assert lines[2].split() == [
        "edge-a",
        "panda",
        "lift",
        "the",
        "cube",
        "3",
        "50.0%",
        "1",
        "1",
        "4",
        "24",
        "0.0",
        "2",
        "to",
        "4",
    ]
    assert lines[3].split()[:3] == ["4", "66.7%", "1"]


def test_what_is_well_is_said_to_be(run: Path) -> None:
    done = said("verify", run)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'segments'}: 5 segments, 30 steps, 0.0 MB: all well\n"
    with SegmentStore(run / "segments") as store, SegmentIndex(store.path, store.records, keep=True) as index:
        index.update()
        assert said("verify", run).stdout == done.stdout, "while a learner has it"


def test_damage_is_found_and_where_it_is(run: Path) -> None:
    with SegmentStore(run / "segments") as store:
        positions = [position for position, _ in store.scan_headers()]
    [file] = (run / "segments" / "records").glob("*.log")
    data = bytearray(file.read_bytes())
    data[positions[1].offset + 400] ^= 1
    file.write_bytes(data + data[: positions[0].length])  # and the first record once more
    done = said("verify", run)
    assert done.exit_code == 1
    twice, damaged, sums = done.stdout.splitlines()
    assert twice == f"file 0, offset {len(data)}: record 0 of session {7:016x} of edge edge-a is there twice"
    assert damaged.startswith("damaged records: 1, in ") and "5 segments" in sums and "2 faults" in sums
    told = json.loads(said("verify", run, "--json").stdout)
    assert told["wrong"] == [twice, damaged]


@pytest.mark.parametrize("which", [[2], [-1, -2]], ids=["in_between", "the_last_ones"])
def test_lost_files_are_found(tmp_path: Path, which: list[int]) -> None:
    with SegmentStore(tmp_path / "segments", file_bytes=8192) as store:
        for sequence in range(12):
            store.append([record.encode(make_segment(), session=7, sequence=sequence)])
    files = sorted((tmp_path / "segments" / "records").glob("*.log"))
    assert len(files) >= 4 and said("verify", tmp_path).exit_code == 0
    for index in which:
        files[index].unlink()
    done = said("verify", tmp_path)
    assert done.exit_code == 1 and "of 12 segments that were stored are not there any more" in done.stdout
    assert ("file 2 is missing in" in done.stdout) == (which == [2])


def test_a_flipped_bit_in_the_last_record_is_no_write_that_goes_on(run: Path) -> None:
    [file] = (run / "segments" / "records").glob("*.log")
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    done = said("verify", run)
    assert done.exit_code == 1 and "damaged records: 1" in done.stdout and "has not ended" not in done.stdout


def test_a_write_that_has_not_ended_is_no_fault(run: Path) -> None:
    [file] = (run / "segments" / "records").glob("*.log")
    with file.open("ab") as stream:
        stream.write(bytes(record.encode(make_segment(), session=7, sequence=9))[:500])
    done = said("verify", run)
    assert done.exit_code == 0 and done.stdout.endswith(
        "all well; the last 500 bytes are of a write that has not ended\n"
    )


def test_what_would_steer_a_terminal_is_not_printed(tmp_path: Path) -> None:
    store_all(tmp_path, [make_segment(last=True, task="\x1b[2Jlift")])
    assert "\x1b" not in said("ls", tmp_path).stdout and "\ufffd[2Jlift" in said("ls", tmp_path).stdout


def test_an_index_that_does_not_fit_is_found(run: Path) -> None:
    with SegmentStore(run / "segments") as store, SegmentIndex(store.path, store.records, keep=True) as index:
        index.update()
        index._base.execute("DELETE FROM segments WHERE sequence = 2")
        index._base.commit()
    done = said("verify", run)
    assert done.exit_code == 1 and f"{run / 'segments' / NAME} doesn't fit the files at file 0" in done.stdout


def test_images_that_cant_be_decoded_are_found_when_asked_for(tmp_path: Path) -> None:
    jpeg = Encodings(other=ImageEncoding("jpeg"))
    data = record.encode(make_segment(image=16, encodings=jpeg), session=7, sequence=0)
    at = bytes(data).index(b"\xff\xd8\xff") + 20
    data[at : at + 200] = bytes(200)
    data[8:16] = record.xxhash.xxh3_64_intdigest(memoryview(data)[16:]).to_bytes(8, "little")
    with SegmentStore(tmp_path / "segments") as store:
        assert [outcome.kind for outcome in store.append([data])] == ["stored"]
    assert said("verify", tmp_path).exit_code == 0
    done = said("verify", tmp_path, "--images")
    assert done.exit_code == 1 and "file 0, offset 0: jpeg: it can't be decoded" in done.stdout


@pytest.mark.parametrize("command", ["ls", "stats", "verify"])
def test_a_folder_without_a_store_is_one_clear_line(tmp_path: Path, command: str) -> None:
    done = said(command, tmp_path)
    assert isinstance(done.exception, LogError)
    assert (
        str(done.exception)
        == f"{tmp_path} holds no stored segments: no folder records in it, nor in {tmp_path / 'segments'}"
    )
