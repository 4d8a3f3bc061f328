"""Evaluation and demonstrations: repeatable, and only what they say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import robotlearn.demonstrations as demonstrations
from envs import BatchArmEnv, EnvOptions, Expert
from policies.base import Policy
from robotlearn.cells import cells_of
from robotlearn.config import load_config
from robotlearn.demonstrations import collect
from robotlearn.errors import StartError
from robotlearn.evaluation import Evaluation, evaluate
from robotlearn.inputs import Inputs
from robotlearn.learner.start import Note, Taught, teach
from robotlearn.policy import build_policy
from robotlearn.statistics import wilson_interval

CONFIG = load_config("smoke", ["policy.hidden=[16]", "sft.steps=30", "demonstrations.episodes=2", "start.episodes=4"])


CELLS = cells_of(CONFIG)
CELL, INPUTS = CELLS[0], Inputs(CONFIG)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build_policy(CONFIG, INPUTS)


def run(policy: Policy, seed: int = 1, episodes: int = 5, **more: object) -> Evaluation:
    return evaluate(policy, INPUTS, CELL, episodes=episodes, seed=seed, options=EnvOptions(episode_steps=9), **more)  # type: ignore[arg-type]


def test_progress_is_told_all_along(policy: Policy) -> None:
    """Also by one that never succeeds: its episodes all end at once."""
    told: list[float] = []
    run(policy, episodes=130, progress=told.append)  # 100, and 30 of another 100
    horizon = CONFIG.policy.horizon
    parts = [steps / 9 for steps in range(0, 9, horizon)]
    assert told == pytest.approx([*(100 * part for part in parts), 100, *(100 + 30 * part for part in parts), 130])

    def stop(done: float) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run(policy, progress=stop)


def test_progress_of_demonstrations_is_told_as_they_succeed() -> None:
    told: list[float] = []
    collect(CELL, 3, 0, progress=told.append)
    assert told == sorted(told) and told[0] == 0 and told[-1] == 3 and {1, 2} & set(told)


def test_the_same_arguments_give_the_same_result(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[list[np.ndarray]] = []
    act = type(policy).act

    def remember(self: Policy, *arguments: object) -> object:
        chunk = act(self, *arguments)
        paths[-1].append(chunk.path.numpy())
        return chunk

    monkeypatch.setattr(type(policy), "act", remember)
    results = []
    for seed in (1, 1, 2):
        paths.append([])
        results.append(run(policy, seed))
    assert results[0] == results[1]
    one, again, other = paths
    assert len(one) == 3 and all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_measured_adds_up(policy: Policy) -> None:
    found = run(policy, episodes=3)
    assert found.episodes == 3 and found.success == found.successes / 3
    assert (found.low, found.high) == wilson_interval(found.successes, 3)
    assert found.mean_steps <= 9 and found.mean_return == found.success
    assert found.as_json()["mean_steps"] == found.mean_steps


def test_the_experts_actions_replayed_as_a_policy_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of what is known to be good says so: with horizon 1, whatever the policy is."""
    config = load_config("smoke", ["policy.horizon=1", "policy.hidden=[8]", "edges.0.execution.ahead=0"])
    policy = build_policy(config, INPUTS)
    made: list[BatchArmEnv] = []
    init = BatchArmEnv.__init__

    def remember(self: BatchArmEnv, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(BatchArmEnv, "__init__", remember)
    act = type(policy).act

    def expert(self: Policy, observations: dict, noise: object, explore: bool) -> object:
        chunk = act(self, observations, noise, explore)
        assert not explore and not chunk.stochastic.any()
        chunk.actions[:, 0] = chunk.actions.new_tensor(Expert(CELL.spec, made[-1].task).act(made[-1].scene_state()))
        return chunk

    monkeypatch.setattr(type(policy), "act", expert)
    found = evaluate(policy, INPUTS, CELL, episodes=4, seed=0)
    assert found.successes == 4 and found.mean_return == 1.0 and 1 < found.mean_steps < 100


@pytest.mark.renders
@pytest.mark.parametrize(("suffix", "arms"), [("mp4", 4), ("gif", 1)])
def test_a_video_is_written(policy: Policy, tmp_path: Path, suffix: str, arms: int) -> None:
    path = tmp_path / "new folder" / f"video.{suffix}"
    evaluate(policy, INPUTS, CELL, episodes=arms, seed=1, options=EnvOptions(episode_steps=2), video=path)
    assert path.read_bytes()[:64].find(b"ftyp" if suffix == "mp4" else b"GIF") >= 0


def test_demonstrations_are_successes_with_the_meant_actions() -> None:
    noise = 0.005
    found = collect(CELL, 3, seed=5, noise=noise)
    assert len(found.episode_ends) == 3 and found.episode_ends[-1] == len(found.actions)
    assert all(len(value) == len(found.actions) for value in found.observations.values())
    # The scripted expert means what it sees, so from the same start it means the same first action; what was executed
    # was that and noise.
    env = BatchArmEnv(CELL.spec, "reach", 3, seed=5, autoreset=AutoresetMode.DISABLED)
    observations, _ = env.reset()
    first = [0, *found.episode_ends[:-1]]
    np.testing.assert_array_equal(found.observations["observation.state"][first], observations["observation.state"])
    np.testing.assert_array_equal(found.actions[first], Expert(CELL.spec, env.task).act(env.scene_state()))
    env.close()
    again = collect(CELL, 3, seed=5, noise=noise)
    np.testing.assert_array_equal(again.actions, found.actions)


def test_the_noise_is_executed() -> None:
    quiet, loud = (collect(CELL, 1, seed=5, noise=noise) for noise in (0.0, 0.005))
    np.testing.assert_array_equal(quiet.actions[0], loud.actions[0])
    state = "observation.state"
    assert np.abs(quiet.observations[state][1, :7] - loud.observations[state][1, :7]).max() > 1e-4


def test_failures_are_left_out_and_an_expert_that_always_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match="expert of task reach succeeded 0 of 1"):
        collect(CELL, 1, seed=0, options=EnvOptions(episode_steps=1))
    # Every other arm's expert does nothing: its episodes fail and must not be among the demonstrations.
    act = Expert.act

    def half(self: Expert, state: object) -> np.ndarray:
        action = act(self, state)  # type: ignore[arg-type]
        action[::2, :7] = 0
        return action

    monkeypatch.setattr(demonstrations.Expert, "act", half)
    found = collect(CELL, 4, seed=0, options=EnvOptions(episode_steps=30))
    ends = [0, *found.episode_ends]
    assert len(found.episode_ends) == 4
    assert all(np.abs(found.actions[a:b, :7]).max() > 0 for a, b in pairwise(ends))


def no_report(phase: str, share: float) -> None:
    assert 0 <= share <= 1, f"{phase}: {share}"


def imitated(band: tuple[float, float] | None, note: Note = lambda *_: None, **start: object) -> Taught:
    section = CONFIG.start.model_copy(update={"success_band": band, **start})
    config = CONFIG.model_copy(update={"start": section, "episode_steps": 12})
    return teach(build_policy(config, INPUTS), config, CELLS, INPUTS, no_report, note)


def test_without_a_band_the_policy_is_taken_as_it_is() -> None:
    taught = imitated(None)
    assert (taught.demonstrations, taught.steps, taught.measured) == (2, 30, None)
    noted: list[tuple[int, Evaluation]] = []
    again = imitated(None, lambda *row: noted.append(row), every=12)
    assert [steps for steps, _ in noted] == [12, 24, 30], "measured on the way, and that changes nothing"
    assert again.measured is noted[-1][1] and again.measured.episodes == 4
    for key, value in taught.policy.state_dict().items():
        np.testing.assert_array_equal(value, again.policy.state_dict()[key])


def test_imitation_stops_inside_the_band() -> None:
    taught = imitated((0.0, 0.99), every=10)
    assert taught.measured is not None and taught.measured.success <= 0.99
    assert taught.steps == 10 and taught.measured.episodes == 4


def test_a_band_that_is_not_met_is_an_error_that_says_what_was_found() -> None:
    with pytest.raises(
        StartError, match=r"2 demonstrations and 30 steps .* within 99% to 100% .*last measurement was 0%"
    ):
        imitated((0.99, 1.0), every=15)


def test_a_stretch_that_jumps_over_the_band_is_done_again_in_shorter_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []
    weights: dict[float, dict] = {}

    def fake(policy: Policy, *arguments: object, **options: object) -> Evaluation:
        # Success is told from the weights, so that going back must bring the old ones back too.
        key = float(sum(value.double().sum() for value in policy.state_dict().values()))
        success = script.pop(0)
        measured.append(success)
        weights[success] = {"sum": key}
        return Evaluation(4, 0, success, 0.0, 1.0, 0.0, 1.0)

    monkeypatch.setattr("robotlearn.learner.start.evaluate_cells", fake)
    script, noted = [0.1, 0.9, 0.2, 0.5], []
    taught = imitated((0.4, 0.6), lambda steps, found: noted.append((steps, found.success)), every=8)
    assert noted == [(8, 0.1), (16, 0.9), (10, 0.2), (12, 0.5)]
    assert measured == [0.1, 0.9, 0.2, 0.5]
    assert taught.steps == 8 + 2 + 2, "back to the eighth step, and on in stretches of two"
    # Without the detour imitation would be at the very same weights after twelve steps.
    script = [0.5]
    straight = imitated((0.4, 0.6), every=12)
    for key, value in taught.policy.state_dict().items():
        np.testing.assert_array_equal(value, straight.policy.state_dict()[key], err_msg=key)
