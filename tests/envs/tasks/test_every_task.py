"""Every task with every arm: it starts at rest, its expert does it, and nothing else does."""

import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import hal
from envs import BatchArmEnv, Expert, SceneState, TaskError, make_task
from envs.geometry import pointing_down, poses, rotation_from_quaternion

TASKS = ("reach", "lift", "push", "pick_place", "stack", "peg", "touch", "put")
PAGES = sorted(path.stem for path in hal.data_path("hardware_specs").glob("*.yaml"))
SPECS = {name: spec for name in PAGES if (spec := hal.load_spec(name)).mujoco is not None and spec.tabletop is not None}
EVERY = [pytest.param(task, arm, id=f"{task}-{arm}") for task in TASKS for arm in SPECS]


def batch(task: str, arm: str, n: int, seed: int) -> BatchArmEnv:
    return BatchArmEnv(SPECS[arm], task, n, seed=seed, autoreset=AutoresetMode.DISABLED)


def attempt(env: BatchArmEnv, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """One episode each with the expert: who succeeded (n,), and the progress (steps + 1, n), frozen at the end."""
    expert, rng, joints = Expert(env.robot, env.task), np.random.default_rng(1), len(env.robot.joints)
    env.reset()
    success = np.zeros(env.num_envs, bool)
    progress = [env.task.progress(env.scene_state())]
    while env.running.any():
        action = expert.act(env.scene_state())
        action[:, :joints] += rng.normal(0, noise, (env.num_envs, joints))
        _, _, terminated, truncated, infos = env.step(action)
        assert not infos["fault"].any() and not (terminated & truncated).any()
        success |= terminated
        progress.append(env.task.progress(env.scene_state()))
    return success, np.array(progress)


@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_the_expert_does_it_and_progress_tells(task: str, arm: str) -> None:
    success, progress = attempt(batch(task, arm, 20, 7), 0.0)
    assert success.sum() >= 19
    assert ((progress >= 0) & (progress <= 1)).all()
    assert (progress[-1] > progress[0])[success].all()
    mean = progress[:, success].mean(1)
    assert (np.diff(mean) > -0.03).all() and mean[-1] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_the_expert_succeeds_19_times_in_20(task: str, arm: str) -> None:
    success, _ = attempt(batch(task, arm, 200, 11), 0.0)
    assert success.mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_with_the_noise_of_demonstrations_it_succeeds_9_times_in_10(task: str, arm: str) -> None:
    success, _ = attempt(batch(task, arm, 200, 12), 0.005)
    assert success.mean() >= 0.9


@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_chance_does_not_do_it(task: str, arm: str) -> None:
    env = batch(task, arm, 50, 3)
    env.action_space.seed(0)
    env.reset()
    success = np.zeros(50, bool)
    while env.running.any():
        success |= env.step(env.action_space.sample())[2]
    assert success.mean() < 0.05


@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_an_episode_starts_at_rest(task: str, arm: str) -> None:
    env = batch(task, arm, 30, 4)
    env.reset()
    before = env.scene_state()
    assert not env.task.achieved(before).any()
    for index in range(env.num_envs):
        data = env._batch.get_data(index)
        mujoco.mj_forward(env.model, data)
        assert data.contact.dist[: data.ncon].min(initial=0) > -1e-4, "something penetrates something"
    for _ in range(5):
        env.step(env.control.rest_action(np.arange(30)))
        after = env.scene_state()
        for name in env.task.objects:
            assert np.abs(after.objects[name][:, :3] - before.objects[name][:, :3]).max() < 1e-3
    assert not env.task.achieved(after).any()


@pytest.mark.parametrize(("task", "arm"), EVERY)
def test_observations_share_one_layout(task: str, arm: str) -> None:
    env = batch(task, arm, 5, 0)
    seen = env.reset()[0]["observation.environment_state"]
    state = env.scene_state()
    known = {"reach": 6, "lift": 15, "push": 21, "pick_place": 21, "stack": 21, "peg": 24, "touch": 9, "put": 33}
    entries = known[task]
    assert seen.shape == (5, entries) and seen.dtype == np.float32
    pose = state.objects[env.task.objects[0]]
    np.testing.assert_allclose(seen[:, :3], state.tcp, atol=1e-6)
    aim = pose[:, :3] + ([0, 0, env.task.half_size] if task == "touch" else 0)
    np.testing.assert_allclose(seen[:, 3:6], aim - state.tcp, atol=1e-6)
    if entries > 9:
        into = np.swapaxes(state.rotation, 1, 2)
        axes = rotation_from_quaternion(pose[:, 3:])
        for start, vector in ((6, pose[:, :3] - state.tcp), (9, axes[:, :, 0]), (12, axes[:, :, 2])):
            np.testing.assert_allclose(seen[:, start : start + 3], np.einsum("nij,nj->ni", into, vector), atol=1e-6)
    if entries > 15 and task != "put":
        np.testing.assert_allclose(seen[:, 18:21], np.einsum("nij,nj->ni", into, seen[:, 15:18]), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_a_robot_that_can_not_do_it_is_named_with_the_reason(task: str) -> None:
    spec = SPECS["panda"]
    with pytest.raises(TaskError, match=f"task {task}: the spec of robot panda has no key 'tabletop'"):
        make_task(task, spec.model_copy(update={"tabletop": None}))
    tiny = hal.Rectangle(lower=(0.4, 0.0), upper=(0.45, 0.05))
    with pytest.raises(TaskError, match=f"task {task}: the tabletop of robot panda is as large as a square of 5.0 cm"):
        make_task(task, spec.model_copy(update={"tabletop": tiny}))
    if task in ("lift", "pick_place", "stack", "peg", "put"):
        assert spec.gripper is not None
        for gripper in (None, spec.gripper.model_copy(update={"upper": 0.03, "home": 0.03})):
            narrow = hal.RobotSpec.model_construct(**{**dict(spec), "gripper": gripper})
            with pytest.raises(TaskError, match=f"task {task}: robot panda has no gripper that opens wider than the"):
                make_task(task, narrow)


def one(position: list[float], yaw: float = 0.0) -> np.ndarray:
    return poses(np.array([position]), np.array([yaw]))


def judged(task: str, tool: list[float], width: float, **objects: np.ndarray) -> bool:
    """Whether Panda's task counts this moment: tool at `tool`, pointing down, jaws `width` apart."""
    spec = SPECS["panda"]
    position = np.array([[*spec.home[:-1], width]])
    state = SceneState(position, np.array([tool]), pointing_down(np.zeros(1)), objects)
    return bool(make_task(task, spec).achieved(state)[0])


def test_a_cube_is_placed_only_where_it_rests_let_go() -> None:
    pad = one([0.5, 0, 0.005])
    there, away = [0.51, 0, 0.03], [0.51, 0, 0.1]
    assert judged("pick_place", away, 0.08, cube=one(there), pad=pad)
    assert not judged("pick_place", there, 0.04, cube=one(there), pad=pad), "still held"
    assert not judged("pick_place", there, 0.08, cube=one(there), pad=pad), "the tool is still around it"
    assert not judged("pick_place", away, 0.08, cube=one([0.51, 0, 0.04]), pad=pad), "in the air"
    assert not judged("pick_place", away, 0.08, cube=one([0.53, 0, 0.03]), pad=pad), "at the edge"
    assert not judged("pick_place", away, 0.08, cube=one([0.51, 0, 0.02]), pad=pad), "on the table"


def test_a_tower_stands_on_the_table_let_go() -> None:
    blue, away = one([0.5, 0, 0.02]), [0.5, 0, 0.14]
    assert judged("stack", away, 0.08, red=one([0.51, 0, 0.06]), blue=blue)
    assert not judged("stack", away, 0.04, red=one([0.51, 0, 0.06]), blue=blue), "the jaws are closed"
    assert not judged("stack", [0.5, 0, 0.06], 0.08, red=one([0.5, 0, 0.06]), blue=blue), "the tool is around it"
    assert not judged("stack", away, 0.08, red=one([0.53, 0, 0.06]), blue=blue), "beside it in the air"
    assert not judged("stack", away, 0.08, red=one([0.5, 0.04, 0.02]), blue=blue), "pushed against it"
    assert not judged("stack", [0.5, 0, 0.2], 0.08, red=one([0.5, 0, 0.1]), blue=one([0.5, 0, 0.06])), "both lifted"
    assert not judged("stack", away, 0.08, red=one([0.5, 0, 0.02]), blue=one([0.5, 0, 0.06])), "upside down"


def test_a_peg_is_inserted_only_in_the_hole() -> None:
    fixture, tool = one([0.5, 0, 0]), [0.5, 0, 0.1]
    assert judged("peg", tool, 0.04, peg=one([0.5, 0, 0.04]), fixture=fixture)
    assert not judged("peg", tool, 0.04, peg=one([0.5, 0, 0.05]), fixture=fixture), "15 mm deep"
    assert not judged("peg", tool, 0.04, peg=one([0.5, 0, 0.065]), fixture=fixture), "on the rim"
    assert not judged("peg", tool, 0.04, peg=one([0.56, 0, 0.035]), fixture=fixture), "beside it"
    lying = np.array([[0.5, 0, 0.02, np.sqrt(0.5), np.sqrt(0.5), 0, 0]])
    assert not judged("peg", tool, 0.04, peg=lying, fixture=fixture), "lying down"


@pytest.mark.parametrize(("task", "thrown", "at"), [("pick_place", "cube", "pad"), ("stack", "red", "blue")])
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_what_is_shoved_along_the_table_does_not_get_there(task: str, thrown: str, at: str, speed: float) -> None:
    env = batch(task, "panda", 20, 6)
    env.reset()
    state = env.scene_state()
    way = state.objects[at][:, :2] - state.objects[thrown][:, :2]
    dof = int(env.model.body(thrown).dofadr[0])
    env._qvel[:, dof : dof + 2] = speed * way / np.linalg.norm(way, axis=-1, keepdims=True)
    hold, success, moved = env.control.rest_action(np.arange(20)), np.zeros(20, bool), 0.0
    while env.running.any():
        success |= env.step(hold)[2]
        moved = max(moved, np.abs(env.scene_state().objects[thrown] - state.objects[thrown])[:, :2].max())
    assert moved > 0.01 and not success.any()


def test_a_peg_that_is_turned_can_not_be_pressed_through_the_rim() -> None:
    """The clearance lets it turn by some 0.02 rad; at 0.1 and 0.2 rad it stays on the rim, with 60 N upon it."""
    env = batch("peg", "panda", 3, 0)
    env.reset()
    fixture = env.scene_state().objects["fixture"]
    yaw = 2 * np.arctan2(fixture[:, 6], fixture[:, 3]) + [0, 0.1, -0.2]
    env._set_pose("peg", poses(fixture[:, :3] + [0, 0, 0.065], yaw), np.arange(3))
    force = env._batch.bind("xfrc_applied")
    for newtons in np.linspace(0, 60, 13):
        force[:, env.model.body("peg").id, 2] = -newtons
        env.step(env.control.rest_action(np.arange(3)))
    tip = env.scene_state().objects["peg"][:, 2] - env.task.length / 2
    assert tip[0] < 0.002 and (tip[1:] > 0.029).all()
