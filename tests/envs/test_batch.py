"""Many arms at once: the contract of a Gymnasium vector environment, and what ours adds to it."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs import ArmEnv, BatchArmEnv, EnvError, EnvOptions, Expert, TaskError, make_task
from envs.scene import build_scene
from hal.registry import make_robot
from hal.spec import RobotSpec, load_spec
from tests.envs.alike import alike

SPEC = load_spec("panda")
DISABLED = AutoresetMode.DISABLED


@pytest.mark.parametrize("task", ["reach", "lift"])
def test_the_scripted_expert_does_the_task(task: str) -> None:
    env = BatchArmEnv(SPEC, task, 100, threads=2, seed=5, autoreset=DISABLED)
    expert = Expert(SPEC, env.task)
    env.reset()
    success = np.zeros(100, bool)
    while env.running.any():
        _, reward, terminated, truncated, infos = env.step(expert.act(env.scene_state()))
        assert not (terminated & truncated).any()
        assert (reward == terminated).all()
        assert not infos["fault"].any()
        success |= terminated
    assert success.mean() >= 0.95


@pytest.mark.parametrize("task", ["reach", "lift"])
def test_observations_and_actions_are_in_their_spaces(task: str) -> None:
    env = BatchArmEnv(SPEC, task, 4, seed=0)
    observations, _ = env.reset()
    assert observations in env.observation_space
    for _ in range(30):
        observations, reward, _, _, infos = env.step(env.action_space.sample())
        assert observations in env.observation_space
        assert reward.dtype == np.float32 and reward.shape == (4,)
        assert infos["executed"].shape == env.action_space.shape


def test_same_seed_gives_the_same_bits_at_any_thread_count() -> None:
    runs = []
    for threads in (1, 2):
        env = BatchArmEnv(SPEC, "lift", 6, threads=threads, seed=3)
        env.action_space.seed(0)
        rows = [env.reset()[0]["observation.environment_state"]]
        rows += [env.step(env.action_space.sample())[0]["observation.environment_state"] for _ in range(40)]
        runs.append(np.stack(rows))
    assert np.array_equal(runs[0], runs[1])


def test_same_step_autoreset_keeps_the_last_observation_of_an_episode() -> None:
    env = BatchArmEnv(SPEC, "reach", 3, seed=0, options=EnvOptions(episode_steps=2))
    env.reset()
    hold = env.control.rest_action(np.arange(3))
    _, _, _, truncated, _ = env.step(hold)
    assert not truncated.any()
    observations, _, terminated, truncated, infos = env.step(hold)
    ended = terminated | truncated
    assert ended.all() and np.array_equal(infos["_final_obs"], ended)
    key = "observation.environment_state"
    assert not np.allclose(infos["final_obs"][key], observations[key])
    assert env.running.all()


def test_a_finished_arm_rests_until_it_is_reset() -> None:
    env = BatchArmEnv(SPEC, "reach", 3, seed=0, options=EnvOptions(episode_steps=1), autoreset=DISABLED)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    assert env.running.tolist() == [True, False, True]
    actions = np.tile(env.control.high, (3, 1))
    before, *_ = env.step(actions)
    after, reward, terminated, truncated, infos = env.step(actions)
    assert not env.running.any() and not (terminated | truncated).any() and not reward.any()
    assert not infos["executed"].any()
    for key in before:
        assert np.array_equal(before[key], after[key])


def test_every_arm_obeys_the_limits_of_its_spec_whatever_the_actions() -> None:
    env = BatchArmEnv(SPEC, "lift", 8, seed=0, options=EnvOptions(episode_steps=40))
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.choice([-10.0, 10.0, np.inf], size=env.action_space.shape).astype(np.float32)
        _, _, _, _, infos = env.step(actions)
        joints = len(SPEC.joints)
        assert (np.abs(infos["executed"][:, :joints]) <= SPEC.velocity[:joints] * SPEC.dt + 1e-6).all()


def test_an_action_that_is_not_finite_holds_the_arm() -> None:
    env = BatchArmEnv(SPEC, "reach", 2, seed=0)
    env.reset()
    actions = env.control.rest_action(np.arange(2))
    actions[1, 0] = np.nan
    observations, _, _, _, infos = env.step(actions)
    assert infos["held"].tolist() == [False, True]
    assert all(np.isfinite(value).all() for value in observations.values())


def test_a_simulation_that_diverges_ends_its_episode_as_a_fault() -> None:
    env = BatchArmEnv(SPEC, "lift", 3, seed=0, autoreset=DISABLED)
    env.reset()
    env._qvel[1, :7] = 1e12
    _, reward, terminated, truncated, infos = env.step(env.control.rest_action(np.arange(3)))
    assert infos["fault"].tolist() == [False, True, False]
    assert truncated[1] and not terminated[1] and reward[1] == 0
    env.reset(options={"reset_mask": np.array([False, True, False])})
    observations, _, _, _, infos = env.step(env.control.rest_action(np.arange(3)))
    assert not infos["fault"].any()
    assert all(np.isfinite(value).all() for value in observations.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_envs": 0}, "num_envs and threads must be at least 1"),
        ({"num_envs": 1, "autoreset": AutoresetMode.NEXT_STEP}, "SAME_STEP or DISABLED"),
    ],
)
def test_what_can_not_work_is_refused(options: dict, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        BatchArmEnv(SPEC, "reach", **options)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match="did you mean 'lift'"):
        make_task("lifts", SPEC)


def test_it_is_a_vector_env_with_batched_spaces() -> None:
    env = BatchArmEnv(SPEC, "reach", 5)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.action_space.shape == (5, *env.single_action_space.shape)


@pytest.mark.renders
def test_a_picture_shows_the_arm_and_the_cube() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0)
    env.reset()
    frames = env.render()
    assert len(frames) == 2 and frames[0].shape == (240, 320, 3)
    red = (frames[0][..., 0] > 120) & (frames[0][..., 1] < 80) & (frames[0][..., 2] < 80)
    assert 20 < red.sum() < 5000
    assert not np.array_equal(frames[0], frames[1])
    env.close()


def test_between_two_control_steps_a_faster_driver_gets_set_points_on_a_line_as_in_the_single_arm() -> None:
    spec = RobotSpec.model_validate(load_spec("panda").model_dump() | {"driver_hz": 50.0})
    batch = BatchArmEnv(spec, "lift", 1)
    env = ArmEnv(make_robot(spec, scene=build_scene(spec, make_task("lift", spec))), "lift")
    written: list[np.ndarray] = []
    write = env.robot.write
    env.robot.write = lambda command: (written.append(command.target), write(command))[1]  # type: ignore[method-assign]
    for one, many in alike(env, batch, 6):
        np.testing.assert_allclose(one["observation.state"], many["observation.state"], atol=1e-5)
    steps = np.diff(np.array(written).reshape(6, 5, spec.dim), axis=1)
    np.testing.assert_allclose(steps, steps[:, :1].repeat(4, axis=1), atol=1e-12)
    assert np.abs(steps).max() > 1e-3
