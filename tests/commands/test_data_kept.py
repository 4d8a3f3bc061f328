"""`robotlearn data prune|merge|repair`: what of a store is kept."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from robotlearn import checkpoint
from robotlearn.buffer.log_files import Position
from robotlearn.buffer.store import SegmentStore
from robotlearn.buffer.verify import verify
from robotlearn.checkpoint import Checkpoint
from robotlearn.errors import CheckpointError, LogError
from robotlearn.wire import record
from robotlearn.wire.segment import Segment
from tests.commands.test_data_stored import said
from tests.wire.make import make_segment

DAY = 86400.0


def made(episode: int, *, failed: bool = False, age_days: float = 0.0, **fields: object) -> Segment:
    """An episode of one segment that ended so many days ago."""
    if failed:
        fields["success"] = np.zeros(6, bool)
    segment = make_segment(seed=episode, episode=episode, last=True, **fields)  # type: ignore[arg-type]
    return replace(segment, wall=segment.wall - segment.wall[-1] + time.time() - age_days * DAY)


def store_all(run: Path, segments: list[Segment], session: int = 7) -> list[Position]:
    """Three in a file, so that some must be written anew; returns where each lies."""
    size = len(record.encode(segments[0], session=session, sequence=0))
    with SegmentStore(run / "segments", file_bytes=3 * size + 200) as store:
        first = sum(header.session == session for _, header in store.scan_headers())
        batch = [record.encode(segment, session=session, sequence=n) for n, segment in enumerate(segments, first)]
        outcomes = store.append(batch)
        return [outcome.position for outcome in outcomes if outcome.position is not None]


def left(run: Path) -> list[int]:
    with SegmentStore(run / "segments") as store:
        return [header.episode for _, header in store.scan_headers()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten episodes, a day between them: odd ones failed, weights as old as they are; a person helped in 3."""
    store_all(
        tmp_path,
        [made(n, failed=n % 2 == 1, age_days=9.5 - n, version=n, starred=n == 3) for n in range(10)],
    )
    return tmp_path


@pytest.mark.parametrize(
    ("which", "gone"),
    [
        (["--keep", "4"], [0, 1, 2, 4, 5]),
        (["--older-than", "6"], [0, 1, 2]),
        (["--failures"], [1, 5, 7, 9]),
        (["--versions-below", "5"], [0, 1, 2, 4]),
        (["--max-gb", "0"], [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        (["--max-gb", "1"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_what_was_asked_for_goes_and_nothing_else(run: Path, which: list[str], gone: list[int]) -> None:
    before = sorted((path, path.read_bytes()) for path in (run / "segments").rglob("*") if path.is_file())
    planned = json.loads(said("prune", run, *which, "--dry-run", "--json").stdout)
    after = sorted((path, path.read_bytes()) for path in (run / "segments").rglob("*") if path.is_file())
    assert after == before, "a dry run changes nothing"
    told = json.loads(said("prune", run, *which, "--json").stdout)
    assert left(run) == [n for n in range(10) if n not in gone]
    assert told["episodes"] == planned["episodes"] == told["segments"] == len(gone) == told["evicted"]
    assert told["nbytes"] == planned["nbytes"] and told["starred"] == planned["starred"] == (which != ["--max-gb", "1"])
    found = verify(run / "segments")
    assert (found.wrong, found.evicted, found.segments) == ([], len(gone), 10 - len(gone))
    assert said("ls", run, "--json").exit_code == 0


def test_it_says_what_went_and_what_stays_and_why(run: Path) -> None:
    shown = said("prune", run, "--versions-below", "5", "--dry-run")
    assert shown.stdout.splitlines()[0].endswith("4 episodes, 4 segments, 0.0 MB would go")
    done = said("prune", run, "--versions-below", "5")
    assert done.stdout.splitlines() == [
        f"{run / 'segments'}: 4 episodes, 4 segments, 0.0 MB deleted",
        "1 episodes stay because a person intervened in them",
    ]
    assert "6 segments, 36 steps, 0.0 MB (4 evicted before): all well" in said("verify", run).stdout
    assert "not there any more: 4 segments evicted, 0 lost to damage" in said("stats", run).stdout
    told = json.loads(said("stats", run, "--json").stdout)
    assert (told["total"]["segments"], told["evicted"], told["lost"]) == (6, 4, 0)
    assert said("prune", run, "--max-gb", "0", "--dry-run").exit_code == 0
    assert "are left: nothing else may go" in said("prune", run, "--max-gb", "0").stderr


def test_a_resumed_run_finds_all_that_its_newest_checkpoint_has_yet_to_learn_from(tmp_path: Path) -> None:
    at = store_all(tmp_path, [made(n) for n in range(20)])
    unused, end = [at[4], at[9]], at[14]
    for version, facts in ((1, {"unused": [], "end": [0, 0, 0]}), (2, {"unused": unused, "end": end})):
        made_up = {"one": torch.zeros(1)}
        checkpoint.save(Checkpoint(version, made_up, made_up, facts), tmp_path / "checkpoints")
    told = json.loads(said("prune", tmp_path, "--keep", "0", "--json").stdout)
    assert told["episodes"] + told["needed"] == 20 and told["episodes"] >= 6
    again = checkpoint.load_newest(tmp_path / "checkpoints", {})
    with SegmentStore(tmp_path / "segments") as store:
        assert [store.read(Position(*position)).episode for position in again.facts["unused"]] == [4, 9]
        found = [segment.episode for _, segment in store.scan(Position(*again.facts["end"]))]
        assert found == list(range(14, 20)) and store.corrupt == 0
    # Also where only the store is named.
    assert json.loads(said("prune", tmp_path / "segments", "--keep", "0", "--json").stdout)["episodes"] == 0


def test_without_a_checkpoint_that_can_be_read_nothing_goes(tmp_path: Path) -> None:
    store_all(tmp_path, [made(n) for n in range(3)])
    path = checkpoint.save(Checkpoint(1, {"one": torch.zeros(1)}, facts={"end": [0, 0, 0]}), tmp_path / "checkpoints")
    os.truncate(path / "checkpoint.json", 20)
    done = said("prune", tmp_path, "--keep", "0")
    assert isinstance(done.exception, CheckpointError) and left(tmp_path) == [0, 1, 2]


def test_not_while_a_learner_has_it(run: Path) -> None:
    with SegmentStore(run / "segments"):
        done = said("prune", run, "--keep", "0")
        assert isinstance(done.exception, LogError) and f"is in use by process {os.getpid()}" in str(done.exception)
        assert said("prune", run, "--keep", "0", "--dry-run").exit_code == 0
    assert len(left(run)) == 10


@pytest.mark.parametrize("which", [[], ["--keep", "1", "--failures"]], ids=["none", "two"])
def test_exactly_one_rule_must_be_given(run: Path, which: list[str]) -> None:
    done = said("prune", run, *which)
    assert done.exit_code == 2 and "exactly one of --max-gb" in click.unstyle(done.output).replace("\n", " ")
    assert len(left(run)) == 10
