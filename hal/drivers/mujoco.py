"""`MujocoRobot`: one arm simulated by MuJoCo. Its time passes only in `step`; `RealTime` makes it a live one."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from hal.binding import Binding, ObjectSlot, load_model, object_slots
from hal.camera import OPENGL, SceneCamera
from hal.errors import DriverError, RobotFault, nearest
from hal.physics import Physics
from hal.robot import Array, Command, Factors, Health, Image, Reading, Robot
from hal.spec import RobotSpec

_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


class MujocoRobot(Robot):
    """A simulated robot of any MJCF that a spec names; Steppable, Scene, Renderable and Tunable.

    scene: a compiled MjModel that contains the spec's joints, actuators and TCP site under their names (the arm with a
    table and objects around it); by default the spec's MJCF alone. The robot doesn't change it, apart from enlarging
    its off-screen buffer for bigger pictures. cameras: those whose images `read` brings, as `capture` draws them, at
    the sizes of the spec; none by default, since drawing takes its time.

    A lock makes every method callable from any thread, but pictures (`render`, `capture`, and `read` with cameras) must
    all be made in one and the same thread: OpenGL contexts belong to threads. Without a display the environment
    variable MUJOCO_GL must be egl or osmesa before mujoco is first imported.

    Raises:
        SpecError: names that the scene lacks, all in one message.
        DriverError: a camera that the spec doesn't have, or one of the spec's that the scene doesn't have.
    """

    def __init__(self, spec: RobotSpec, scene: Any = None, cameras: Sequence[str] = ()) -> None:
        self.spec = spec
        self._model = load_model(spec) if scene is None else scene
        self._binding = Binding.of(spec, self._model)
        self._objects = object_slots(self._model)
        sizes = {camera.name: camera for camera in spec.cameras}
        for name in cameras:
            if name not in sizes:
                raise DriverError(f"{spec.name}: the spec has no camera {name!r}: {nearest(name, sizes)}")
        for name in sizes:
            self._camera(name)
        self._cameras = tuple(sizes[name] for name in cameras)
        self._data: Any = None
        self._physics: Physics | None = None
        self._due = 0.0  # [s] simulated time owed: what is left when dt isn't a multiple of the model's time step
        self._fault = ""
        self._renderers: dict[tuple[int, int], Any] = {}
        self._captures: dict[tuple[int, int], SceneCamera] = {}
        self._lock = threading.RLock()

    def connect(self) -> None:
        with self._lock:
            if self._data is None:
                self._data = mujoco.MjData(self._model)
                self.set_state(self.spec.home, {})

    def read(self) -> Reading:
        with self._lock:
            data = self._live()
            position, velocity = self._binding.position(data.qpos), self._binding.velocity(data.qvel)
            monotonic, wall = time.monotonic(), time.time()
            effort = np.full(self.spec.dim, np.nan)  # of the gripper no force is known, but of its actuators
            effort[: len(self.spec.joints)] = data.qfrc_actuator[self._binding.dof]
            images = {c.name: self.capture(c.name, c.width, c.height) for c in self._cameras}
        return Reading(position, velocity, monotonic, wall, images, effort)

    def write(self, command: Command) -> None:
        target = np.asarray(command.target, dtype=np.float64)
        if target.shape != (self.spec.dim,) or not np.isfinite(target).all():
            raise DriverError(f"{self.spec.name}: a target must be {self.spec.dim} finite numbers, not {target}")
        with self._lock:
            self._binding.write_ctrl(target, self._live().ctrl)

    def stop(self) -> None:
        """The joints' set-points become the present pose; the gripper keeps its set-point, and so what it holds."""
        with self._lock:
            if self._data is not None:
                self._data.ctrl[self._binding.actuators] = self._data.qpos[self._binding.qpos]

    def close(self) -> None:
        with self._lock:
            for renderer in (*self._renderers.values(), *self._captures.values()):
                renderer.close()
            self._renderers.clear()
            self._captures.clear()
            self._data = None

    def health(self) -> Health:
        # Without the lock: a report must not wait for a step or a picture.
        if self._data is None:
            return Health("disconnected")
        return Health("fault", self._fault) if self._fault else Health("ok")

    def step(self, dt: float) -> None:
        """Lets `dt` seconds pass, in time steps of the model; a remainder is carried over to the next call.

        Raises RobotFault when the simulation diverges (MuJoCo then has reset it): `set_state` starts anew.
        """
        if not 0 <= dt < float("inf"):
            raise DriverError(f"step({dt}): the time must be finite and not negative [s]")
        with self._lock:
            data = self._live()
            self._due += dt
            substeps = int(self._due / self._model.opt.timestep + 1e-6)
            if substeps:
                self._due -= substeps * self._model.opt.timestep
                mujoco.mj_step(self._model, data, substeps)
                # What is derived from the pose lags by one time step otherwise.
                mujoco.mj_kinematics(self._model, data)
            bad = [kind.name for kind in _DIVERGED if data.warning[kind].number]
            if bad:
                self._fault = f"the simulation diverged at {data.time:.3f} s ({', '.join(bad)})"
                raise RobotFault(f"{self.spec.name}: {self._fault}")

    def tcp(self) -> tuple[Array, Array]:
        with self._lock:
            site, data = self._binding.tcp_site, self._live()
            return data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()

    def object_pose(self, name: str) -> Array:
        with self._lock:
            data, body = self._live(), self._object(name).body
            return np.concatenate((data.xpos[body], data.xquat[body]))

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        """As in `Scene`; objects that aren't named go back to where the scene has them, and the clock to 0.

        Raises DriverError for a wrong size or an unknown object, and leaves everything as it was.
        """
        position = np.asarray(position, dtype=np.float64)
        if position.shape != (self.spec.dim,) or not np.isfinite(position).all():
            raise DriverError(f"{self.spec.name}: a position must be {self.spec.dim} finite numbers, not {position}")
        with self._lock:
            data = self._live()
            places = []
            for name, pose in objects.items():
                pose = np.asarray(pose, dtype=np.float64)
                if pose.shape != (7,) or not np.isfinite(pose).all() or np.linalg.norm(pose[3:]) < 1e-6:
                    raise DriverError(f"the pose of {name!r} must be x, y, z and a quaternion w, x, y, z, not {pose}")
                places.append((self._object(name), pose))
            mujoco.mj_resetData(self._model, data)
            for slot, pose in places:
                if slot.mocap >= 0:
                    data.mocap_pos[slot.mocap], data.mocap_quat[slot.mocap] = pose[:3], pose[3:]
                else:
                    data.qpos[slot.qpos : slot.qpos + 7] = pose
            self._binding.write_qpos(position, data.qpos)
            self._binding.write_ctrl(position, data.ctrl)
            mujoco.mj_forward(self._model, data)
            self._due, self._fault = 0.0, ""

    def set_physics(self, factors: Factors) -> None:
        with self._lock:
            if self._physics is None:
                self._physics = Physics(self.spec, self._model)
                self._model = copy.copy(self._model)  # the scene may be another robot's as well
            self._physics.apply(self._model, factors)

    def render(self, camera: str, width: int, height: int) -> Image:
        with self._lock:
            data, index = self._live(), self._camera(camera)
            if (width, height) not in self._renderers:
                buffer = self._model.vis.global_
                buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
                self._renderers[width, height] = mujoco.Renderer(self._model, height, width)
            renderer = self._renderers[width, height]
            mujoco.mj_camlight(self._model, data)
            renderer.update_scene(data, index)
            with OPENGL:
                image: Image = renderer.render()
            return image

    def capture(self, camera: str, width: int, height: int) -> Image:
        with self._lock:
            data, index = self._live(), self._camera(camera)
            if (width, height) not in self._captures:
                self._captures[width, height] = SceneCamera(self._model, height, width)
            mujoco.mj_camlight(self._model, data)
            return self._captures[width, height].draw(data, index)

    def _live(self) -> Any:
        if self._data is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")
        return self._data

    def _camera(self, name: str) -> int:
        index = int(mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, name))
        if index < 0:
            known = [self._model.cam(camera).name for camera in range(self._model.ncam)]
            raise DriverError(f"{self.spec.name}: the scene has no camera {name!r}: {nearest(name, known)}")
        return index

    def _object(self, name: str) -> ObjectSlot:
        if name not in self._objects:
            known = nearest(name, list(self._objects))
            raise DriverError(f"{self.spec.name}: the scene has no object {name!r} whose pose can be set: {known}")
        return self._objects[name]
