"""`robotlearn data quarantine`: what lies there is shown, and sent again when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from robotlearn import cli
from robotlearn.buffer.spool import Spool
from robotlearn.errors import LogError
from tests.wire.make import make_segment


def said(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "quarantine", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two edges; the learner has refused two records of the left one."""
    for name in ("left", "right"):
        with Spool(tmp_path / "edges" / name / "spool", edge=name) as spool:
            for _ in range(3):
                spool.record(make_segment(edge=name))
            if name == "left":
                for sequence in (0, 2):
                    spool.reject(spool.session, sequence, f"no {sequence}")
    return tmp_path


def test_it_is_shown_with_the_reason_also_while_the_edge_runs(run: Path) -> None:
    with Spool(run / "edges" / "left" / "spool", edge="left"):
        shown = said(run)
        assert shown.exit_code == 0, shown.output
        lines = shown.stdout.splitlines()
        assert lines[0].split() == ["edge", "session", "sequence", "robot", "steps", "bytes", "since", "reason"]
        for line, sequence in zip(lines[1:], ("0", "2"), strict=True):
            words = line.split()
            assert (words[0], words[2], words[-2:]) == ("left", sequence, ["no", sequence])
        told = json.loads(said(run / "edges" / "left", "--json").stdout)
        assert [(one["sequence"], one["reason"], one["steps"]) for one in told["quarantined"]] == [
            (0, "no 0", 6), (2, "no 2", 6),
        ]  # fmt: skip
    assert "nothing in quarantine" in said(run / "edges" / "right" / "spool").stdout


def test_a_program_reads_whole_lines(run: Path) -> None:
    narrow = CliRunner().invoke(cli.app, ["data", "quarantine", str(run)], env={"COLUMNS": "40"}).stdout.splitlines()
    assert [line.split()[-2:] for line in narrow[1:]] == [["no", "0"], ["no", "2"]]
    assert len(narrow[1].split()[1]) == 16, "the session, as in the edge's log"


def test_retried_it_is_sent_again_once(run: Path) -> None:
    done = said(run, "--retry")
    assert done.exit_code == 0 and "2 taken out" in done.stdout, done.output
    with Spool(run / "edges" / "left" / "spool", edge="left") as spool:
        assert (spool.counts().rejected, spool.counts().pending) == (0, 3)
    assert "nothing in quarantine" in said(run, "--retry").stdout


def test_a_damaged_record_is_named_and_stays(run: Path) -> None:
    file = sorted((run / "edges" / "left" / "spool" / "quarantine").glob("*.record"))[0]
    file.write_bytes(b"\0" * 100)
    done = said(run, "--retry")
    assert "damaged" in done.stdout and "1 taken out" in done.stdout and "1 are damaged and stay" in done.stderr
    assert file.exists()


def test_what_is_no_log_and_a_running_edge_are_one_clear_line(run: Path) -> None:
    with pytest.raises(LogError, match="holds no edge's log"):
        raise said(run / "edges").exception  # type: ignore[misc]
    with Spool(run / "edges" / "left" / "spool", edge="left"), pytest.raises(LogError, match="in use"):
        raise said(run, "--retry").exception  # type: ignore[misc]
