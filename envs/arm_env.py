"""`ArmEnv`: one robot of the HAL, simulated or real, and one task, as a Gymnasium environment."""

import time
from typing import Any, ClassVar

import gymnasium
import numpy as np

from envs.control import JointDeltaControl
from envs.errors import EnvError
from envs.expert import solve_start
from envs.options import EnvOptions
from envs.spaces import action_space, observation_space
from envs.task import Referee, SceneState, Task
from envs.tasks import make_task
from hal.robot import Command, Reading, Renderable, Robot, Scene, Steppable

_ONE = np.zeros(1, np.int64)
_RUNNING = np.ones(1, bool)
Observations = dict[str, np.ndarray]


class ArmEnv(gymnasium.Env[Observations, np.ndarray]):
    """Observations, actions and reward are those of `BatchArmEnv`, for one arm; every action passes the safety layer.

    A steppable robot is stepped by one control period per `step`. Any other runs by itself: `step` writes, waits for
    the next tick of an absolute clock, then reads; a tick that comes more than one period late is counted in
    `missed_ticks` and the clock starts anew from it. The task's objects are read through the robot's `Scene`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self, robot: Robot, task: str | Task, options: EnvOptions | None = None) -> None:
        """Connects the robot. Raises TaskError as the task, EnvError when the robot can't tell where objects are."""
        self.robot = robot
        spec = robot.spec
        self.task = make_task(task, spec) if isinstance(task, str) else task
        scene = robot.capability(Scene)
        if scene is None:
            raise EnvError(f"robot {spec.name}: task {self.task.name} needs to know where its objects are (hal Scene)")
        self._scene: Scene = scene
        self._steppable = robot.capability(Steppable)
        self._control = JointDeltaControl(spec, 1)
        self.options = EnvOptions() if options is None else options
        self._referee = Referee(self.task, 1, self.options)
        self._start = solve_start(spec, self.task)
        self.action_space = action_space(self._control)
        self.observation_space = observation_space(spec, self.task)
        self.instruction = self.task.instructions[0]
        self.missed_ticks = 0
        self._next_tick: float | None = None
        robot.connect()
        self.reading: Reading = robot.read()
        # Wherever the arm is: the first set-point must not make it jump.
        self._control.reset(_ONE, self.reading.position[None])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Put arm and objects to a new start; the arm then rests there until the first `step`."""
        super().reset(seed=seed)
        spec, rng = self.robot.spec, self.np_random
        joints = len(spec.joints)
        position = self._start.copy()
        position[:joints] += rng.normal(0, self.task.start_noise, joints)
        position = np.clip(position, spec.lower, spec.upper)
        objects = {name: pose[0] for name, pose in self.task.place(rng, 1).items()}
        self._scene.set_state(position, objects)
        self._control.reset(_ONE, position[None])
        state = self.scene_state()
        self._referee.start(_ONE, state)
        self._next_tick = None
        return self._observe(state), {}

    def start_clock(self) -> None:
        """The first tick is now: call when some time has passed between `reset` and the first `step`."""
        self._next_tick = None

    def step(self, action: np.ndarray) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """One control step; `info` holds executed, held, clipped, success; `reading` is what the robot measured."""
        applied = self._control.apply(_ONE, np.asarray(action, np.float32)[None])
        self.robot.write(Command(applied.set_point[0]))
        if self._steppable is not None:
            self._steppable.step(self.robot.spec.dt)
        else:
            self._wait_for_tick()
        self.reading = self.robot.read()
        state = self._state_at(self.reading.position)
        reward, success, overtime = self._referee.judge(state, _RUNNING)
        info = {
            "executed": applied.executed[0],
            "held": bool(applied.held[0]),
            "clipped": bool(applied.clipped[0]),
            "success": bool(success[0]),
        }
        return self._observe(state), float(reward[0]), bool(success[0]), bool(overtime[0]), info

    def hold(self) -> None:
        """Between episodes: write the set-point in force again, so that the robot's watchdog stays quiet."""
        self.robot.write(Command(self._control.set_point(_ONE)[0]))

    def rest_action(self) -> np.ndarray:
        """(D,) the action that leaves the set-points where they are."""
        return self._control.rest_action(_ONE)[0]

    def scene_state(self) -> SceneState:
        """The true state at this moment, for tasks and experts; one row."""
        return self._state_at(self.robot.read().position)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """A picture from the camera `front`, uint8 (240, 320, 3). Raises EnvError when the robot can't be drawn."""
        renderable = self.robot.capability(Renderable)
        if renderable is None:
            raise EnvError(f"robot {self.robot.spec.name} can't be drawn")
        return renderable.render("front", 320, 240)

    def close(self) -> None:
        self.robot.close()

    def _state_at(self, position: np.ndarray) -> SceneState:
        tcp, rotation = self._scene.tcp()
        objects = {name: self._scene.object_pose(name)[None] for name in self.task.objects}
        return SceneState(position[None], tcp[None], rotation[None], objects)

    def _observe(self, state: SceneState) -> Observations:
        return {
            "observation.state": state.position[0].astype(np.float32),
            "observation.environment_state": self.task.observe(state)[0],
        }

    def _wait_for_tick(self) -> None:
        period = self.robot.spec.dt
        now = time.monotonic()
        self._next_tick = (now if self._next_tick is None else self._next_tick) + period
        if now > self._next_tick + period:
            self.missed_ticks += 1
            self._next_tick = now
        time.sleep(max(0.0, self._next_tick - now))
