"""The generalisation suite of a policy that was taught for some seconds: what is run, what is said, what is drawn."""

from __future__ import annotations

import io
import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from rich.console import Console

from envs import Split, tasks
from envs.language import CLOTH, NOISE, SEEN
from envs.tasks.put import Put
from envs.tasks.touch import Touch
from hal import load_spec
from policies.base import Policy
from robotlearn import checkpoint
from robotlearn.cells import Cell, cells_of, env_options
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import Config, dump, load_config
from robotlearn.contract import contract
from robotlearn.errors import ConfigError
from robotlearn.evaluation import Evaluation, Rate, evaluate
from robotlearn.inputs import Inputs
from robotlearn.learner.start import teach
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy
from robotlearn.statistics import difference_interval
from robotlearn.suite import Outcome, measure, trials
from robotlearn.suite_picture import draw, starts
from robotlearn.suite_run import _table, run_suite

QUICK = ["policy.hidden=[128, 128]", "sft.steps=300", "demonstrations.episodes=100", "start.success_band=null"]
CAMERA = ["observations.cameras=[front]", "observations.environment_state=false", "observations.image_size=[32, 32]"]
NO_VISION = ["seen", "words", "shapes", "colours", "clutter", "places", "start", "moved"]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("touch", QUICK)


@pytest.fixture(scope="module")
def policy(config: Config) -> Policy:
    cells, inputs = cells_of(config), Inputs(config)
    return teach(build_policy(config, inputs), config, cells, inputs, lambda *_: None).policy


@pytest.fixture(scope="module")
def outcomes(config: Config, policy: Policy) -> list[Outcome]:
    found = trials(cells_of(config), env_options(config))
    return measure(policy, Inputs(config), found, episodes=30, seed=3)


def test_success_is_counted_by_instruction(config: Config, policy: Policy) -> None:
    cell = cells_of(config)[0]
    found = evaluate(policy, Inputs(config), cell, episodes=130, seed=1)  # 100, and 30 more
    assert set(found.instructions) == set(cell.task.instructions)
    assert sum(rate.episodes for rate in found.instructions.values()) == 130
    assert sum(rate.successes for rate in found.instructions.values()) == found.successes
    lengths = {rate.episodes for rate in found.instructions.values()}
    assert len(lengths) > 1, "as they were drawn"
    for rate in found.instructions.values():
        assert rate.success == rate.successes / rate.episodes and rate.low <= rate.success <= rate.high
    reach = load_config("smoke", ["policy.hidden=[8]"])
    inputs = Inputs(reach)
    assert evaluate(build_policy(reach, inputs), inputs, cells_of(reach)[0], episodes=2, seed=1).instructions == {}


def test_every_split_is_measured_beside_what_was_seen(config: Config, outcomes: list[Outcome]) -> None:
    assert [outcome.split.name for outcome in outcomes] == NO_VISION, "no camera, no splits of vision"
    seen = outcomes[0].measured
    assert outcomes[0].drop is None and seen.success > 0.6
    for outcome in outcomes[1:]:
        found = outcome.measured
        assert found.episodes == 30 and outcome.drop is not None
        assert outcome.drop[0] == found.success - seen.success
        assert outcome.drop[1:] == difference_interval(found.successes, 30, seen.successes, 30)
        made = Touch(cells_of(config)[0].spec, outcome.split.name)
        assert set(found.instructions) <= set(made.instructions)
        assert list(outcome.goals) == [goal[0] for goal in made.goals]
        assert sum(rate.episodes for rate in outcome.goals.values()) == 30
        assert sum(rate.successes for rate in outcome.goals.values()) == found.successes
        for goal, rate in outcome.goals.items():
            told = [one for words, one in found.instructions.items() if goal in words]
            assert rate.successes == sum(one.successes for one in told)
    by_name = {outcome.split.name: outcome for outcome in outcomes}
    places = by_name["places"].drop
    assert places is not None and places[2] < 0, "where nothing ever lay it is worse at it"
    clutter = by_name["clutter"].drop
    assert clutter is not None and clutter[0] == 0, "which it can't see without a camera"


def test_equal_seeds_give_equal_outcomes(config: Config, policy: Policy, outcomes: list[Outcome]) -> None:
    chosen = [trial for trial in trials(cells_of(config), env_options(config)) if trial.split.name in ("seen", "moved")]
    told: list[tuple[float, str]] = []
    again = measure(
        policy, Inputs(config), chosen, episodes=30, seed=3, threads=2, progress=lambda *row: told.append(row)
    )
    assert [one.as_json() for one in again] == [outcomes[0].as_json(), outcomes[-1].as_json()]
    done = [row[0] for row in told]
    assert done == sorted(done) and done[-1] == 60 and {row[1] for row in told} == {"seen", "moved"}
    other = measure(policy, Inputs(config), chosen[:1], episodes=30, seed=4)
    assert other[0].as_json() != again[0].as_json()


def test_with_a_camera_splits_of_vision_are_run_and_noise_comes_on_top() -> None:
    config = load_config("touch", [*QUICK, *CAMERA, "randomization.image_noise=0.1"])
    found = {trial.split.name: trial for trial in trials(cells_of(config), env_options(config))}
    assert [*found] == [split.name for split in Touch.splits]
    for name, trial in found.items():
        assert isinstance(trial.cell.task, Touch) and trial.cell.task.split is trial.split
        noise = np.hypot(0.1, 0.125) if name == "noise" else 0.1
        assert trial.options.randomization.image_noise == pytest.approx(noise)


def test_a_run_of_no_language_task_is_told_so() -> None:
    config = load_config("smoke")
    with pytest.raises(ConfigError, match="reach: no language task with splits, such as touch and put"):
        trials(cells_of(config), env_options(config))
    several = load_config(
        "smoke", ["task=[reach, touch]", "observations.instruction=true", "edges=[]", "learner.updates=0"]
    )
    assert {trial.cell.name for trial in trials(cells_of(several), env_options(several))} == {"touch/panda"}


def test_a_language_task_needs_its_words() -> None:
    config = load_config("touch", ["observations.instruction=false"])
    with pytest.raises(ConfigError, match=r"observations\.instruction: false is not valid with task touch"):
        cells_of(config)


def test_tasks_of_others_bring_their_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))

    class Nudge(Touch):
        name = "nudge"
        wordings = ("nudge the {}",)
        splits = (Touch.splits[0], Split("words", "semantics", "another word", wordings=("jostle the {}",)))

    spec = load_spec("panda")
    found = trials([Cell(spec, Nudge(spec))], env_options(load_config("touch")))
    assert [trial.cell.task.instructions[0] for trial in found] == ["nudge the red cube", "jostle the red cube"]


def test_the_widest_table_fits_a_narrow_terminal() -> None:
    spec = load_spec("panda")
    none = Rate.of([False] * 200)
    outcomes = []
    for split in Put.splits:
        measured = Evaluation(200, 0, 0.0, none.low, none.high, 0.0, 72.0)
        goals = {", ".join(goal): none for goal in Put(spec, split.name).goals}
        outcomes.append(Outcome("put/panda", split, measured, goals, (-1.0, -1.0, -0.9) if outcomes else None))
    console = Console(file=io.StringIO(), width=80)
    console.print(_table("version 3, put/panda", outcomes, False))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and "yellow cube, white plate" in text and "-100.0 [-100.0, -90.0]" in text


def saved_run(path: Path, config: Config, policy: Policy) -> Path:
    folder = RunFolder.create(path, dump(config), "id")
    checkpoint.save(Checkpoint(5, policy.state_dict(), contract=dict(contract(config))), folder.checkpoints)
    return folder.path


def test_the_table_the_json_and_the_picture_say_the_same(config: Config, policy: Policy, tmp_path: Path) -> None:
    saved = find_policy(saved_run(tmp_path / "run", config, policy))
    outs = []
    for as_json, width in ((True, 80), (False, 80), (False, 160)):
        console = Console(file=io.StringIO(), width=width)
        picture = tmp_path / "deep" / f"{as_json}.png"
        run_suite(saved, episodes=4, seed=3, picture=picture, drawable=False, as_json=as_json, console=console)
        outs.append(console.file.getvalue())  # type: ignore[attr-defined]
        assert imageio.imread(picture).shape[2] in (3, 4)
    told = json.loads(outs[0])
    assert (told["version"], told["suite"], told["seed"]) == (5, "generalisation", 3)
    assert told["picture"] == str(tmp_path / "deep" / "True.png")
    rows = {row["split"]: row for row in told["splits"]}
    assert [*rows] == NO_VISION and rows["seen"]["difference"] is None
    assert set(rows["words"]["difference"]) == {"success", "low", "high"}
    lines = outs[1].splitlines()
    for name, row in rows.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        shown = f"{row['success']:.1%}  [{row['low']:.1%}, {row['high']:.1%}]".split()
        assert [word for word in line.split() if word in shown] == shown
        assert sum(f"  {goal} " in line for goal in row["goals"] for line in lines) >= len(row["goals"])
    assert max(map(len, lines[: lines.index(next(line for line in lines if "no camera" in line))])) <= 80
    assert "the splits of vision were left out" in outs[1] and "nothing to draw with" in outs[1]
    assert "the tool starts higher and aside" in outs[2] and "the tool starts higher and aside" not in outs[1]


def test_a_picture_that_can_not_be_written_is_told_before_the_episodes(
    config: Config, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = find_policy(saved_run(tmp_path / "run", config, policy))
    monkeypatch.setattr("robotlearn.suite_run.measure", lambda *_, **__: pytest.fail("episodes were run"))
    with pytest.raises(IsADirectoryError):
        run_suite(
            saved, episodes=4, seed=3, picture=tmp_path, drawable=False, as_json=True, console=Console(quiet=True)
        )


@pytest.mark.renders
def test_the_picture_shows_how_each_split_begins(outcomes: list[Outcome], tmp_path: Path) -> None:
    pictures = [np.full((20, 30, 3), 200 - 20 * index, np.uint8) for index in range(len(outcomes))]
    draw(tmp_path / "with.png", outcomes, pictures, "title")
    draw(tmp_path / "without.png", outcomes, [], "title")
    shown, plain = (imageio.imread(tmp_path / name).astype(int) for name in ("with.png", "without.png"))
    assert shown.shape == plain.shape
    left = slice(0, shown.shape[1] // 12)
    differ = np.abs(shown - plain).sum(-1) > 0
    assert differ[:, left].any() and not differ[:, left.stop :].any()
    for index in range(len(outcomes)):
        assert (shown[:, left, :3] == 200 - 20 * index).all(-1).any()


@pytest.mark.slow
@pytest.mark.renders
def test_a_policy_that_sees_is_shown_what_its_camera_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Touch, "splits", (SEEN, CLOTH, NOISE))
    config = load_config("touch", [*QUICK, *CAMERA, "episode_steps=2"])
    policy = build_policy(config, Inputs(config))
    saved, console = find_policy(saved_run(tmp_path / "run", config, policy)), Console(file=io.StringIO())
    run_suite(saved, episodes=1, seed=0, picture=tmp_path / "p.png", drawable=True, as_json=True, console=console)
    told = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert [row["split"] for row in told["splits"]] == ["seen", "table", "noise"]
    found = trials(cells_of(config), env_options(config))
    plain, cloth, noise = (picture.astype(float) for picture in starts(found, 0))
    assert plain.shape == (32, 32, 3) and np.abs(cloth - plain).mean() > 8
    assert np.std(noise - plain) > 15
