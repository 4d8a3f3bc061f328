"""`BatchArmEnv`: many simulated arms of one model and one task, stepped together on a pool of threads."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.cameras import Cameras
from envs.control import JointDeltaControl
from envs.errors import EnvError
from envs.expert import solve_start
from envs.latency import Latency
from envs.options import EnvOptions
from envs.scene import build_scene
from envs.spaces import ENVIRONMENT_STATE, IMAGES, STATE, TRACKING_ERROR, action_space, observation_space
from envs.task import Referee, SceneState, Task
from envs.tasks import make_task
from envs.variation import Variation
from hal.binding import Binding, object_slots
from hal.physics import Physics
from hal.spec import RobotSpec

_POSITION = mujoco.mjtStage.mjSTAGE_POS
_NONE = mujoco.mjtStage.mjSTAGE_NONE
Observations = dict[str, np.ndarray]


class BatchArmEnv(VectorEnv):
    """`num_envs` arms in lockstep over `mujoco.batch`; every arm passes the HAL's safety layer.

    Observations: `observation.state` (n, dim) float32, joint angles in rad and the gripper's width in m;
    `observation.environment_state` (n, E) float32, what the task shows (see its class);
    `observation.images.NAME` (n, H, W, 3) uint8, RGB; which of them, the options say.
    Actions: (n, D) float32, see `JointDeltaControl`. Reward: see `Referee`.

    With `autoreset` `SAME_STEP` a finished arm starts its next episode within the same step, its last observation is in
    `infos["final_obs"]`. With `DISABLED` it rests, unsimulated, until `reset(options={"reset_mask": mask})`; its rows
    then repeat and its reward is 0. `instructions` are the words in which each arm was told its running episode's task.

    `infos` of a step, each (n, ...): `executed` (the actions after the safety layer), `held`, `clipped`, `success`,
    `fault` (the simulation diverged: the episode is truncated and worth nothing).
    """

    def __init__(
        self,
        spec: RobotSpec,
        task: str | Task,
        num_envs: int,
        *,
        threads: int = 1,
        seed: int = 0,
        options: EnvOptions | None = None,
        autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:
        """`threads` step the arms, and as many processes draw their images; only the speed depends on their number.

        Raises EnvError without `mujoco.batch`, for a bad count, another autoreset mode or an unknown camera, and where
        cameras are asked for and this process can't draw; TaskError as the task.
        """
        try:
            from mujoco import batch
        except ImportError as error:
            raise EnvError(f"many arms at once need mujoco >= 3.17, here is {mujoco.__version__}") from error
        if num_envs < 1 or threads < 1:
            raise EnvError(f"num_envs and threads must be at least 1, not {num_envs} and {threads}")
        if autoreset not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise EnvError(f"autoreset {autoreset.value} is not offered; use SAME_STEP or DISABLED")
        self.robot, self.num_envs = spec, num_envs
        self.options = EnvOptions() if options is None else options
        self.task = make_task(task, spec) if isinstance(task, str) else task
        self.metadata = {
            "autoreset_mode": autoreset,
            "render_fps": round(spec.control_hz),
            "render_modes": ["rgb_array"],
        }
        self.model = build_scene(spec, self.task)
        self._binding = Binding.of(spec, self.model)
        self._objects = object_slots(self.model)
        self._substeps = max(1, round(spec.dt_driver / self.model.opt.timestep))
        self._batch = batch.Batch(self.model, num_envs, nthread=threads)
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl, self._mocap = self._batch.bind("ctrl"), self._batch.bind("mocap_pos")
        self._mocap_quat = self._batch.bind("mocap_quat")
        self._site, self._site_mat = self._batch.bind("site_xpos"), self._batch.bind("site_xmat")
        self.control = JointDeltaControl(spec, num_envs)
        self.referee = Referee(self.task, num_envs, self.options)
        self._start = solve_start(spec, self.task)
        self.running = np.zeros(num_envs, bool)
        self.single_action_space = action_space(self.control)
        self.single_observation_space = observation_space(spec, self.task, self.options)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(seed)
        self._observations: Observations = {}
        known = {camera.name: camera for camera in spec.cameras}
        sizes = {name: self.options.size_of(known[name]) for name in self.options.cameras}
        self._cameras = Cameras(self.model, num_envs, sizes, threads) if sizes else None
        self.instructions = [self.task.instructions[0]] * num_envs
        vary = self.options.randomization
        self._variation = Variation(vary, self.task.objects, len(spec.joints), seed)
        self._physics = Physics(spec, self.model) if vary.physics else None
        self._fields = {name: self._batch.expand(name) for name in Physics.FIELDS} if vary.physics else {}
        self._noise = np.zeros((num_envs, spec.dim))
        self._latency = Latency(num_envs, spec.dim, vary.latency) if vary.latency else None
        self._renderer: mujoco.Renderer | None = None
        self._bad_before = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start new episodes: of all arms, or of those in `options["reset_mask"]` (n,) bool.

        `options["alike"]`: so many of them in a row (a divisor of their number) start in one scene: whatever a start
        draws, wording, physics, latency and the first observation's noise too, is the same for them.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._variation.reseed(seed)
        everyone = np.ones(self.num_envs, bool)
        ids = np.flatnonzero(everyone if options is None else options.get("reset_mask", everyone))
        alike = 1 if options is None else int(options.get("alike", 1))
        if alike < 1 or len(ids) % alike:
            raise EnvError(f"{len(ids)} arms can't start by {alike} alike: expected a divisor of their number")
        streams = [one.bit_generator for one in (self.np_random, *self._variation.streams)]
        before = [stream.state for stream in streams]
        for member in range(alike):
            for stream, state in zip(streams, before, strict=True):
                stream.state = state
            self._restart(ids[member::alike])
            self._observations = self._observe(self.scene_state(), ids[member::alike])
        return self._observations, {}

    def step(self, actions: np.ndarray) -> tuple[Observations, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One control step of every running arm."""
        n = self.num_envs
        ids = np.flatnonzero(self.running)
        infos: dict[str, Any] = {name: np.zeros(n, bool) for name in ("held", "clipped", "success", "fault")}
        infos["executed"] = np.zeros(self.action_space.shape, np.float32)
        reward, terminated, truncated = np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, bool)
        if not len(ids):
            return self._observations, reward, terminated, truncated, infos
        sent = np.asarray(actions, np.float32)[ids]
        applied = self.control.apply(ids, sent if self._latency is None else self._latency.pass_on(ids, sent))
        infos["executed"][ids], infos["held"][ids], infos["clipped"][ids] = (
            applied.executed,
            applied.held,
            applied.clipped,
        )
        if self.task.moves_at is not None:
            self._move(ids[self.referee.steps[ids] == self.task.moves_at])
        for set_point in applied.on_the_way(self.robot.ticks):
            self._write(self._binding.write_ctrl, set_point, self._ctrl, ids)
            self._batch.step(ids, nstep=self._substeps, stage=_POSITION)
        state = self.scene_state()
        fault = self._diverged()
        all_reward, success, overtime = self.referee.judge(state, self.running)
        self._observations = self._observe(state, ids)
        reward[ids] = np.where(fault, 0, all_reward)[ids]
        terminated[ids] = (success & ~fault)[ids]
        truncated[ids] = (overtime | fault)[ids]
        infos["success"], infos["fault"] = terminated.copy(), fault & self.running
        ended = terminated | truncated
        self.running &= ~ended
        if ended.any() and self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
            infos["final_obs"], infos["_final_obs"] = self._observations, ended
            restarted = np.flatnonzero(ended)
            self._restart(restarted)
            self._observations = self._observe(self.scene_state(), restarted)
        return self._observations, reward, terminated, truncated, infos

    def scene_state(self) -> SceneState:
        """The true state of every arm at this moment, for tasks and experts."""
        site = self._binding.tcp_site
        return SceneState(
            position=self._binding.position(self._qpos),
            tcp=self._site[:, site].copy(),
            rotation=self._site_mat[:, site].reshape(-1, 3, 3).copy(),
            objects={name: self._pose(name) for name in self.task.objects},
            goal=np.array([self.task.goal_of(words) for words in self.instructions]),
        )

    def render(self) -> tuple[np.ndarray, ...]:
        """Pictures of the first four arms from the camera `front`, uint8 (240, 320, 3); milliseconds each."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 240, 320)
        frames = []
        for arm in range(min(4, self.num_envs)):
            data = self._batch.get_data(arm)
            # The batch keeps states only: where bodies and cameras are follows from them.
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_camlight(self.model, data)
            self._renderer.update_scene(data, camera="front")
            frames.append(self._renderer.render())
        return tuple(frames)

    def close_extras(self, **_: Any) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._cameras is not None:
            self._cameras.close()

    def _pose(self, name: str) -> np.ndarray:
        slot = self._objects[name]
        if slot.mocap >= 0:
            return np.concatenate([self._mocap[:, slot.mocap], self._mocap_quat[:, slot.mocap]], -1)
        return self._qpos[:, slot.qpos : slot.qpos + 7].copy()

    def _set_pose(self, name: str, pose: np.ndarray, ids: np.ndarray) -> None:
        slot = self._objects[name]
        if slot.mocap >= 0:
            self._mocap[ids, slot.mocap], self._mocap_quat[ids, slot.mocap] = pose[:, :3], pose[:, 3:]
        else:
            self._qpos[ids, slot.qpos : slot.qpos + 7] = pose

    @staticmethod
    def _write(write: Callable[..., None], values: np.ndarray, field: np.ndarray, ids: np.ndarray) -> None:
        # An index array gives a copy, so the rows are written back.
        rows = field[ids]
        write(values, rows)
        field[ids] = rows

    def _restart(self, ids: np.ndarray) -> None:
        if not len(ids):
            return
        self._vary(ids)
        self._batch.reset(ids, stage=_NONE)
        rng = self.np_random
        position = np.tile(self._start, (len(ids), 1))
        joints = len(self.robot.joints)
        position[:, :joints] += rng.normal(0, self.task.start_noise, (len(ids), joints))
        position = np.clip(position, self.robot.lower, self.robot.upper)
        self._write(self._binding.write_qpos, position, self._qpos, ids)
        self._write(self._binding.write_ctrl, position, self._ctrl, ids)
        self._place(rng, ids)
        self.control.reset(ids, position)
        if self._latency is not None:
            self._latency.restart(ids, self._variation.latencies(len(ids)), self.control.rest_action(ids))
        self.referee.start(ids, self.scene_state())
        self._bad_before[ids] = self._warnings()[ids]
        self.running[ids] = True

    def _place(self, rng: np.random.Generator, ids: np.ndarray) -> None:
        for name, pose in self.task.place(rng, len(ids)).items():
            self._set_pose(name, pose, ids)
        self._batch.forward(ids, stage=_POSITION)

    def _move(self, ids: np.ndarray) -> None:
        """In mid-episode the objects of the arms `ids` (indices) are taken away and lie still elsewhere."""
        if not len(ids):
            return
        for slot in (self._objects[name] for name in self.task.objects):
            if slot.mocap < 0:
                first = int(self.model.body_dofadr[slot.body])
                self._qvel[ids, first : first + 6] = 0
        self._place(self._variation.moves, ids)

    def _vary(self, ids: np.ndarray) -> None:
        for arm, words in zip(ids, self._variation.wordings(self.task.instructions, len(ids)), strict=True):
            self.instructions[arm] = words
        if self._physics is None:
            return
        for name, value in self._physics.values(self._variation.factors(len(ids))).items():
            self._fields[name][ids] = value
        if self.options.randomization.mass:
            self._batch.set_const(ids)

    def _observe(self, state: SceneState, ids: np.ndarray) -> Observations:
        """What all arms show; those of `ids` (indices) are measured and photographed anew."""
        position = state.position
        if self.options.randomization.sensor_noise:
            self._noise[ids] = self._variation.noise(len(ids), position.shape[1])
            position = position + self._noise
        observations = {STATE: position.astype(np.float32)}
        if self.options.tracking_error:
            set_point = self.control.set_point(np.arange(self.num_envs))
            observations[TRACKING_ERROR] = (set_point - position).astype(np.float32)
        if self.options.environment_state:
            observations[ENVIRONMENT_STATE] = self.task.observe(state)
        if self._cameras is not None:
            due = ids[self.referee.steps[ids] % self.options.image_every == 0]
            # A diverged arm is nowhere to be seen.
            due = due[np.isfinite(self._qpos[due]).all(-1)]
            places = {"qpos": self._qpos, "mocap_pos": self._mocap, "mocap_quat": self._mocap_quat}
            self._cameras.draw(due, places)
            if self.options.randomization.image_noise and len(due):
                for images in self._cameras.images.values():
                    images[due] = self._variation.noisy(images[due])
            observations |= {IMAGES + name: images.copy() for name, images in self._cameras.images.items()}
        return observations

    def _warnings(self) -> np.ndarray:
        kinds = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
        counts = np.asarray(self._batch.warning)[:, [int(kind) for kind in kinds], 1]
        return counts.sum(-1).astype(np.int64)

    def _diverged(self) -> np.ndarray:
        # MuJoCo resets a diverged simulation by itself and goes on: only its warning counters tell.
        return (self._warnings() > self._bad_before) | ~np.isfinite(self._qpos).all(-1)
