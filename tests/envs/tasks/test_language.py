"""Language tasks: only the words tell what is meant, and each split differs from training in what it says."""

from dataclasses import replace
from itertools import combinations, cycle
from typing import ClassVar

import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import hal
from envs import (
    ArmEnv,
    BatchArmEnv,
    EnvError,
    EnvOptions,
    Expert,
    LanguageTask,
    Randomization,
    Split,
    TaskError,
    register_task,
    tasks,
)
from envs.language import SEEN
from envs.look import Look
from envs.scene import build_scene
from envs.tasks.put import Put
from envs.tasks.touch import Touch
from hal.drivers.mujoco import MujocoRobot

CLASSES: tuple[type[LanguageTask], ...] = (Touch, Put)
ARMS = ("panda", "ur5e", "so101")
SPECS = {name: hal.load_spec(name) for name in ARMS}
SPLITS = [pytest.param(task, split, id=f"{task.name}-{split.name}") for task in CLASSES for split in task.splits]
ON_AN_ARM = [
    pytest.param(*one.values, arm, id=f"{one.id}-{arm}") for one, arm in zip(SPLITS, cycle(ARMS), strict=False)
]


def batch(
    task: type[LanguageTask], split: str, n: int, seed: int, arm: str = "panda", **options: object
) -> BatchArmEnv:
    """Waits, `n` arms of it, for `reset`."""
    spec = SPECS[arm]
    made = EnvOptions(**options)  # type: ignore[arg-type]
    return BatchArmEnv(spec, task(spec, split), n, seed=seed, options=made, autoreset=AutoresetMode.DISABLED)


def attempt(env: BatchArmEnv, wrong: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """One episode each; the expert takes each goal for the one `wrong` further on. Success and length, (n,)."""
    expert, rng, joints = Expert(env.robot, env.task), np.random.default_rng(1), len(env.robot.joints)
    assert isinstance(env.task, LanguageTask)
    env.reset()
    success, steps = np.zeros(env.num_envs, bool), np.zeros(env.num_envs, int)
    while env.running.any():
        state = env.scene_state()
        action = expert.act(replace(state, goal=(state.goal + wrong) % len(env.task.goals)))
        action[:, :joints] += rng.normal(0, noise, (env.num_envs, joints))
        steps += env.running
        _, _, terminated, truncated, infos = env.step(action)
        assert not infos["fault"].any() and not (terminated & truncated).any()
        success |= terminated
    return success, steps


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("arm", ARMS)
def test_the_expert_does_whatever_it_is_told(task: type[LanguageTask], arm: str) -> None:
    env = batch(task, "seen", 40, 3, arm)
    success, _ = attempt(env)
    told, goal = np.array(env.instructions), env.scene_state().goal
    assert all(words in env.task.told(goal[arm]) for arm, words in enumerate(told))  # type: ignore[attr-defined]
    assert set(told) == set(env.task.instructions), "each instruction once at least"
    for words in env.task.instructions:
        assert success[told == words].mean() >= 0.75
    assert success.mean() >= 0.95


@pytest.mark.parametrize("task", CLASSES)
def test_who_takes_one_goal_for_another_fails_at_once(task: type[LanguageTask]) -> None:
    env = batch(task, "seen", 30, 4)
    success, steps = attempt(env, wrong=1)
    assert not success.any() and (steps < env.referee.episode_steps).all()


@pytest.mark.parametrize("task", CLASSES)
def test_who_ignores_the_words_is_right_as_often_as_chance_has_it(task: type[LanguageTask]) -> None:
    """Always for the first goal, whatever the words."""
    env = batch(task, "seen", 60, 5)
    expert = Expert(env.robot, env.task)
    env.reset()
    meant, success = env.scene_state().goal, np.zeros(60, bool)
    while env.running.any():
        success |= env.step(expert.act(replace(env.scene_state(), goal=np.zeros(60, int))))[2]
    assert (success == (meant == 0)).mean() > 0.95
    assert 0.25 < success.mean() < 0.65


def test_who_goes_to_both_fails_when_the_first_was_the_wrong_one() -> None:
    env = batch(Touch, "seen", 20, 6)
    expert = Expert(env.robot, env.task)
    env.reset()
    success = np.zeros(20, bool)
    for goal in [0] * 7 + [1] * 9:
        success |= env.step(expert.act(replace(env.scene_state(), goal=np.full(20, goal))))[2]
    assert (success == (env.scene_state().goal == 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "split", "arm"), ON_AN_ARM)
def test_every_split_can_be_done(task: type[LanguageTask], split: Split, arm: str) -> None:
    assert attempt(batch(task, split.name, 100, 11, arm))[0].mean() >= 0.95
    assert attempt(batch(task, split.name, 100, 12, arm), noise=0.005)[0].mean() >= 0.9


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_an_episode_of_a_split_starts_at_rest(task: type[LanguageTask], split: Split) -> None:
    for arm in ARMS:
        env = batch(task, split.name, 10, 4, arm)
        env.reset()
        before = env.scene_state()
        assert not env.task.achieved(before).any() and not env.task.failed(before).any()
        for index in range(env.num_envs):
            data = env._batch.get_data(index)
            mujoco.mj_forward(env.model, data)
            assert data.contact.dist[: data.ncon].min(initial=0) > -1e-4, "something penetrates something"


@pytest.mark.parametrize("task", CLASSES)
def test_no_two_instructions_mean_different_things_or_are_alike(task: type[LanguageTask]) -> None:
    spec = SPECS["panda"]
    meant: dict[str, tuple[str, ...]] = {}
    for split in task.splits:
        made = task(spec, split.name)
        assert len(set(made.instructions)) == len(made.instructions) == len(made.wordings) * len(made.goals)
        for goal, names in enumerate(made.goals):
            for words in made.told(goal):
                assert made.goal_of(words) == goal and meant.setdefault(words, names) == names
                assert all(name in words and name in made.things for name in names)
    assert set(meant) == {*task.instructions, *task.held_out} and not set(task.instructions) & set(task.held_out)
    with pytest.raises(TaskError, match=f"task {task.name}, split seen: no episode is told 'make tea'"):
        task(spec).goal_of("make tea")


def test_training_is_told_and_shown_nothing_of_what_is_held_out() -> None:
    spec = SPECS["panda"]
    for task in CLASSES:
        made = tasks.make_task(task.name, spec)
        assert made.instructions == task.instructions and made.look == Look() and made.moves_at is None
        told = BatchArmEnv(spec, task.name, 200, seed=1)
        told.reset()
        assert set(told.instructions) == set(task.instructions)
    assert not any("blue cube" in words and "black plate" in words for words in Put.instructions)


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_a_split_differs_from_training_in_what_it_says(task: type[LanguageTask], split: Split) -> None:
    """Same seed: what a split leaves alone is the same, number for number."""
    spec = SPECS["panda"]
    seen, other = task(spec), task(spec, split.name)
    given = {name for name in Split.__dataclass_fields__ if getattr(split, name) != getattr(SEEN, name)}
    given -= {"name", "axis", "what"}
    assert bool(given) == (split.name != "seen") and (split.axis == "seen") == (split.name == "seen")
    assert (other.look != seen.look) == ("look" in given)
    assert (other.wordings != seen.wordings) == ("wordings" in given)
    assert not given & {"wordings"} or not set(other.wordings) & set(seen.wordings)
    assert (other.goals != seen.goals) == ("goals" in given)
    assert not given & {"goals"} or not set(other.goals) & set(seen.goals)
    assert (other.things != seen.things) == ("things" in given)
    assert not {*other.clutter} & {*seen.things, *seen.clutter}
    assert (other.start_tcp != seen.start_tcp) == ("start" in given)
    assert (other.moves_at != seen.moves_at) == ("moves_at" in given)
    one, two = (made.place(np.random.default_rng(3), 500) for made in (seen, other))
    for name, thing in zip(seen.things, other.things, strict=True):
        alike = np.array_equal(one[name], two[thing])
        assert alike == ("elsewhere" not in given)
        if not alike:  # nowhere near where it ever lay
            ways = one[name][None, :, :2] - two[thing][:, None, :2]
            assert np.linalg.norm(ways, axis=-1).min() > 0.01


@pytest.mark.parametrize("task", CLASSES)
def test_things_are_moved_once_in_mid_episode_and_lie_still(task: type[LanguageTask]) -> None:
    moved, plain = batch(task, "moved", 8, 2), batch(task, "seen", 8, 2)
    places = []
    for env in (moved, plain):
        env.reset()
        seen = [env.scene_state().objects]
        for _ in range(6):
            env.step(env.control.rest_action(np.arange(8)))
            seen.append(env.scene_state().objects)
        places.append([np.concatenate([objects[name][:, :2] for name in env.task.objects], -1) for objects in seen])
    at = moved.task.moves_at
    assert at is not None
    for step in range(7):
        same = np.abs(places[0][step] - places[1][step]).max(-1) < 1e-3
        assert same.all() if step <= at else not same.any()
    for step in range(at + 1, 6):
        assert np.abs(places[0][step + 1] - places[0][step]).max() < 1e-3
    # The places are drawn apart from the starts, which go on as they would have.
    for env in (moved, plain):
        env.reset()
    for name in moved.task.objects:
        np.testing.assert_array_equal(moved.scene_state().objects[name], plain.scene_state().objects[name])


def test_what_is_moved_stops() -> None:
    env = batch(Put, "moved", 4, 2)
    env.reset()
    hold = env.control.rest_action(np.arange(4))
    for _ in range(Put.splits[-1].moves_at or 0):
        env.step(hold)
    dof = int(env.model.body("red cube").dofadr[0])
    env._qvel[:, dof : dof + 2] = 1.0
    env.step(hold)
    before = env.scene_state().objects["red cube"]
    env.step(hold)
    assert np.abs(env.scene_state().objects["red cube"] - before).max() < 1e-3


def test_one_arm_knows_what_it_was_told_and_refuses_what_it_can_not_move() -> None:
    spec = SPECS["panda"]
    env = ArmEnv(MujocoRobot(spec, build_scene(spec, Touch(spec))), "touch")
    expert, meant = Expert(spec, env.task), set()
    for seed in range(6):
        env.reset(seed=seed)
        goal = int(env.scene_state().goal[0])
        assert env.task.goals[goal][0] in env.instruction  # type: ignore[attr-defined]
        meant.add(goal)
        success = over = False
        while not (success or over):
            _, _, success, over, _ = env.step(expert.act(env.scene_state())[0])
        assert success
    assert meant == {0, 1}
    env.close()
    moved = Touch(spec, "moved")
    with pytest.raises(EnvError, match="task touch: objects that are moved in mid-episode need a BatchArmEnv"):
        ArmEnv(MujocoRobot(spec, build_scene(spec, moved)), moved)


def test_a_split_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(TaskError, match="task touch has no split 'ligt'; did you mean 'light'"):
        Touch(SPECS["panda"], "ligt")
    with pytest.raises(TaskError, match="it has seen, table, light"):
        Touch(SPECS["panda"], "xyzzy")


def test_words_and_splits_of_ones_own_task_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    with pytest.raises(TaskError, match="task late: its splits are words, seen: expected 'seen' first"):

        class Late(Touch):
            name = "late"
            splits: ClassVar = (Split("words", "semantics", ""), SEEN)

    class Same(Touch):
        name = "same"
        wordings = ("reach to the {}",)
        splits: ClassVar = (SEEN, Split("words", "semantics", "", wordings=("point at the {}",)))

    with pytest.raises(TaskError, match="'same' has the instruction 'point at the blue cube' in common with 'touch'"):
        register_task(Same)


@pytest.mark.renders
@pytest.mark.parametrize("task", CLASSES)
def test_splits_of_vision_look_different_and_colours_are_told_apart(task: type[LanguageTask]) -> None:
    """At 64 x 64 pixels; where the arms and things are is the same."""
    pictures = {}
    for split in task.splits:
        if split.axis in ("seen", "vision"):
            noise = Randomization(image_noise=split.image_noise)
            env = batch(task, split.name, 2, 7, cameras=("front",), randomization=noise)
            pictures[split.name] = env.reset()[0]["observation.images.front"].astype(float)
            env.close()
    for one, other in combinations(pictures.values(), 2):
        assert np.abs(one - other).mean() > 8
    red, _, blue = np.moveaxis(pictures["seen"], -1, 0)
    for much, less in ((red, blue), (blue, red)):
        for image in range(2):
            assert ((much - less)[image] > 60).sum() >= 6, "a thing of that colour is to be seen"
