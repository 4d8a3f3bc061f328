"""Runs side by side: grouped by seed, told apart by their configs, as text, JSON and page."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from robotlearn.errors import ConfigError, RunFolderError
from robotlearn.report.compare import Comparison, compare, read_runs
from robotlearn.report.run import Run
from robotlearn.report.seeds import group, middle, same_but_seed
from tests.report.conftest import Place
from tests.report.test_page import HOSTILE, checked


@pytest.fixture
def runs(place: Place) -> list[Run]:
    return read_runs([place(f"lift-{seed}") for seed in (0, 1, 2)])


def changed(path: Path, old: str, new: str) -> Path:
    config = path / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    return path


def printed(runs: list[Run], width: int, **options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=width < 200, color_system=None)
    compare(runs, console=console, **({"as_json": False, "page": None} | options))  # type: ignore[arg-type]
    return stream.getvalue()


def test_seeds_of_one_config_are_one_group(runs: list[Run], place: Place) -> None:
    other = Run.read(changed(place("lift-1", "other"), "max_staleness: 2", "max_staleness: 4"))
    assert same_but_seed(runs[0], runs[1]) and not same_but_seed(runs[0], other)
    groups = group([runs[0], other, runs[1], runs[2]])
    assert [[run.name for run in each.runs] for each in groups] == [["lift-0", "lift-1", "lift-2"], ["other"]]
    comparison = Comparison([*runs, other])
    assert [comparison.name(each) for each in comparison.groups] == [
        "learner.max_staleness=2",
        "learner.max_staleness=4",
    ]
    assert comparison.keys == ["learner.max_staleness", "seed"]


def test_a_seed_that_two_runs_have_is_named_once(runs: list[Run], place: Place) -> None:
    again = Run.read(place("lift-0", "again"))
    (members,) = group([runs[0], again, runs[1]])
    assert members.seeds == "0 twice, 1"
    assert group([runs[0], again, Run.read(place("lift-0", "third"))])[0].seeds == "0 3 times"
    page = Comparison([runs[0], again, runs[1]]).page()
    assert "3 runs: median, lowest to highest" in page and "3 seeds" not in page


def test_a_list_that_differs_is_shown_whole(runs: list[Run], place: Place) -> None:
    other = Run.read(changed(place("lift-1", "other"), "  value_hidden: [256, 256]", "  value_hidden: [128, 256]"))
    two = Run.read(changed(place("lift-1", "two"), "  arms: 128\n", "  arms: 64\n"))
    comparison = Comparison([runs[0], other, two])
    assert comparison.keys == ["algorithm.value_hidden", "edges.0.arms", "edges.1.arms", "seed"]
    assert comparison.as_json()["differences"]["algorithm.value_hidden"] == ["[256, 256]", "[128, 256]", "[256, 256]"]


def test_a_group_has_the_median_of_its_runs(runs: list[Run]) -> None:
    (members,) = group(runs)
    values = [run.summary().seconds for run in runs]
    assert members.spread("seconds") == (statistics.median(values), min(values), max(values))


def test_what_a_run_lacks_has_no_median(runs: list[Run], place: Place) -> None:
    never = Run.read(place("lift-2", "never", rows=[]))
    rows = tuple(row for row in never.rows if (row.get("eval_success") or 0) < 0.9)
    (members,) = group([runs[0], Run(never.folder, never.config, rows, (), 0)])
    assert members.spread("seconds_to_90") is None and members.spread("seconds") is not None
    assert "(1 of 2 without)" in printed([*members.runs], 240)


def test_the_table_says_what_was_measured(runs: list[Run]) -> None:
    text = printed(runs, 240)
    lines = text.splitlines()
    assert lines[0] == "all runs: task lift, robot panda, policy flow_mlp"
    row = next(line for line in lines if line.startswith("lift-1"))
    for cell in ("complete", "16", "119k", "27.8 s", "64.5 %", "96.0 %", "90.2 to 98.4", "20.1 s", "94.2k", "4662"):
        assert cell in row.replace("  ", " "), (cell, row)
    assert "53.0 % (37.5 % to 64.5 %)" in text and "0, 1, 2" in text


def test_on_a_narrow_terminal_nothing_is_cut(runs: list[Run]) -> None:
    text = printed(runs, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for run in runs:
        assert run.name in text
    assert "90.2 to 98.4" in text and "…" not in text


def test_json_has_everything_unrounded(runs: list[Run], place: Place) -> None:
    unbounded = Run.read(changed(place("lift-1", "other"), "max_staleness: 2", "max_staleness: .inf"))
    found = json.loads(printed([*runs, unbounded], 80, as_json=True))
    assert found["runs"][1]["seconds"] == runs[1].summary().seconds
    assert found["runs"][0]["robot"] == ["panda"] and found["runs"][2]["seed"] == 2
    assert found["differences"]["learner.max_staleness"] == ["2", "2", "2", "inf"]
    assert [each["seeds"] for each in found["groups"]] == [[0, 1, 2], [1]]
    assert found["groups"][0]["final_success"] == {"median": 0.9, "min": 0.9, "max": 0.96}


def test_the_page_has_one_curve_per_seed_and_their_median(runs: list[Run], place: Place, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    other = Run.read(changed(place("lift-1", "other"), "max_staleness: 2", "max_staleness: 4"))
    assert str(path) in printed([*runs, other], 240, page=path)
    text = path.read_text(encoding="utf-8")
    parsed = checked(text)
    first = text[text.index("<figure") : text.index("</figure")]
    assert [f"<title>learner.max_staleness=2, seed {seed}</title>" in first for seed in (0, 1, 2)] == [True] * 3
    assert first.count('class="thin c0"') == 3 and first.count('polyline class="thick c0"') == 1
    assert 'class="band c0"' in first and 'class="dots c1"' in first
    assert "learner.max_staleness=2, 3 seeds: median, lowest to highest" in parsed.text


def test_a_folder_is_no_page_and_nothing_is_left_beside_it(runs: list[Run], tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"--html .*pages: is a folder"):
        printed(runs, 80, page=tmp_path / "pages")
    assert sorted(tmp_path.iterdir()) == before


def test_what_names_say_is_not_markup(place: Place, tmp_path: Path) -> None:
    task = json.dumps(f"[bold]{HOSTILE}")
    paths = [changed(place("lift-0", "[red]a"), "task: lift", f"task: {task}"), place("lift-1", "<b>b")]
    text = printed(read_runs(paths), 2000, page=tmp_path / "page.html")
    assert "[red]a" in text and "[bold]" in text
    assert "[red]a" in checked((tmp_path / "page.html").read_text()).text


def test_a_run_named_twice_is_refused(place: Place) -> None:
    path = place("smoke")
    with pytest.raises(RunFolderError, match="is named twice"):
        read_runs([path, path.parent / "." / path.name / ".." / path.name])


def test_the_middle_of_curves_is_where_all_are() -> None:
    curves = [[(0.0, 0.0), (10.0, 10.0)], [(2.0, 6.0), (8.0, 6.0)], [(1.0, 9.0), (20.0, 9.0)]]
    median, band = middle(curves)
    assert (median[0][0], median[-1][0]) == (2.0, 8.0)
    assert median[0] == (2.0, 6.0) and band[0] == (2.0, 2.0, 9.0)
    assert band[-1] == (8.0, 6.0, 9.0) and median[-1] == (8.0, 8.0)
    assert middle(curves[:1]) == middle([curves[0], []]) == middle([curves[0], [(11.0, 1.0), (12.0, 1.0)]]) == ([], [])
