"""A run, read: what it came to, whatever is missing, broken or done again in its metrics."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from robotlearn.errors import RunFolderError
from robotlearn.report.run import Run, number
from tests.report.conftest import Place


def test_a_real_run_is_what_its_metrics_say(place: Place) -> None:
    run = Run.read(place("lift-1"))
    rows = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert list(run.rows) == rows and run.undone == 0
    summary, last = run.summary(), rows[-1]
    assert (summary.updates, summary.env_steps, summary.seconds) == (16, last["env_steps"], last["seconds"])
    assert (summary.start_success, summary.final_success) == (rows[0]["eval_success"], last["eval_success"])
    good = [row for row in rows if (row.get("eval_success") or 0) >= 0.9]
    assert (summary.seconds_to_90, summary.env_steps_to_90) == (good[0]["seconds"], good[0]["env_steps"])
    assert summary.staleness_max == 2
    assert run.state == "complete" and run.title == "lift with panda"


def test_a_run_without_a_measured_start_or_a_good_end_says_so(place: Place) -> None:
    summary = Run.read(place("smoke")).summary()
    assert summary.start_success is None and summary.seconds_to_90 is None and summary.env_steps_to_90 is None
    assert summary.final_success == 0.15 and summary.final_episodes == 20


def test_what_a_crash_or_a_stranger_left_in_the_file_costs_no_row(place: Place) -> None:
    path = place("smoke")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    junk = ["null", "[1]", '"text"', "3", '{"version": 4, "suc', "\x00\xff", "{}"]
    (path / "metrics.jsonl").write_text("\n".join([*lines[:3], *junk, *lines[3:], '{"updates": 21']))
    assert [dict(row) for row in Run.read(path).rows] == [json.loads(line) for line in lines]


def test_updates_that_were_done_again_after_a_resume_count_once(place: Place) -> None:
    path = place("lift-0")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    again = [row | {"version": row["version"] + 3, "success": 0.5} for row in rows if row.get("updates") in (15, 16)]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*rows[:-2], *again])))
    run = Run.read(path)
    assert [row["updates"] for row in run.updates] == list(range(1, 17))
    assert [row["success"] for row in run.updates[-2:]] == [0.5, 0.5]
    assert run.undone == 2
    assert [row["version"] for row in run.evaluations] == [0, 4, 8, 12]


def test_a_run_is_running_only_while_its_learner_lives(place: Place) -> None:
    path = place("lift-0")
    (path / "address").write_text("tcp://127.0.0.1:1")
    (path / "lock").write_text(str(os.getpid()))
    assert Run.read(path).state == "running"
    (path / "lock").write_text(str(2**22 + 1))  # beyond the largest process id
    assert Run.read(path).state == "complete"


def test_a_run_that_ended_before_its_last_update_was_stopped(place: Place) -> None:
    path = place("lift-0")
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[:7]))
    assert Run.read(path).state == "stopped"


def test_what_is_no_run_is_refused_in_words(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere: there is no such run folder"):
        Run.read(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"is not a run folder \(no config.yaml in it\)"):
        Run.read(tmp_path)
    empty = place("smoke", "empty", instead=True)
    with pytest.raises(RunFolderError, match="empty: nothing measured yet"):
        Run.read(empty)
    (empty / "metrics.jsonl").unlink()
    with pytest.raises(RunFolderError, match="nothing measured yet"):
        Run.read(empty)


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), 10**400, [1], {}])
def test_what_is_no_number_is_none(value: object) -> None:
    assert number(value) is None
    assert number(0) == 0 and number(-1.5) == -1.5
