"""`robotlearn view`: MuJoCo's interactive viewer, with an arm in it that a policy, an expert or nobody moves."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from envs import ArmEnv, EnvOptions, Expert, Task, make_task
from envs.scene import build_scene
from hal.drivers.mujoco import MujocoRobot
from hal.errors import RobotFault
from hal.spec import RobotSpec, load_spec
from robotlearn.cells import env_options
from robotlearn.display import busy
from robotlearn.errors import CheckpointError
from robotlearn.inputs import Inputs
from robotlearn.saved_policy import find_policy_for
from robotlearn.viewer import Viewer, bare_scene
from robotlearn.window import check, is_run

FRAME_S = 1 / 60
LOST_S = 0.1
"""When so far behind the wall clock, time goes on from now: what was missed is not made up for in a rush."""
PAUSE_S = 0.7
"""The end of an episode stays for so long: it is what one wants to see."""

Observations = dict[str, np.ndarray]


class Window(Protocol):
    """What shows the scene; MuJoCo's passive viewer is one."""

    def is_running(self) -> bool:
        """False once it was closed."""

    def sync(self) -> None:
        """Show the scene as it is now, and take over what the user did to it with the mouse."""


class WatchedRobot(MujocoRobot):
    """A simulated arm whose time passes as fast as the wall clock, one picture of a window at a time."""

    def __init__(self, spec: RobotSpec, scene: Any = None) -> None:
        super().__init__(spec, scene)
        self._window: Window | None = None
        self._next: float | None = None

    @property
    def scene(self) -> tuple[Any, Any]:
        """The MjModel, and the MjData that `step` changes; connects. For the viewer, which reads it within `sync`."""
        self.connect()
        return self._model, self._data

    def watch(self, window: Window) -> None:
        """From now on every step is shown there."""
        self._window = window

    def step(self, dt: float) -> None:
        """As in `Steppable`, and blocks until `dt` seconds of the wall clock have passed as well."""
        frames = max(1, round(dt / FRAME_S))
        for _ in range(frames):
            super().step(dt / frames)
            if self._window is not None:
                self._window.sync()
            now = time.monotonic()
            if self._next is None or now > self._next + LOST_S:
                self._next = now
            self._next += dt / frames
            time.sleep(max(0.0, self._next - now))


class Actor(Protocol):
    """Who moves the arm."""

    def begin(self) -> str:
        """A new episode; returns what to call the one who acts in it, such as "version 12"."""

    def act(self, env: ArmEnv, observations: Observations) -> np.ndarray:
        """(h, D) the next actions, to be executed one after the other."""


class ExpertActor:
    """The scripted expert of the env's task."""

    def __init__(self, env: ArmEnv) -> None:
        """Raises TaskError when the task has none."""
        self._expert = Expert(env.robot.spec, env.task)

    def begin(self) -> str:
        return "expert"

    def act(self, env: ArmEnv, observations: Observations) -> np.ndarray:
        return self._expert.act(env.scene_state())


class RunActor:
    """The policy of a run, without exploration; each episode takes the newest checkpoint that there is by then."""

    def __init__(self, run: Path, robot: str | None, task: str | None, seed: int) -> None:
        """`run`: a run folder, or one checkpoint (which stays). Raises what `find_policy_for` does."""
        self._find = partial(find_policy_for, run, robot, task)
        self.saved = self._find()
        self._policy, self._inputs = self.saved.load(), Inputs(self.saved.config)
        self._rng = np.random.default_rng([seed, 2])

    def begin(self) -> str:
        try:
            found = self._find()
            if found.version != self.saved.version:
                self._policy, self.saved = found.load(), found
        except CheckpointError as error:  # a run that trains removes old checkpoints, perhaps while one is read
            return f"version {self.saved.version} still ({error})"
        return f"version {self.saved.version}"

    def act(self, env: ArmEnv, observations: Observations) -> np.ndarray:
        from robotlearn.policy import ask  # torch comes with it

        seen = {key: value[None] for key, value in observations.items()}
        noise, embodiment = self._policy.noise(1, self._rng), env.robot.spec.embodiment
        return ask(self._policy, self._inputs, embodiment, seen, env.instruction, noise, False)[0][0]


@dataclass(frozen=True)
class Shown:
    """One episode that was shown to its end; `seconds` are simulated."""

    number: int
    actor: str
    outcome: str
    seconds: float


def make_env(spec: RobotSpec, task: Task, options: EnvOptions | None = None) -> tuple[ArmEnv, WatchedRobot]:
    """The environment to show, and its robot. Raises TaskError, EnvError."""
    robot = WatchedRobot(spec, build_scene(spec, task))
    return ArmEnv(robot, task, options), robot


def play(env: ArmEnv, actor: Actor, window: Window, report: Callable[[Shown], None], *, seed: int) -> None:
    """Episode after episode until the window is closed; an episode that this cuts short is not reported."""
    observations, _ = env.reset(seed=seed)
    number = 0
    while window.is_running():
        number += 1
        name = actor.begin()
        steps, outcome = 0, ""
        try:
            while not outcome and window.is_running():
                for action in actor.act(env, observations):
                    observations, _, terminated, truncated, info = env.step(action)
                    steps += 1
                    if terminated or truncated:
                        outcome = "success" if info["success"] else "failure"
                    if outcome or not window.is_running():
                        break
            if outcome:
                report(Shown(number, name, outcome, steps * env.robot.spec.dt))
                _rest(env, window)
        except RobotFault as error:  # thrown about with the mouse, it may; the next episode starts anew
            report(Shown(number, name, str(error), steps * env.robot.spec.dt))
        observations, _ = env.reset()


def _rest(env: ArmEnv, window: Window) -> None:
    action = env.rest_action()
    for _ in range(round(PAUSE_S * env.robot.spec.control_hz)):
        if window.is_running():
            env.step(action)


def idle(robot: WatchedRobot, window: Window) -> None:
    """Nobody acts: physics runs, the user may pull at things and move the actuators' sliders."""
    while window.is_running():
        try:
            robot.step(FRAME_S)
        except RobotFault:
            robot.set_state(robot.spec.home, {})


def view(
    what: str,
    *,
    robot: str | None,
    task: str | None,
    expert: bool,
    seed: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Show a robot (name or file of a spec) or a run (folder or checkpoint) until the window is closed.

    Raises ConfigError, DisplayError, and what loading specs, tasks and checkpoints raises.
    """
    check(what, robot=robot, task=task, expert=expert)
    env, actor = None, None
    with busy("loading"):
        if is_run(what):
            run = RunActor(Path(what), robot, task, seed)
            env, shown = make_env(run.saved.arm.spec, run.saved.arm.task, env_options(run.saved.config))
            actor = ExpertActor(env) if expert else run
        else:
            spec = load_spec(what)
            if task is not None:
                env, shown = make_env(spec, make_task(task, spec))
            else:
                shown = WatchedRobot(spec, bare_scene(spec))
            actor = ExpertActor(env) if expert and env is not None else None
    try:
        with Viewer(*shown.scene, stop, sliders=actor is None) as window:
            shown.watch(window)
            if env is not None and actor is not None:
                play(env, actor, window, lambda episode: say(_line(episode)), seed=seed)
                return
            if env is not None:
                env.reset(seed=seed)
            idle(shown, window)
    finally:
        shown.close()


def _line(episode: Shown) -> str:
    return f"episode {episode.number}: {episode.actor}, {episode.outcome} after {episode.seconds:.1f} s"
