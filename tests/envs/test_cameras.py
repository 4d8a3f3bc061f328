"""Camera images in observations: what they show, when they are new, that threads don't change them."""

import itertools
import os
import select
import subprocess
import sys
from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envs import ArmEnv, BatchArmEnv, EnvError, EnvOptions
from envs.scene import build_scene
from envs.spaces import observation_space
from envs.tasks import make_task
from hal import Reading, Renderable, RobotSpec, load_spec
from hal.drivers.mujoco import MujocoRobot
from tests.envs.alike import alike

SPEC = load_spec("panda")
KEYS = ("observation.images.front", "observation.images.wrist")
BOTH = EnvOptions(cameras=("front", "wrist"), image_size=(48, 64))
renders = pytest.mark.renders


def options(**changes: Any) -> EnvOptions:
    return EnvOptions(**({"cameras": ("front", "wrist"), "image_size": (48, 64)} | changes))


def simulated(task: str = "lift") -> MujocoRobot:
    return MujocoRobot(SPEC, build_scene(SPEC, make_task(task, SPEC)))


def rest(env: BatchArmEnv) -> np.ndarray:
    return env.control.rest_action(np.arange(env.num_envs))


class Filmed(MujocoRobot):
    """A robot that can't be drawn, whose driver brings images: as a real one's does."""

    brings = ("front", "wrist")

    def capability(self, kind: type) -> Any:
        return None if kind is Renderable else super().capability(kind)

    def read(self) -> Reading:
        reading = super().read()
        image = np.zeros((120, 320, 3), np.uint8)
        image[:, :100] = 255  # beyond the part of the shape 48 x 64: 80 pixels at each side are cut
        return Reading(
            reading.position, reading.velocity, reading.monotonic, reading.wall, dict.fromkeys(self.brings, image)
        )


def test_the_space_has_what_the_options_say() -> None:
    task = make_task("lift", SPEC)
    space = observation_space(SPEC, task, options(environment_state=False))
    assert set(space) == {"observation.state", *KEYS}
    assert space[KEYS[0]].shape == (48, 64, 3) and space[KEYS[0]].dtype == np.uint8
    assert set(observation_space(SPEC, task)) == {"observation.state", "observation.environment_state"}


def test_an_unknown_camera_names_the_nearest() -> None:
    with pytest.raises(EnvError, match=r"robot panda has no camera 'wirst'; did you mean 'wrist'\?"):
        BatchArmEnv(SPEC, "lift", 1, options=options(cameras=("wirst",)))
    with pytest.raises(EnvError, match="has no camera 'wirst'"):
        ArmEnv(simulated(), "lift", options(cameras=("wirst",)))


def test_a_camera_that_the_scene_lacks_is_named() -> None:
    spec = SPEC.model_copy(update={"cameras": (SPEC.cameras[0].model_copy(update={"name": "top"}),)})
    with pytest.raises(EnvError, match="the scene has no camera 'top', which the spec names; it has front, wrist"):
        BatchArmEnv(spec, "lift", 1, options=options(cameras=("top",)))


@renders
@pytest.mark.parametrize("environment_state", [True, False])
def test_observations_are_in_their_space(environment_state: bool) -> None:
    env = BatchArmEnv(SPEC, "lift", 3, seed=0, options=options(environment_state=environment_state, episode_steps=3))
    observations, _ = env.reset()
    for _ in range(7):
        assert observations in env.observation_space
        assert ("observation.environment_state" in observations) is environment_state
        observations, _, _, _, infos = env.step(env.action_space.sample())
        if "final_obs" in infos:
            assert infos["final_obs"] in env.observation_space
    env.close()
    env.close()


@renders
def test_an_image_shows_this_arms_cube() -> None:
    env = BatchArmEnv(SPEC, "lift", 3, seed=0, options=options())
    images = env.reset()[0]["observation.images.front"].astype(int)
    red = (images[..., 0] > 100) & (images[..., 1] < 80) & (images[..., 2] < 80)
    count = red.sum((1, 2))
    assert (count >= 2).all()
    columns, rows = (red * np.arange(64)).sum((1, 2)), (red * np.arange(48)[:, None]).sum((1, 2))
    seen = np.stack([columns, rows], -1) / count[:, None]
    data = mujoco.MjData(env.model)
    mujoco.mj_forward(env.model, data)
    lens = data.camera("front")
    offset = (env.scene_state().objects["cube"][:, :3] - lens.xpos) @ lens.xmat.reshape(3, 3)
    focal = 24 / np.tan(np.deg2rad(env.model.camera("front").fovy / 2))
    place = [31.5, 23.5] + focal * offset[:, :2] / -offset[:, 2:] * [1, -1]
    assert np.abs(seen - place).max() < 1.5
    env.close()


@renders
def test_pixels_do_not_depend_on_the_number_of_threads() -> None:
    runs = []
    for threads in (1, 3):
        env = BatchArmEnv(SPEC, "lift", 5, threads=threads, seed=3, options=options())
        env.action_space.seed(0)
        rows = [env.reset()[0]]
        rows += [env.step(env.action_space.sample())[0] for _ in range(3)]
        runs.append([np.stack([row[key] for row in rows]) for key in KEYS])
        env.close()
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert np.array_equal(one, other)


@renders
def test_one_arm_sees_what_a_batch_sees() -> None:
    env, batch = ArmEnv(simulated(), "lift", BOTH), BatchArmEnv(SPEC, "lift", 1, seed=0, options=BOTH)
    for one, other in alike(env, batch, 4):
        for key in KEYS:
            # Rounding of the pose may tip the colour of a pixel at an edge.
            assert (one[key] != other[key]).any(-1).mean() < 0.002
    env.close()
    batch.close()


@renders
def test_a_slow_camera_repeats_its_last_image() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0, options=options(image_every=3, episode_steps=5))
    images = [env.reset()[0][KEYS[1]]]
    action = rest(env)
    action[:, :3] = 0.1
    for _ in range(4):
        observations, *_ = env.step(action)
        images.append(observations[KEYS[1]])
    new = [not np.array_equal(*pair) for pair in itertools.pairwise(images)]
    assert new == [False, False, True, False]
    _, _, _, truncated, infos = env.step(action)
    assert truncated.all()
    assert np.array_equal(infos["final_obs"][KEYS[1]], images[4])  # step 5 isn't one of the camera's
    after = env._observations[KEYS[1]]
    assert not np.array_equal(after, images[4])  # an episode begins with an image of its own
    env.close()


@renders
def test_the_cameras_clocks_of_arms_are_those_of_their_episodes() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0, autoreset=AutoresetMode.DISABLED, options=options(image_every=2))
    before = env.reset()[0][KEYS[0]]
    action = rest(env)
    action[:, :3] = 0.1
    first, *_ = env.step(action)
    assert np.array_equal(first[KEYS[0]], before)
    fresh, _ = env.reset(options={"reset_mask": np.array([False, True])})
    assert np.array_equal(fresh[KEYS[0]][0], before[0]) and not np.array_equal(fresh[KEYS[0]][1], before[1])
    second, *_ = env.step(action)
    assert not np.array_equal(second[KEYS[0]][0], before[0])
    assert np.array_equal(second[KEYS[0]][1], fresh[KEYS[0]][1])
    env.close()


@renders
def test_final_images_are_those_of_the_episode_that_ended() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0, options=options(episode_steps=1))
    before = env.reset()[0][KEYS[0]]
    observations, _, _, _, infos = env.step(rest(env))
    final = infos["final_obs"][KEYS[0]]
    assert np.abs(final.astype(int) - before).mean() < np.abs(observations[KEYS[0]].astype(int) - before).mean()
    env.close()


@renders
def test_an_arm_that_diverged_repeats_its_last_image() -> None:
    env = BatchArmEnv(SPEC, "lift", 2, seed=0, autoreset=AutoresetMode.DISABLED, options=options())
    before = env.reset()[0][KEYS[0]]
    env._qpos[1] = np.nan
    ids = np.arange(2)
    observations = env._observe(env.scene_state(), ids)
    assert np.array_equal(observations[KEYS[0]][1], before[1])
    env.close()


@renders
@pytest.mark.parametrize("image_every", [1, 2])
def test_gymnasiums_checker_passes_with_cameras(image_every: int) -> None:
    env = ArmEnv(simulated("reach"), "reach", options(environment_state=False, image_every=image_every))
    check_env(env, skip_render_check=True)
    env.close()


@renders
def test_no_process_is_left() -> None:
    env = BatchArmEnv(SPEC, "reach", 2, threads=2, options=options())
    children = list(env._cameras._children)
    assert len(children) == 2 and all(child.poll() is None for child in children)
    env.close()
    assert [child.returncode for child in children] == [0, 0]
    env = BatchArmEnv(SPEC, "reach", 2, options=options())
    children = list(env._cameras._children)
    del env  # forgotten, not closed
    assert [child.wait(10) for child in children] == [0]


@renders
def test_a_drawing_process_that_dies_is_an_error() -> None:
    env = BatchArmEnv(SPEC, "reach", 2, threads=2, options=options())
    env.reset()
    env._cameras._children[1].kill()
    with pytest.raises(EnvError, match="no camera images: the process that draws them ended with status -9"):
        for _ in range(3):
            env.step(rest(env))
    env.close()


@renders
def test_drawing_processes_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time; from envs import BatchArmEnv, EnvOptions; from hal import load_spec;"
        "env = BatchArmEnv(load_spec('panda'), 'reach', 1, options=EnvOptions(cameras=('wrist',)));"
        "print(env._cameras._children[0].pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        parent.kill()
        assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


@renders
def test_a_picture_of_a_film_is_not_made_cheaper() -> None:
    plain, seen = (BatchArmEnv(SPEC, "lift", 1, seed=0, options=given) for given in (EnvOptions(), BOTH))
    plain.reset()
    seen.reset()
    assert np.array_equal(plain.render()[0], seen.render()[0])
    plain.close()
    seen.close()


def test_images_that_a_driver_brings_are_used_at_the_size_asked_for() -> None:
    robot = Filmed(SPEC, build_scene(SPEC, make_task("lift", SPEC)))
    env = ArmEnv(robot, "lift", BOTH)
    image = env.reset(seed=0)[0][KEYS[1]]
    assert image.shape == (48, 64, 3)
    # 160 of 320 columns are left; white ends at 20 of these 160, which is 8 of 64.
    assert (image[:, :7] == 255).all() and (image[:, 9:] == 0).all()
    env.close()


def pictures(*sizes: tuple[int, int]) -> RobotSpec:
    """The robot with cameras front and wrist that deliver pictures of these heights and widths."""
    cameras = zip(SPEC.cameras, sizes, strict=True)
    return SPEC.model_copy(
        update={"cameras": tuple(one.model_copy(update={"height": h, "width": w}) for one, (h, w) in cameras)}
    )


def test_whole_pictures_keep_their_shape_and_are_never_enlarged() -> None:
    spec = pictures((120, 320), (30, 40))
    robot = Filmed(spec, build_scene(spec, make_task("lift", spec)))
    robot.brings = ("front",)
    env = ArmEnv(robot, "lift", options(cameras=("front",), image_size=(64, 64), whole_images=True))
    image = env.reset(seed=0)[0][KEYS[0]]
    assert image.shape == env.observation_space[KEYS[0]].shape == (24, 64, 3)
    assert (image[:, :20] == 255).all() and (image[:, 20:] == 0).all()  # 100 of 320 columns, which is 20 of 64
    env.close()
    space = observation_space(spec, make_task("lift", spec), options(image_size=(64, 64), whole_images=True))
    assert space[KEYS[1]].shape == (30, 40, 3)


@renders
def test_cameras_of_unlike_sizes_show_what_each_shows_alone() -> None:
    spec = pictures((96, 160), (30, 40))
    many = BatchArmEnv(spec, "reach", 2, seed=0, options=options(image_size=(64, 80), whole_images=True))
    seen = many.reset()[0]
    for key, size in zip(KEYS, ((48, 80), (30, 40)), strict=True):
        one = options(cameras=(key.rpartition(".")[2],), image_size=size)
        alone = BatchArmEnv(spec, "reach", 2, seed=0, options=one)
        np.testing.assert_array_equal(alone.reset()[0][key], seen[key])
        assert seen[key].shape == (2, *size, 3)
        alone.close()
    many.close()


def test_a_camera_without_images_is_refused() -> None:
    class Half(Filmed):
        brings = ("front",)

    with pytest.raises(EnvError, match="brings no images of camera 'wrist', only: front"):
        ArmEnv(Half(SPEC, build_scene(SPEC, make_task("lift", SPEC))), "lift", BOTH)


def test_a_machine_that_can_not_draw_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(EnvError, match=r"no camera images: .* can't be drawn: .* set MUJOCO_GL to egl or osmesa"):
        BatchArmEnv(SPEC, "lift", 2, threads=2, options=BOTH)
