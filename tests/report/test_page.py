"""The page of a run: whole, by itself, and true to the metrics, whatever they and the config hold."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from robotlearn.errors import RunFolderError
from robotlearn.report import figures
from robotlearn.report import page as pages
from robotlearn.report.accounts import COUNTS, Balance
from robotlearn.report.compare import Comparison
from robotlearn.report.page import page, write_report
from robotlearn.report.run import Run
from tests.report.conftest import Place, film

VOID = {"meta", "link", "br", "img"}
LINKS = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "background", "formaction"}
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'


class Parsed(HTMLParser):
    """A page's tags, links and text; every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attributes if key in LINKS]
        self.handlers += [key for key, _ in attributes if key.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (tag, self._open[-3:])
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(text: str) -> Parsed:
    """The page, which asks the network for nothing and runs nothing."""
    parsed = Parsed(text)
    assert all(link.startswith("data:") for link in parsed.links), parsed.links
    assert "script" not in parsed.tags and parsed.handlers == []
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    return parsed


def test_the_page_of_a_real_run(place: Place) -> None:
    path = place("lift-0")
    films = [film(path, version) for version in (0, 16)]
    written = write_report(Run.read(path))
    assert written == path / "report.html"
    text = written.read_text(encoding="utf-8")
    parsed = checked(text)
    for words in (
        "Success without exploration rose from 37.5 % to 90.0 % [82.6, 94.5] after 16 updates, 144,535 environment",
        "Success over environment steps", "Success over time", "Staleness, versions", "Updates per second",
        "Policy loss", "KL to the proximal policy", "version 16: four arms", "learner.eval_every", "noise_level: 0.5",
        "seed: 0", "complete",
    ):  # fmt: skip
        assert words in parsed.text, words
    assert "holds as far as the edges have told. 4,489 recorded = 4,518 stored once + 4 still" in parsed.text
    assert parsed.tags.count("video") == 2
    for each in films:
        assert base64.b64encode(each.read_bytes()).decode() in text


def test_a_run_whose_start_was_not_measured_and_that_has_no_film(place: Place) -> None:
    parsed = checked(page(Run.read(place("smoke"))))
    assert "Success without exploration is 15.0 % [5.2, 36.0] after 20 updates" in parsed.text
    assert "330 recorded = 330 stored once + 0 still in the edges' logs + 0 evicted + 0 rejected." in parsed.text
    assert "stored twice: holds. 330" in parsed.text
    assert "As the shipped config smoke, but for:" in parsed.text
    assert "video" not in parsed.tags and "The policy on film" not in parsed.text


def test_before_its_first_update_a_run_has_a_page_too(place: Place) -> None:
    start = {"version": 0, "env_steps": 0, "eval_success": 0.4, "eval_low": 0.3, "eval_high": 0.5, "eval_episodes": 200}
    parsed = checked(page(Run.read(place("smoke", rows=[start], instead=True))))
    assert "The policy that imitation taught succeeds at 40.0 %; no update yet." in parsed.text


def test_a_run_of_imitation_alone_shows_how_success_grew_with_it(place: Place) -> None:
    measured = {"env_steps": 0, "eval_success": 0.9, "eval_low": 0.8, "eval_high": 0.95, "eval_episodes": 100}
    grown = [
        {"imitation_steps": steps, "imitation_success": success, "imitation_low": 0.0, "imitation_high": 1.0}
        for steps, success in ((100, 0.2), (200, 0.7), (200, 0.5), (300, "none"), (150, 0.4), ("x", 1))
    ]
    path = place("smoke", rows=[*grown, {"version": 0, **measured}], instead=True)
    (path / "config.yaml").write_text((path / "config.yaml").read_text().replace("updates: 20", "updates: 0"))
    run = Run.read(path)
    curve = figures.imitation(run).lines[0]
    assert curve.points == [(100, 0.2), (150, 0.4)], "what lay beyond a stretch done anew is of weights that are gone"
    assert curve.intervals == [(0, 1)] * 2
    assert run.state == "complete" and run.summary().start_success is None and run.summary().env_steps_to_90 is None
    parsed = checked(page(run))
    assert "The policy that imitation taught succeeds at 90.0 % [80.0, 95.0]; nothing else was wanted." in parsed.text
    assert "Success over imitation" in parsed.text and "Success over environment steps" not in parsed.text


def test_a_run_that_still_imitates_has_a_page_and_a_row(place: Place) -> None:
    grown = [{"imitation_steps": steps, "imitation_success": steps / 1000, "time": 9.0} for steps in (50, 100)]
    run = Run.read(place("smoke", rows=grown, instead=True))
    parsed = checked(page(run))
    assert "So far imitation taught the policy to succeed at 10.0 %, in 100 steps." in parsed.text
    assert "Success over imitation" in parsed.text and run.state == "stopped"
    assert "smoke" in checked(Comparison([run, Run.read(place("lift-0"))]).page()).text
    with pytest.raises(RunFolderError, match="nothing measured yet"):
        Run.read(place("smoke", "before", rows=[{"imitation_steps": 50, "imitation_success": None}], instead=True))


def test_success_that_did_not_change_stayed(place: Place) -> None:
    zero = {"env_steps": 0, "eval_success": 0.0, "eval_low": 0.0, "eval_high": 0.04, "eval_episodes": 100}
    end = [{"updates": 1, "env_steps": 50, "seconds": 2.0}, zero | {"env_steps": 50, "seconds": 2.0}]
    parsed = checked(page(Run.read(place("smoke", rows=[zero, *end], instead=True))))
    assert "Success without exploration stayed at 0.0 % [0.0, 4.0] after 1 update, 50 environment steps" in parsed.text


def test_one_update_alone_has_a_page(place: Place) -> None:
    parsed = checked(page(Run.read(place("smoke", rows=[{"updates": 1, "success": 0.25}], instead=True))))
    assert "Training episodes succeeded at 25.0 % after 1 update; not evaluated yet." in parsed.text


def test_names_and_configs_are_text_and_nothing_else(place: Place) -> None:
    path = place("smoke", "<script>alert(2)<⁄script>&amp;")
    config = (path / "config.yaml").read_text()
    assert config.startswith("seed: 0\nrobot: panda\ntask: reach\n")
    robot = json.dumps(HOSTILE.replace("/", "\\"))
    config = config.replace("robot: panda\ntask: reach", f"robot: {robot}\ntask: {json.dumps(HOSTILE)}")
    (path / "config.yaml").write_text(config)
    row = {"updates": 21, "env_steps": 1, f"success/{HOSTILE}/{HOSTILE}": 0.5, f"segments_{HOSTILE}": 3}
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    film(path, 0).rename(path / "videos" / "<script>x&quot;.mp4")
    parsed = checked(page(Run.read(path), [Run.read(path)]))
    assert "img" not in parsed.tags
    assert parsed.text.count(HOSTILE) >= 5 and "&amp;" in parsed.text


def test_success_by_task_and_embodiment_has_a_line_each(place: Place) -> None:
    names = ("lift/panda", "lift/so101", "reach/panda")
    rows = [
        {
            "updates": 20 + i,
            "env_steps": 5000 + i,
            **{f"success/{name}": i / 10 + j / 5 for j, name in enumerate(names)},
        }
        for i in range(1, 5)
    ]
    rows.append({"eval_success": 0.5, "env_steps": 5004, "eval_success/lift/so101": 0.7})
    path = place("smoke", rows=rows)
    film(path, 20).rename(path / "videos" / "version-000020-lift-so101.mp4")
    text = page(Run.read(path))
    parsed = checked(text)
    cells = '<td>lift</td><td>so101</td><td class="number">60.0 %</td><td class="number">70.0 %</td>'
    assert cells in text and '<td class="number">–</td>' in text and text.count('class="spark"') == 3
    assert "lift so101: training 60.0 %, evaluation 70.0 % at the end" in parsed.text
    assert "version 20, lift-so101: four arms" in parsed.text


def test_success_by_instruction_has_a_line_each(place: Place) -> None:
    measured = [
        {"eval_success": 0.5, "env_steps": 5000 + i, "eval_instruction/touch the red <cube>": i / 10} for i in (3, 8)
    ]
    text = page(Run.read(place("smoke", rows=measured)))
    parsed = checked(text)
    assert '<td>touch the red &lt;cube&gt;</td><td class="number">80.0 %</td>' in text
    assert "touch the red <cube>: evaluation 80.0 % at the end" in parsed.text
    assert "By instruction" not in page(Run.read(place("lift-0")))


def test_other_seeds_are_drawn_around_the_run(place: Place) -> None:
    run, *others = (Run.read(place(f"lift-{seed}")) for seed in (0, 1, 2))
    parsed = checked(page(run, others))
    assert parsed.text.count("training, 3 seeds: median, lowest to highest") >= 2
    assert "0, 1 (thin), 2 (thin)" in parsed.text
    assert "seeds: median" not in page(run)


def test_large_films_are_left_out_and_that_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place("smoke")
    sizes = [film(path, version).stat().st_size for version in (0, 5, 10)]
    monkeypatch.setattr(pages, "VIDEO_BYTES", sizes[0] + sizes[2] + 1)
    parsed = checked(page(Run.read(path)))
    assert parsed.tags.count("video") == 2 and "Left out for their size: version-000005.mp4." in parsed.text


@pytest.mark.parametrize(
    ("stored", "pending", "holds"), [(90, 10, True), (95, 10, True), (80, 10, False)], ids=["equal", "ahead", "missing"]
)
def test_the_accounts_hold_unless_a_recorded_segment_is_nowhere(stored: int, pending: int, holds: bool) -> None:
    row = {"segments_recorded": 100, "segments_stored": stored, "segments_pending": pending}
    assert Balance.of(row) is None
    balance = Balance.of(row | {"segments_evicted": 0, "segments_rejected": 0})
    assert balance is not None and balance.holds is holds
    assert ("10 are missing" in str(balance)) is not holds


def test_accounts_that_do_not_hold_are_shown_so(place: Place) -> None:
    row = {"updates": 21, "segments_recorded": 9, "segments_stored": 2, "segments_pending": 1, "segments_evicted": 1,
           "segments_rejected": 1, "segments_new_kind": 77}  # fmt: skip
    text = page(Run.read(place("smoke", rows=[row])))
    assert "does not hold" in text and "4 are missing" in text and 'class="balance bad"' in text
    assert re.search(r"segments_new_kind<small></small></td><td class=\"number\">77<", text)


def test_every_count_of_a_real_run_is_on_its_page(place: Place) -> None:
    run = Run.read(place("lift-0"))
    counted = [key for key in run.rows[-1] if key.startswith(("segments_", "episodes_", "frames_", "steps_"))]
    text = checked(page(run)).text
    assert len(counted) > 15 and all(key in text for key in counted)
    of_groups = {"episodes_incomplete", "groups_incomplete"}  # this run learnt with ppo
    assert all(key in text for part in COUNTS.values() for key in part.keys() - of_groups)


def test_rows_added_while_it_runs_come_with_the_next_page(place: Place) -> None:
    path = place("smoke")
    first = write_report(Run.read(path)).read_text()
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"updates": 21, "env_steps": 5000, "success": 0.5}\n')
    assert "21 updates" in write_report(Run.read(path)).read_text() and "21 updates" not in first


KEYS = ["updates", "version", "time", "env_steps", "seconds", "success", "eval_success", "eval_low", "eval_high",
        "eval_episodes", "staleness_max", "staleness_mean", "kl", "loss/value", "samples_per_s", "success/lift/panda",
        "segments_recorded", "segments_stored"]  # fmt: skip
JUNK: st.SearchStrategy[Any] = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3)
NUMBERS = st.integers(-3, 30) | st.floats(-2, 2)
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS), NUMBERS | JUNK), min_size=1, max_size=8)


@pytest.mark.slow
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_any_rows_make_a_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    data = Path(__file__).with_name("data") / "smoke" / "config.yaml"
    (tmp_path / "config.yaml").write_text(data.read_text())
    rows = [*rows, {"updates": 1, "env_steps": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked(page(Run.read(tmp_path)))
