"""One arm: Gymnasium's own checker, the same physics as the batch, and the wall clock."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import ArmEnv, BatchArmEnv, EnvError, EnvOptions, Expert, Randomization
from envs.control import JointDeltaControl
from envs.scene import build_scene
from envs.task import SceneState
from envs.tasks import make_task
from envs.tasks.lift import Lift
from envs.tasks.reach import Reach
from hal import Command, RealTime, Robot, Scene, load_spec
from hal.control_loop import ControlLoop
from hal.drivers.mujoco import MujocoRobot
from hal.errors import Stopped
from hal.virtual_scene import VirtualScene
from tests.arms import RecordingArm, fast_spec
from tests.envs.alike import alike

SPEC = load_spec("panda")


def simulated(task: str) -> Robot:
    return MujocoRobot(SPEC, build_scene(SPEC, make_task(task, SPEC)))


@pytest.mark.parametrize("task", ["reach", "lift"])
def test_gymnasiums_checker_passes(task: str) -> None:
    env = ArmEnv(simulated(task), task)
    check_env(env, skip_render_check=True)
    env.close()


def test_an_action_changed_in_the_gripper_alone_is_counted_as_clipped() -> None:
    control = JointDeltaControl(SPEC, 1)
    control.reset(np.zeros(1, int), SPEC.home[None])
    action = control.rest_action(np.zeros(1, int))  # its gripper is wide open
    assert not control.apply(np.zeros(1, int), action).clipped[0]
    applied = control.apply(np.zeros(1, int), action + np.eye(1, 8, 7, dtype=np.float32) / 100)
    np.testing.assert_array_equal(applied.executed, action)
    assert applied.clipped[0] and not applied.held[0]


def test_the_expert_lifts_the_cube() -> None:
    env = ArmEnv(simulated("lift"), "lift")
    expert = Expert(SPEC, env.task)
    env.reset(seed=0)
    terminated = truncated = False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(expert.act(env.scene_state())[0])
    assert terminated and reward == 1.0 and info["success"]
    env.close()


def test_one_arm_and_a_batch_move_alike() -> None:
    options = EnvOptions(tracking_error=True)
    env, batch = ArmEnv(simulated("lift"), "lift", options), BatchArmEnv(SPEC, "lift", 1, seed=0, options=options)
    behind = []
    for one, other in alike(env, batch, 10):
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], atol=1e-5)
        behind.append(one["observation.tracking_error"])
        np.testing.assert_allclose(behind[-1], env.set_point - env.reading.position, atol=1e-6)
        assert one in env.observation_space
    assert np.abs(behind).max(axis=0)[:7].min() > 1e-3, "a moving arm is behind"
    env.close()


def test_a_robot_with_its_own_time_is_waited_for() -> None:
    env = ArmEnv(RealTime(simulated("reach")), "reach")
    env.reset(seed=0)
    stamps = []
    for _ in range(4):
        env.step(env.rest_action())
        stamps.append(env.reading.monotonic)
    env.close()
    # Never early: the ticks are waited for. How late one is is the machine's business, and then the next comes sooner.
    assert stamps[-1] - stamps[0] > 2.5 * SPEC.dt


def test_late_ticks_are_counted() -> None:
    env = ArmEnv(RealTime(simulated("reach")), "reach")
    env.reset(seed=0)
    env.step(env.rest_action())
    assert env._next_tick is not None
    env._next_tick -= 10 * SPEC.dt
    env.step(env.rest_action())
    assert env.missed_ticks == 1
    env.close()


def test_a_robot_that_sees_no_objects_is_refused() -> None:
    class Blind(MujocoRobot):
        def capability(self, kind: type) -> None:
            return None

    with pytest.raises(EnvError, match="needs to know where its objects are"):
        ArmEnv(Blind(SPEC), "reach")


def test_before_an_episode_nothing_is_commanded_so_an_arm_that_was_moved_is_not_behind() -> None:
    robot = simulated("reach")
    env = ArmEnv(robot, "reach", EnvOptions(tracking_error=True))
    elsewhere = SPEC.home.copy()
    elsewhere[0] += 0.5
    robot.capability(Scene).set_state(elsewhere, {})  # type: ignore[type-abstract,union-attr]
    seen = env.observe()
    np.testing.assert_allclose(seen["observation.state"], elsewhere, atol=1e-3)
    np.testing.assert_allclose(seen["observation.tracking_error"], 0, atol=1e-6)
    env.close()


def test_an_arm_that_was_stopped_is_not_behind_what_it_never_got(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = simulated("reach")
    env = ArmEnv(robot, "reach", EnvOptions(tracking_error=True))
    observations, _ = env.reset(seed=0)

    def stopped(command: Command) -> None:
        raise Stopped("a button")

    monkeypatch.setattr(robot, "write", stopped)
    action = env.rest_action()
    action[0] = 0.1
    last, _, terminated, truncated, info = env.step(action)
    assert truncated and not terminated and info["stopped"] == "a button"
    for key in ("observation.state", "observation.tracking_error"):
        np.testing.assert_allclose(last[key], observations[key], atol=1e-3)
    env.close()


@pytest.mark.parametrize("latency", [0, 2])
def test_what_is_foreseen_is_what_comes_and_changes_nothing(latency: int) -> None:
    """An arm on its way, at its limits: the set-points exactly, what is measured to a fraction of the way."""
    options = EnvOptions(tracking_error=True, randomization=Randomization(latency=latency))
    env, twin = (ArmEnv(simulated("reach"), "reach", options) for _ in range(2))
    rng = np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    twin.reset(seed=0)
    for _ in range(4):
        actions = env.rest_action() + np.float32(0.1) * rng.standard_normal((5, 8), np.float32)
        actions[:, :7] += np.float32(0.15)
        before = env.set_point
        foreseen = env.foresee(observations, actions)
        np.testing.assert_array_equal(env.set_point, before)
        now = observations
        for action in actions:
            observations, *_, info = env.step(action)
            *_, other = twin.step(action)
            np.testing.assert_array_equal(info["executed"], other["executed"])
        state = foreseen["observation.state"] - now["observation.state"]
        np.testing.assert_allclose(state, env.set_point - before, atol=1e-6)
        for key in foreseen:
            off, way = np.abs(foreseen[key] - observations[key]).max(), np.abs(now[key] - observations[key]).max()
            assert off < 0.35 * way, f"{key}: foreseen {off:.3f} off, as it was seen {way:.3f}"
    env.close()
    twin.close()


class Lifted(Lift):
    """Taken to be done wherever its cube is."""

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.ones(len(state.tcp), bool)


class Dropped(Lift):
    """Taken to have failed wherever its cube is."""

    def failed(self, state: SceneState) -> np.ndarray:
        return np.ones(len(state.tcp), bool)


class Reached(Reach):
    """Taken to be done wherever its ball is, which is nowhere but where it is said to be."""

    def achieved(self, state: SceneState) -> np.ndarray:
        return np.ones(len(state.tcp), bool)


@pytest.mark.parametrize("kind", [Lifted, Dropped, Reached])
def test_objects_that_lie_elsewhere_in_truth_judge_nothing(kind: type[Lift] | type[Reach]) -> None:
    spec, steps = fast_spec(), 5
    task = kind(spec)
    scene = VirtualScene(ControlLoop(RecordingArm(spec)), task.objects)
    env = ArmEnv(scene, task, EnvOptions(episode_steps=steps, reward="shaped"))
    env.reset(seed=0)
    away = env.rest_action()
    away[0] += 0.02
    told = [env.step(away)[1:] for _ in range(steps if kind is not Reached else task.hold_steps)]
    env.close()
    assert env.judged == (kind is Reached)
    _, terminated, truncated, info = told[-1]
    if kind is Reached:
        assert terminated and info["success"]
        return
    assert [reward for reward, *_ in told] == [0.0] * steps
    assert truncated and [over for *_, over, _ in told[:-1]] == [False] * (steps - 1)
    assert not any(ended or facts["success"] for _, ended, _, facts in told)
