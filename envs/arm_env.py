"""`ArmEnv`: one robot of the HAL, simulated or real, and one task, as a Gymnasium environment."""

import copy
import time
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import gymnasium
import numpy as np

from envs.control import Applied, JointDeltaControl
from envs.errors import EnvError
from envs.expert import solve_start
from envs.latency import Latency
from envs.options import EnvOptions
from envs.resize import fit, shrunk
from envs.spaces import ENVIRONMENT_STATE, IMAGES, STATE, TRACKING_ERROR, action_space, observation_space
from envs.task import Referee, SceneState, Task
from envs.tasks import make_task
from envs.variation import Variation
from hal.errors import LeaseError, Stopped
from hal.kinematics import Chain
from hal.robot import Clocked, Command, Reading, Renderable, Robot, Scene, Steppable, Tunable
from hal.virtual_scene import VirtualScene

_ONE = np.zeros(1, np.int64)
_RUNNING = np.ones(1, bool)
Observations = dict[str, np.ndarray]


class ArmEnv(gymnasium.Env[Observations, np.ndarray]):
    """Observations, actions and reward are those of `BatchArmEnv`, for one arm; every action passes the safety layer.

    A steppable robot is stepped by one control period per `step`. Any other runs by itself: `step` writes, waits for
    the next tick of the robot's clock, or of an absolute one of its own, then reads; ticks that went by meanwhile are
    counted in `missed_ticks`. The task's objects are read through the robot's `Scene`. Where that is a `VirtualScene`
    and the task is not virtual, they lie elsewhere in truth: then no success, failure or reward comes of them (`judged`
    is False), an episode lasts all its steps, and how it ended is for a person to say.

    A robot that was stopped (e-stop, watchdog, a lease that is over, ...) ends the episode: truncated, with the reason
    in `info["stopped"]`. `reset` then raises Stopped as long as that holds.

    Images are those that the robot's driver brings with a reading, cut and scaled to the size asked for, or else drawn
    by a simulated robot, with the same pixels as in a batch. `instruction` is the wording of the running episode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self, robot: Robot, task: str | Task, options: EnvOptions | None = None) -> None:
        """Connects the robot.

        Raises TaskError as the task, EnvError when the robot can't tell where objects are, has no such camera or brings
        no images of it, or has physics that can't be randomised, and for a task that moves objects in mid-episode.
        """
        self.robot = robot
        spec = robot.spec
        self.task = make_task(task, spec) if isinstance(task, str) else task
        if self.task.moves_at is not None:
            raise EnvError(f"task {self.task.name}: objects that are moved in mid-episode need a BatchArmEnv")
        scene = robot.capability(Scene)
        if scene is None:
            raise EnvError(f"robot {spec.name}: task {self.task.name} needs to know where its objects are (hal Scene)")
        self._scene: Scene = scene
        self._steppable = robot.capability(Steppable)
        self._clocked = robot.capability(Clocked)
        self._control = JointDeltaControl(spec, 1)
        self.options = EnvOptions() if options is None else options
        self._referee = Referee(
            self.task, 1, self.options, sees=self.task.virtual or not isinstance(scene, VirtualScene)
        )
        self._start = solve_start(spec, self.task)
        self.action_space = action_space(self._control)
        self.observation_space = observation_space(spec, self.task, self.options)
        vary = self.options.randomization
        self._tunable = robot.capability(Tunable) if vary.physics else None
        if vary.physics and self._tunable is None:
            raise EnvError(
                f"robot {spec.name}: randomization of {', '.join(vary.physics)} needs a simulated robot; set "
                "it to 0 (sensor_noise and latency work with any robot)"
            )
        self._variation: Variation | None = None
        self._latency = Latency(1, spec.dim, vary.latency) if vary.latency else None
        self._images: Observations = {}
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self.instruction = self.task.instructions[0]
        self.missed_ticks = 0
        self._next_tick: float | None = None
        robot.connect()
        self.reading: Reading = robot.read()
        # Wherever the arm is: the first set-point must not make it jump.
        self._control.reset(_ONE, self.reading.position[None])
        self._renderable = robot.capability(Renderable)
        for name in self.options.cameras:
            if name not in self.reading.images and self._renderable is None:
                brought = ", ".join(self.reading.images) or "none"
                raise EnvError(f"robot {spec.name}: its driver brings no images of camera {name!r}, only: {brought}")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Put arm and objects to a new start; the arm then rests there until the first `step`."""
        super().reset(seed=seed)
        if self._clocked is not None:
            self._clocked.rest()
        spec, rng = self.robot.spec, self.np_random
        variation = self._vary(seed)
        joints = len(spec.joints)
        position = self._start.copy()
        position[:joints] += rng.normal(0, self.task.start_noise, joints)
        position = np.clip(position, spec.lower, spec.upper)
        objects = {name: pose[0] for name, pose in self.task.place(rng, 1).items()}
        self._scene.set_state(position, objects)
        self._control.reset(_ONE, position[None])
        if self._latency is not None:
            self._latency.restart(_ONE, variation.latencies(1), self._control.rest_action(_ONE))
        self.reading = self.robot.read()
        state = self._state_at(self.reading.position)
        self._referee.start(_ONE, state)
        self._next_tick = None
        return self._observe(state, variation), {}

    def observe(self) -> Observations:
        """What the arm sees at this moment, wherever it is, without the noise of an episode; moves nothing."""
        self.reading = self.robot.read()
        if self._variation is None:  # no episode yet: nothing was commanded, and a person may have moved the arm
            self._control.reset(_ONE, self.reading.position[None])
        return self._observe(self._state_at(self.reading.position), None)

    @property
    def judged(self) -> bool:
        """Whether `step` can tell success and failure."""
        return self._referee.sees

    def start_clock(self) -> None:
        """The first tick is now: call when some time has passed between `reset` and the first `step`."""
        self._next_tick = None
        if self._clocked is not None:
            self._clocked.skip()

    def step(self, action: np.ndarray) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """One control step; `info` holds executed, held, clipped, success, stopped; `reading` is what was measured."""
        if self._variation is None:
            raise EnvError(f"robot {self.robot.spec.name}: step before the first reset")
        sent = np.asarray(action, np.float32)[None]
        applied = self._control.apply(_ONE, sent if self._latency is None else self._latency.pass_on(_ONE, sent))
        try:
            self._carry_out(applied)
        except (Stopped, LeaseError) as error:
            self._control.reset(_ONE, applied.before)  # no arm got what came of the action
            return self._stopped(str(error))
        if self._clocked is not None:
            self.missed_ticks += self._clocked.wait()
        elif self._steppable is None:
            self._wait_for_tick()
        self.reading = self.robot.read()
        state = self._state_at(self.reading.position)
        reward, success, overtime = self._referee.judge(state, _RUNNING)
        info = {
            "executed": applied.executed[0],
            "held": bool(applied.held[0]),
            "clipped": bool(applied.clipped[0]),
            "success": bool(success[0]),
            "stopped": "",
        }
        return self._observe(state, self._variation), float(reward[0]), bool(success[0]), bool(overtime[0]), info

    def _carry_out(self, applied: Applied) -> None:
        if self._steppable is None:  # its own loop finds the way
            self.robot.write(Command(applied.set_point[0]))
            return
        for set_point in applied.on_the_way(self.robot.spec.ticks):
            self.robot.write(Command(set_point[0]))
            self._steppable.step(self.robot.spec.dt_driver)

    def _stopped(self, why: str) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """The last step of an episode, in which nothing was commanded any more."""
        rest = self.rest_action()
        info = {"executed": rest, "held": True, "clipped": True, "success": False, "stopped": why}
        self.reading = self.robot.read()
        return self._observe(self._state_at(self.reading.position), self._variation), 0.0, False, True, info

    def hold(self) -> None:
        """Between episodes: the arm stays where it is, and the robot's watchdog quiet. Raises Stopped as `reset`."""
        if self._clocked is not None:
            self._clocked.rest()
        else:
            self.robot.write(Command(self._control.set_point(_ONE)[0]))

    @property
    def set_point(self) -> np.ndarray:
        """(dim,) the set-point in force, rad and m. A copy."""
        return self._control.set_point(_ONE)[0].copy()

    def rest_action(self) -> np.ndarray:
        """(D,) the action that leaves the set-points where they are."""
        return self._control.rest_action(_ONE)[0]

    def foresee(self, observations: Observations, actions: np.ndarray) -> Observations:
        """What changes of the newest `observations` by the time when `actions` (k, D) are carried out: the arm's own
        state (VLASH, arXiv:2512.01031). Nothing moves, and images and objects are as they are.

        The arm is taken to follow its set-points as closely then as it does now.
        """
        if self._latency is not None:
            queue = copy.deepcopy(self._latency)
            actions = np.array([queue.pass_on(_ONE, action[None])[0] for action in actions])
        moved = self._control.foresee(0, actions) - self.set_point
        foreseen = {STATE: (observations[STATE] + moved).astype(np.float32)}
        if self.options.environment_state:
            joints, now = len(self.robot.spec.joints), self.reading.position
            before, after = (self._chain.forward(q[None, :joints]) for q in (now, now + moved))
            state = self._state_at(now + moved)
            tcp = state.tcp + after[0] - before[0]
            turned = after[1] @ np.swapaxes(before[1], -1, -2) @ state.rotation
            foreseen[ENVIRONMENT_STATE] = self.task.observe(replace(state, tcp=tcp, rotation=turned))[0]
        return foreseen

    @cached_property
    def _chain(self) -> Chain:
        return Chain(self.robot.spec)

    def scene_state(self) -> SceneState:
        """The true state at this moment, for tasks and experts; one row."""
        return self._state_at(self.robot.read().position)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """A picture from the camera `front`, uint8 (240, 320, 3). Raises EnvError when the robot can't be drawn."""
        if self._renderable is None:
            raise EnvError(f"robot {self.robot.spec.name} can't be drawn")
        return self._renderable.render("front", 320, 240)

    def close(self) -> None:
        self.robot.close()

    def _state_at(self, position: np.ndarray) -> SceneState:
        tcp, rotation = self._scene.tcp()
        objects = {name: self._scene.object_pose(name)[None] for name in self.task.objects}
        goal = np.array([self.task.goal_of(self.instruction)])
        return SceneState(position[None], tcp[None], rotation[None], objects, goal)

    def _vary(self, seed: int | None) -> Variation:
        """What differs in the episode that begins; `super().reset` has seeded the starts."""
        if self._variation is None or seed is not None:
            known, joints = max(0, self.np_random_seed), len(self.robot.spec.joints)  # -1: a generator of the user's
            self._variation = Variation(self.options.randomization, self.task.objects, joints, known)
        self.instruction = self._variation.wordings(self.task.instructions, 1)[0]
        if self._tunable is not None:
            self._tunable.set_physics(self._variation.factors(1)[0])
        return self._variation

    def _observe(self, state: SceneState, variation: Variation | None) -> Observations:
        position = state.position[0]
        if variation is not None and self.options.randomization.sensor_noise:
            position = position + variation.noise(1, len(position))[0]
        observations = {STATE: position.astype(np.float32)}
        if self.options.tracking_error:
            observations[TRACKING_ERROR] = (self.set_point - position).astype(np.float32)
        if self.options.environment_state:
            observations[ENVIRONMENT_STATE] = self.task.observe(state)[0]
        if self._referee.steps[0] % self.options.image_every == 0:
            self._images = {IMAGES + name: self._image(name) for name in self.options.cameras}
            if variation is not None and self.options.randomization.image_noise:
                self._images = {key: variation.noisy(image) for key, image in self._images.items()}
        return observations | {key: image.copy() for key, image in self._images.items()}

    def _image(self, name: str) -> np.ndarray:
        camera = self._cameras[name]
        height, width = self.options.size_of(camera)
        if name in self.reading.images:
            image = self.reading.images[name]
            if not self.options.whole_images:
                return fit(image, (height, width))
            return shrunk(fit(image, (camera.height, camera.width)), (height, width))
        if self._renderable is None:
            raise EnvError(f"robot {self.robot.spec.name}: its driver brought no image of camera {name!r}")
        return self._renderable.capture(name, width, height)

    def _wait_for_tick(self) -> None:
        period = self.robot.spec.dt
        now = time.monotonic()
        self._next_tick = (now if self._next_tick is None else self._next_tick) + period
        if now > self._next_tick + period:
            self.missed_ticks += 1
            self._next_tick = now
        time.sleep(max(0.0, self._next_tick - now))
