"""A person played by a script: when they take over and give back, what they do, for how long, and what is recorded."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from envs import BatchArmEnv, EnvOptions, Expert, TaskError
from envs.task import SceneState, Task
from envs.tasks import make_task
from envs.tasks.reach import Reach
from hal.spec import RobotSpec
from policies.base import Policy
from robotlearn.algorithms.chunks import chunk_batch, join
from robotlearn.cells import Cell
from robotlearn.config import BatchEdgeConfig, Config, load_config
from robotlearn.config.edge import ScriptedPersonConfig
from robotlearn.contract import contract
from robotlearn.edge.batch import BatchEdge
from robotlearn.edge.rollout import BatchRollout
from robotlearn.edge.scripted_person import Effort, ScriptedPerson
from robotlearn.inputs import Inputs
from robotlearn.learner.start import teach
from robotlearn.policy import build_policy, to_arrays
from robotlearn.wire.segment import Segment
from tests.edge.conftest import LearnersEnd
from tests.waiting import until

PATIENCE, STEADY, HEADWAY = 3, 2, 0.05


class Told(Reach):
    """Its progress is what a test says."""

    def progress(self, state: SceneState) -> np.ndarray:
        return state.objects["told"]


@pytest.fixture(scope="module")
def scene(spec: RobotSpec) -> SceneState:
    """Three arms at the start of an episode of reach."""
    env = BatchArmEnv(spec, "reach", 3, seed=3, autoreset=AutoresetMode.DISABLED)
    env.reset()
    state = env.scene_state()
    env.close()
    return state


class Watched:
    """A person before arms whose progress a test tells, step by step."""

    def __init__(self, spec: RobotSpec, scene: SceneState, effort: Effort | None = None, **keys: Any) -> None:
        if keys.get("until") != "end":
            keys["steady"] = STEADY
        keys = {"patience": PATIENCE, "headway": HEADWAY, "setback": 1.0} | keys
        config = ScriptedPersonConfig(kind="scripted", **keys)
        self.scene, self.arms = scene, np.arange(len(scene.position))
        self.person = ScriptedPerson(spec, Told(spec), len(self.arms), config, effort or Effort.of(config))
        self.actions = np.zeros((0, spec.dim), np.float32)

    def begin(self, *progress: float) -> None:
        self.person.begin(self.arms, self._at(progress))
        assert not self.step(*progress), "nobody takes over before the first step"

    def step(self, *progress: float) -> list[int]:
        held, self.actions = self.person.act(self.arms, self._at(progress))
        return held.tolist()

    def _at(self, progress: tuple[float, ...]) -> SceneState:
        return replace(self.scene, objects={**self.scene.objects, "told": np.array(progress)})


def test_they_take_over_those_arms_that_made_no_headway_for_as_long_as_they_have_patience(
    spec: RobotSpec, scene: SceneState
) -> None:
    """Arm 0 is slow, but makes headway within their patience; arm 1 stays, arm 2 creeps."""
    watched = Watched(spec, scene)
    watched.begin(0.1, 0.1, 0.1)
    held = [watched.step(0.1 + 0.02 * t, 0.1, 0.1 + 0.01 * t) for t in range(1, 6)]
    assert held == [[], [], [1, 2], [1, 2], [1, 2]]


def test_what_was_lost_is_no_headway_until_it_is_made_up_for(spec: RobotSpec, scene: SceneState) -> None:
    watched = Watched(spec, scene)
    watched.begin(0.5, 0.5, 0.5)
    lost = (0.1, 0.2, 0.3)
    assert [watched.step(x, 0.5 + x, 0.5 + x) for x in lost] == [[], [], [0]]


def test_where_much_is_lost_they_take_over_at_once(spec: RobotSpec, scene: SceneState) -> None:
    """What counts is what was lost since the last headway, in however many steps."""
    watched = Watched(spec, scene, setback=0.2)
    watched.begin(0.5, 0.5, 0.1)
    assert watched.step(0.6, 0.6, 0.6) == []
    assert watched.step(0.41, 0.5, 0.61) == []
    assert watched.step(0.42, 0.39, 0.8) == [1]


def test_patience_is_for_steps_in_a_row(spec: RobotSpec, scene: SceneState) -> None:
    watched = Watched(spec, scene)
    watched.begin(0.1, 0.1, 0.1)
    told = [0.1, 0.1, 0.2, 0.2, 0.2, 0.2]
    others = np.arange(2, 8) / 10
    assert [watched.step(x, y, y) for x, y in zip(told, others, strict=True)] == [[], [], [], [], [], [0]]


def test_they_give_back_after_steps_of_headway_counted_from_where_they_took_over(
    spec: RobotSpec, scene: SceneState
) -> None:
    """And then they have all their patience again. What the policy had reached before it got stuck doesn't count."""
    watched = Watched(spec, scene)
    watched.begin(0.9, 0.0, 0.0)
    others = iter(np.arange(1, 20) * 0.06)

    def step(progress: float) -> list[int]:
        x = next(others)
        return watched.step(progress, x, x)

    assert [step(0.2) for _ in range(PATIENCE)] == [[], [], [0]]
    assert step(0.3) == [0], "one step of headway"
    assert step(0.3) == [0], "none"
    assert step(0.4) == [], "the second: the arm is the policy's again"
    assert [step(0.4) for _ in range(PATIENCE)] == [[], [], [0]]
    assert step(0.5) == [0], "headway of the first time doesn't count for the second"


def test_until_the_end_they_keep_it_until_the_episode_is_over(spec: RobotSpec, scene: SceneState) -> None:
    watched = Watched(spec, scene, until="end")
    watched.begin(0, 0, 0)
    for _ in range(PATIENCE):
        watched.step(0, 0, 0)
    assert all(watched.step(x, x, x) == [0, 1, 2] for x in np.arange(1, 10) / 10)
    watched.begin(0, 0, 0)
    assert not any(watched.step(x, x, x) for x in np.arange(1, 10) / 10), "the next one is the policy's"


def test_what_they_do_is_what_the_expert_would_at_that_arm(spec: RobotSpec, scene: SceneState) -> None:
    watched = Watched(spec, scene)
    watched.begin(0, 0, 0)
    held = [watched.step(0.1 * t, 0, 0.1 * t) for t in range(1, PATIENCE + 1)][-1]
    assert held == [1]
    expected = Expert(spec, make_task("reach", spec)).act(scene)
    np.testing.assert_array_equal(watched.actions, expected[[1]])
    assert np.abs(expected[[0, 2]] - expected[1]).max() > 1e-3, "else it could be another arm's"


def test_they_know_what_each_arm_was_told(spec: RobotSpec) -> None:
    task = make_task("touch", spec)
    env = BatchArmEnv(spec, task, 6, seed=3, autoreset=AutoresetMode.DISABLED)
    env.reset()
    state = env.scene_state()
    assert 0 < state.goal[3:].sum() < 3, "what is meant differs"
    config = ScriptedPersonConfig(kind="scripted", patience=1)
    person = ScriptedPerson(spec, task, 6, config, Effort.of(config))
    person.begin(np.arange(6), state)
    for _ in range(2):
        held, actions = person.act(np.arange(3, 6), state)
    assert held.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(actions, Expert(spec, task).act(state)[3:])


def test_they_attend_so_many_episodes_and_those_who_share_an_effort_are_one(spec: RobotSpec, scene: SceneState) -> None:
    effort = Effort(most_attended=4)
    first, second = Watched(spec, scene, effort), Watched(spec, scene, effort)
    for watched, attended in ((first, [0, 1, 2]), (second, [0]), (first, [])):
        watched.begin(0, 0, 0)
        held = [watched.step(0, 0, 0) for _ in range(PATIENCE)][-1]
        assert held == attended
    assert (effort.attended, effort.corrected) == (4, 4)


def test_they_take_over_in_so_many_episodes_as_often_as_needed_in_each(spec: RobotSpec, scene: SceneState) -> None:
    watched = Watched(spec, scene, corrections=2)
    watched.begin(0, 0, 0)
    assert [watched.step(0, 0, 0) for _ in range(PATIENCE)][-1] == [0, 1]
    for x in (0.1, 0.2):
        last = watched.step(x, x, x)
    assert last == [], "given back"
    assert [watched.step(0, 0, 0) for _ in range(PATIENCE)][-1] == [0, 1], "and taken again"
    watched.begin(0, 0, 0)
    assert not any(watched.step(0, 0, 0) for _ in range(2 * PATIENCE)), "then they have left"
    assert (watched.person.effort.attended, watched.person.effort.corrected) == (3, 2)


def test_a_task_that_nobody_has_scripted_has_no_such_person(spec: RobotSpec) -> None:
    class Unscripted(Told):
        expert_goal = Task.expert_goal  # type: ignore[assignment]

    config = ScriptedPersonConfig(kind="scripted")
    with pytest.raises(TaskError, match="no scripted expert"):
        ScriptedPerson(spec, Unscripted(spec), 1, config, Effort())


ARMS, SEED, LENGTH = 4, 11, 24


def roll(policy: Policy, inputs: Inputs, cell: Cell, config: ScriptedPersonConfig | None) -> tuple:
    segments: list[Segment] = []
    person = config and ScriptedPerson(cell.spec, cell.task, ARMS, config, Effort.of(config))
    rollout = BatchRollout(
        policy, inputs, cell, edge="batch", arms=ARMS, threads=1, segment_steps=8, seed=SEED, emit=segments.extend,
        options=EnvOptions(episode_steps=LENGTH), person=person,
    )  # fmt: skip
    rollout.start(ARMS)
    while rollout.running:
        rollout.advance(0)
    rollout.close()
    for segment in segments:
        segment.validate()
    names = {segment.episode for segment in segments}
    return rollout.counts, [[part for part in segments if part.episode == name] for name in names]


@pytest.fixture(scope="module")
def resting(config: Config, cell: Cell, inputs: Inputs) -> Policy:
    """Its statistics are those of the task; its weights are zero, so it does next to nothing, at random."""
    policy = build_policy(config, inputs)
    teach(policy, load_config("smoke", ["policy.hidden=[8]", "sft.steps=1"]), [cell], inputs, lambda text, done: None)
    statistics = policy.statistics()
    action = statistics["action"]
    statistics["action"] = replace(action, mean=0 * action.mean, std=0 * action.std + 1e-3)
    policy.set_statistics(statistics)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    return policy


def test_what_they_do_is_executed_and_what_the_policy_proposed_is_recorded_beside_it(
    resting: Policy, inputs: Inputs, cell: Cell
) -> None:
    counts, episodes = roll(resting, inputs, cell, None)
    assert (counts.successes, counts.episodes, counts.steps_intervened, counts.episodes_intervened) == (0, ARMS, 0, 0)
    assert not any(part.intervention.any() for parts in episodes for part in parts)

    person = ScriptedPersonConfig(kind="scripted", until="end", patience=PATIENCE, corrections=ARMS - 1)
    counts, episodes = roll(resting, inputs, cell, person)
    assert (counts.successes, counts.episodes, counts.episodes_intervened) == (ARMS - 1, ARMS, ARMS - 1)
    assert counts.steps_intervened == sum(part.intervention.sum() for parts in episodes for part in parts)
    left_alone = 0
    for parts in episodes:
        episode = join(parts)
        proposed = np.concatenate([part.action_proposed for part in parts])
        intervened = np.flatnonzero(episode.intervention)
        assert proposed.any() and np.abs(proposed).max() < 0.01, "always the policy's"
        if not len(intervened):
            left_alone += 1
            continue
        # They take over in the midst of a chunk, and keep it; the arm then moves as the policy never would.
        assert intervened.tolist() == list(range(intervened[0], len(episode))) and intervened[0] >= PATIENCE
        assert np.abs(episode.action_executed[intervened, :-1]).max() > 0.02
        assert np.abs(episode.action_executed[: intervened[0], :-1]).max() < 0.01
        assert episode.success[-1]
        # Chunks run on beside the person, as those of a paced arm do, but nothing is learnt from what didn't run.
        assert episode.executed.sum() == len(episode)
        assert chunk_batch([episode], 0.99).mask.sum() == intervened[0]
    assert left_alone == 1


@pytest.mark.parametrize("explore", [True, False])
def test_an_edge_has_one_and_tells_how_often_they_took_over(
    learners_end: LearnersEnd, config: Config, resting: Policy, tmp_path: Path, explore: bool
) -> None:
    keys = {"kind": "scripted", "patience": PATIENCE, "corrections": 2}
    edge = config.edges[1].model_dump() | {"person": keys, "explore": explore}
    batch = BatchEdgeConfig.model_validate(edge)
    running = BatchEdge(config, batch, learners_end.address, tmp_path / "edge")
    stop = threading.Event()
    thread = threading.Thread(target=running.run, args=[stop])
    try:
        learners_end.publisher.publish(0, to_arrays(resting))
        thread.start()

        def told() -> dict[str, int]:
            return next((dict(peer.counts) for peer in learners_end.server.peers() if peer.edge == batch.name), {})

        until(lambda: told().get("episodes_intervened") == 2, "the edge to tell of two episodes")
        assert told()["steps_intervened"] >= 2
    finally:
        stop.set()
        thread.join()
        running.close()
    stored = [segment for _, segment in learners_end.store.scan()]
    assert len({segment.episode for segment in stored if segment.intervention.any()}) == 2
    assert any(segment.chunk_stochastic.any() for segment in stored) == explore
    assert contract(config) == contract(config.model_copy(update={"edges": (config.edges[0], batch)}))
