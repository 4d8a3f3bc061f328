"""`robotlearn report` and `robotlearn compare`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.conftest import Place


def robotlearn(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "robotlearn", *map(str, arguments)], capture_output=True, text=True)


def test_report_writes_a_page_into_each_run(place: Place) -> None:
    paths = [place("lift-0"), place("lift-1"), place("smoke")]
    said = robotlearn("report", *paths)
    assert said.returncode == 0 and said.stderr == ""
    assert said.stdout.splitlines() == [f"report: {path / 'report.html'}" for path in paths]
    drawn = ["2 seeds: median" in (path / "report.html").read_text() for path in paths]
    assert drawn == [True, True, False], "only runs that differ in nothing but the seed are drawn together"


def test_compare_prints_a_table_or_json_and_writes_a_page(place: Place, tmp_path: Path) -> None:
    paths = [place("lift-0"), place("smoke")]
    table = robotlearn("compare", *paths, "--html", tmp_path / "page.html")
    assert table.returncode == 0 and "lift-0" in table.stdout and "learner.updates" in table.stdout
    assert (tmp_path / "page.html").read_text().count("<figure>") == 8
    as_json = robotlearn("compare", *paths, "--json")
    assert [each["task"] for each in json.loads(as_json.stdout)["runs"]] == [["lift"], ["reach"]]


MISTAKES = {
    "no such folder": (["nowhere"], "nowhere: there is no such run folder"),
    "no run folder": (["."], "is not a run folder (no config.yaml in it)"),
    "nothing measured": (["smoke/early"], "early: nothing measured yet"),
    "named twice": (["smoke", "smoke"], "is named twice"),
}


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command: str, mistake: str, place: Place) -> None:
    names, expected = MISTAKES[mistake]
    place("smoke")
    top = place("smoke", "smoke/early", instead=True).parents[1]
    said = robotlearn(command, *(top / name for name in names))
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith("robotlearn: ") and said.stderr.count("\n") == 1 and expected in said.stderr
