"""`robotlearn view`: episode after episode in real time, before a window that a test can look through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import ArmEnv, make_task
from envs.scene import build_scene
from hal import load_spec
from hal.drivers.mujoco import MujocoRobot
from robotlearn import checkpoint
from robotlearn.cells import env_options
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import dump, load_config
from robotlearn.contract import contract
from robotlearn.errors import ConfigError, DisplayError
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.view import FRAME_S, ExpertActor, RunActor, Shown, Viewer, WatchedRobot, idle, make_env, play, view
from tests.waiting import until

SPEC = load_spec("panda")


class Glass:
    """A window without a screen: notes the joints at each picture, and is closed when told to."""

    def __init__(self, robot: WatchedRobot, on_sync: Callable[[int], None] = lambda count: None) -> None:
        self.model, self.data = robot.scene
        self.joints: list[np.ndarray] = []
        self.closed = False
        self._on_sync = on_sync
        robot.watch(self)

    def is_running(self) -> bool:
        return not self.closed

    def sync(self) -> None:
        self.joints.append(self.data.qpos[:7].copy())
        self._on_sync(len(self.joints))


def saved(folder: RunFolder, version: int) -> None:
    config = load_config(folder.config)
    policy = build_policy(config, Inputs(config))
    facts = dict(contract(config))
    checkpoint.save(Checkpoint(version, policy.state_dict(), {"x": torch.zeros(1)}, {}, facts), folder.checkpoints)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = load_config("smoke", ["policy.hidden=[8]", "episode_steps=3"])
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    saved(folder, 3)
    return folder


def test_the_expert_does_its_task_until_the_window_is_closed() -> None:
    env, robot = make_env(SPEC, make_task("reach", SPEC))
    glass = Glass(robot)
    shown: list[Shown] = []

    def report(one: Shown) -> None:
        shown.append(one)
        glass.closed = len(shown) == 2

    begun = time.monotonic()
    play(env, ExpertActor(env), glass, report, seed=1)
    elapsed = time.monotonic() - begun
    env.close()
    assert [(one.number, one.actor, one.outcome) for one in shown] == [
        (1, "expert", "success"),
        (2, "expert", "success"),
    ]
    # A window that closes ends the show at once: nothing is shown after it but the rest of the step.
    pictures = sum(one.seconds for one in shown) / FRAME_S
    assert pictures <= len(glass.joints) + 6
    assert elapsed >= (len(glass.joints) - 1) * FRAME_S, "time never runs ahead of the wall clock"
    moves = np.abs(np.diff(glass.joints[:20], axis=0)).max(1)
    assert np.count_nonzero(moves > 1e-5) > 15, "each picture shows another moment, not only each control step"


def test_the_physics_is_that_of_the_environment() -> None:
    """What one sees is what training does: the pictures in between change nothing."""
    watched, robot = make_env(SPEC, make_task("lift", SPEC))
    Glass(robot)
    plain = ArmEnv(MujocoRobot(SPEC, build_scene(SPEC, make_task("lift", SPEC))), "lift")
    seen = [env.reset(seed=3)[0] for env in (watched, plain)]
    for _ in range(4):
        action = np.full(8, 0.03, np.float32)
        seen = [env.step(action)[0] for env in (watched, plain)]
    watched.close()
    plain.close()
    for key, value in seen[0].items():
        np.testing.assert_array_equal(value, seen[1][key])


def test_a_run_that_trains_on_shows_its_newest_policy(run: RunFolder) -> None:
    actor = RunActor(run.path, None, None, 0)
    env, robot = make_env(SPEC, actor.saved.arm.task, env_options(actor.saved.config))
    glass = Glass(robot)
    shown: list[Shown] = []

    def report(one: Shown) -> None:
        shown.append(one)
        if len(shown) == 1:
            saved(run, 7)
            checkpoint.prune(run.checkpoints, 1)
        glass.closed = len(shown) == 2

    play(env, actor, glass, report, seed=0)
    env.close()
    assert [one.actor for one in shown] == ["version 3", "version 7"]
    assert [one.seconds for one in shown] == [pytest.approx(0.3)] * 2 and shown[0].outcome == "failure"


def test_one_checkpoint_stays_what_it_is(run: RunFolder) -> None:
    actor = RunActor(run.checkpoints / "000003", None, None, 0)
    saved(run, 7)
    assert actor.begin() == "version 3"


def test_a_simulation_that_the_user_breaks_begins_anew() -> None:
    env, robot = make_env(SPEC, make_task("reach", SPEC))

    def pull(count: int) -> None:
        if count == 5:
            glass.data.qvel[0] = np.nan

    glass = Glass(robot, pull)
    shown: list[Shown] = []

    def report(one: Shown) -> None:
        shown.append(one)
        glass.closed = len(shown) == 2

    play(env, ExpertActor(env), glass, report, seed=1)
    env.close()
    assert "the simulation diverged" in shown[0].outcome and shown[1].outcome == "success"


def test_nobody_acts_and_the_user_moves_a_slider() -> None:
    robot = WatchedRobot(SPEC)

    def slide(count: int) -> None:
        glass.data.ctrl[0] = 0.4
        glass.closed = count == 30

    glass = Glass(robot, slide)
    idle(robot, glass)
    robot.close()
    assert len(glass.joints) == 30
    assert glass.joints[-1][0] - glass.joints[0][0] > 0.05


MISTAKES = {
    "a task of another run": (lambda run: {"what": str(run.path), "task": "lift"}, "was not taught the task 'lift'"),
    "a robot of a robot": (lambda run: {"what": "panda", "robot": "panda"}, "panda is not a run folder"),
    "an expert of nothing": (lambda run: {"what": "panda", "expert": True}, "--expert needs a task"),
    "an empty folder": (lambda run: {"what": str(run.logs)}, "is neither a run folder"),
}


def test_a_run_of_several_tasks_shows_the_one_that_is_chosen(tmp_path: Path) -> None:
    config = load_config(
        "smoke", ["policy.hidden=[8]", "task=[reach,lift]", "observations.instruction=true", "edges.0.task=reach"]
    )
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    saved(folder, 3)
    with pytest.raises(ConfigError, match="several tasks; choose with --task one of reach, lift"):
        RunActor(folder.path, None, None, 0)
    actor = RunActor(folder.path, None, "lift", 0)
    env, _ = make_env(SPEC, actor.saved.arm.task, env_options(actor.saved.config))
    assert actor.act(env, env.reset(seed=0)[0]).shape == (config.policy.horizon, SPEC.dim)
    env.close()


@pytest.mark.renders
def test_a_run_of_several_robots_that_sees_shows_the_one_that_is_chosen(tmp_path: Path) -> None:
    config = load_config(
        "smoke",
        ["policy.hidden=[8]", "robot=[panda,so101]", "edges.0.robot=panda", "episode_steps=3",
         "observations.cameras=[front]", "observations.image_size=[32,32]"],
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    saved(folder, 3)
    with pytest.raises(ConfigError, match="several robots; choose with --robot one of panda, so101"):
        RunActor(folder.path, None, None, 0)
    actor = RunActor(folder.path, "so101", None, 0)
    arm = actor.saved.arm
    env, robot = make_env(arm.spec, arm.task, env_options(actor.saved.config))
    glass = Glass(robot)
    shown: list[Shown] = []

    def report(one: Shown) -> None:
        shown.append(one)
        glass.closed = True

    play(env, actor, glass, report, seed=0)
    env.close()
    assert arm.spec.embodiment == "so101" and [one.seconds for one in shown] == [pytest.approx(3 * arm.spec.dt)]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda name: name.replace(" ", "_"))
def test_a_mistake(mistake: str, run: RunFolder) -> None:
    options, expected = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=expected):
        view(
            **{"task": None, "robot": None, "expert": False, "seed": 0, "stop": threading.Event(), "say": print}
            | options(run)
        )


def test_a_folder_of_a_robots_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "panda").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--expert needs a task"):
        view("panda", task=None, robot=None, expert=True, seed=0, stop=threading.Event(), say=print)


def test_a_display_that_does_not_answer_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":7651")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DisplayError, match=r"no window can be opened: .*:7651"):
        Viewer(*WatchedRobot(SPEC).scene, threading.Event(), sliders=True)


def test_macos_needs_mjpython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["robotlearn", "view", "panda"])
    model, data = WatchedRobot(SPEC).scene
    import mujoco.viewer  # noqa: F401  (before the platform is another one)

    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DisplayError, match="mjpython -m robotlearn view panda"):
        Viewer(model, data, threading.Event(), sliders=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("Xvfb"), reason="no Xvfb here (apt install xvfb): no real window to open")
def test_the_real_window(run: RunFolder, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24"],
        pass_fds=(writing,),
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        display = os.read(reading, 16).decode().strip()
        environment = {**os.environ, "DISPLAY": f":{display}"}
        log = tmp_path / "said"
        with log.open("wb") as stream:
            shown = subprocess.Popen(
                [sys.executable, "-m", "robotlearn", "view", str(run.path)],
                env=environment,
                stdout=stream,
                stderr=stream,
            )
        try:
            until(
                lambda: log.read_text().count("failure after 0.3 s") >= 2 or shown.poll() is not None, "2 episodes", 90
            )
            shown.terminate()
            assert shown.wait(60) == 0, log.read_text()
        finally:
            shown.kill()
            shown.wait()
        assert log.read_text().startswith("episode 1: version 3, failure after 0.3 s")
    finally:
        os.close(reading)
        server.terminate()
        server.wait()
