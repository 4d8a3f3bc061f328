"""`EmulatedRosArm`: a MuJoCo arm behind ROS 2 topics, as the broadcaster and controllers of ros2_control offer one."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from hal.binding import Binding, load_model
from hal.camera import SceneCamera
from hal.drivers.ros import IMAGE, JOINT_STATE, NUMBERS, TRAJECTORY, Transport
from hal.drivers.ros_options import Qos
from hal.errors import DriverError, nearest
from hal.realtime import Pacer
from hal.robot import Array
from hal.spec import RobotSpec

_CATCH_UP = 0.1  # [s] more than that late, and simulated time is lost


class EmulatedRosArm:
    """Publishes joint states and images and follows what comes, in real time, from `start` to `close`.

    It takes `<namespace>/joint_trajectory_controller/joint_trajectory` (the last point, reached on a straight line in
    its time_from_start; joints that aren't named go on; a name that it doesn't have refuses the whole of it) and
    `<namespace>/forward_position_controller/commands` (all entries of the spec, at once). It publishes
    `<namespace>/joint_states`, with effort, and `<namespace>/<camera>/image_raw`. Joints are called as in the spec, and
    so is the gripper, whose value is its width [m].

    rate: joint states per second. cameras: of the spec, those whose images are published, at the spec's rate. scene: a
    compiled MjModel with the arm in it, by default the arm alone. The arm closes the transport.

    `mute` stops all that is published, as a crashed broadcaster would; commands are followed on. `model`, `data` and
    `lock` are for a viewer. `options` are the driver's with which this arm can be used.

    Raises DriverError for a camera that the spec doesn't have, and for a namespace that ROS doesn't allow.
    """

    def __init__(
        self,
        spec: RobotSpec,
        transport: Transport,
        *,
        namespace: str = "",
        rate: float = 100.0,
        cameras: Sequence[str] = (),
        scene: Any = None,
    ) -> None:
        self.spec = spec
        known = {camera.name: camera for camera in spec.cameras}
        for name in cameras:
            if name not in known:
                raise DriverError(f"{spec.name}: the spec has no camera {name!r}: {nearest(name, known)}")
        self.model = load_model(spec) if scene is None else scene
        self.data = mujoco.MjData(self.model)
        self.lock = threading.Lock()  # of all that is simulated or to be done
        self.mute = False
        self._binding = Binding.of(spec, self.model)
        self._binding.write_qpos(spec.home, self.data.qpos)
        self._binding.write_ctrl(spec.home, self.data.ctrl)
        mujoco.mj_forward(self.model, self.data)
        self._from, self._to = spec.home.copy(), spec.home.copy()
        self._begun, self._lasts = np.zeros(spec.dim), np.zeros(spec.dim)  # [s] of each entry's way
        self._period = 1 / rate
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

        self._transport = transport
        at = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
        if not re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)*", at):
            raise DriverError(
                f"{namespace!r} can't be a ROS namespace: expected letters, digits, _ and /, no digit first"
            )
        command = f"{at}/joint_trajectory_controller/joint_trajectory"
        self._states = transport.publisher(f"{at}/joint_states", JOINT_STATE, Qos(reliability="reliable", depth=10))
        self._cameras = [
            (known[name], transport.publisher(f"{at}/{name}/image_raw", IMAGE, Qos(reliability="reliable")))
            for name in cameras
        ]
        reliable = Qos(reliability="reliable", depth=10)
        transport.subscribe(command, TRAJECTORY, reliable, self._take_trajectory)
        transport.subscribe(f"{at}/forward_position_controller/commands", NUMBERS, reliable, self._take_numbers)
        self.options: dict[str, Any] = {"joint_states": f"{at}/joint_states", "command": command}
        if cameras:
            self.options["cameras"] = {name: {"topic": f"{at}/{name}/image_raw"} for name in cameras}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"ros arm {self.spec.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._transport.close()

    def set_point(self, now: float) -> Array:
        """(dim,) where the arm is told to be at that time of `time.monotonic()`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(self._lasts > 0, np.clip((now - self._begun) / self._lasts, 0, 1), 1.0)
        result: Array = self._from + share * (self._to - self._from)
        return result

    def _take_trajectory(self, message: Any) -> None:
        if isinstance(message, Exception) or not message.points:
            return
        names, point = list(message.joint_names), message.points[-1]
        if len(point.positions) == len(names) == len(set(names)) and set(names) <= set(self.spec.names):
            seconds = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
            self._go([self.spec.names.index(name) for name in names], np.array(point.positions), seconds)

    def _take_numbers(self, message: Any) -> None:
        if not isinstance(message, Exception) and len(message.data) == self.spec.dim:
            self._go(list(range(self.spec.dim)), np.array(message.data), 0.0)

    def _go(self, entries: list[int], goal: Array, seconds: float) -> None:
        if not np.isfinite(goal).all():
            return
        now = time.monotonic()
        with self.lock:
            self._from[entries] = self.set_point(now)[entries]
            self._to[entries] = np.clip(goal, self.spec.lower[entries], self.spec.upper[entries])
            self._begun[entries], self._lasts[entries] = now, seconds

    def _run(self) -> None:
        # Pictures belong to the thread that makes the first one, so all is done in this one.
        eyes = [
            (SceneCamera(self.model, camera.height, camera.width), self.model.camera(camera.name).id, camera, publisher)
            for camera, publisher in self._cameras
        ]
        next_image = [0.0] * len(eyes)
        next_state, dt = 0.0, self.model.opt.timestep
        pacer = Pacer(time.monotonic(), dt, _CATCH_UP)
        while not self._stop.wait(pacer.next(time.monotonic())):
            now = time.monotonic()
            with self.lock:
                self._binding.write_ctrl(self.set_point(now), self.data.ctrl)
                mujoco.mj_step(self.model, self.data)
            if self.mute:
                continue
            if now >= next_state:
                next_state = max(next_state + self._period, now)
                self._publish_state()
            for index, (eye, number, camera, publisher) in enumerate(eyes):
                if now >= next_image[index]:
                    next_image[index] = max(next_image[index] + 1 / camera.fps, now)
                    mujoco.mj_kinematics(self.model, self.data)
                    mujoco.mj_camlight(self.model, self.data)
                    publisher.publish(height=camera.height, width=camera.width, encoding="rgb8",
                                      step=3 * camera.width, data=eye.draw(self.data, number).tobytes())  # fmt: skip
        for eye, *_ in eyes:
            eye.close()

    def _publish_state(self) -> None:
        binding, data = self._binding, self.data
        force = data.qfrc_actuator
        effort = force[binding.dof]
        if self.spec.gripper is not None:  # what it exerts along its width
            effort = np.append(effort, np.mean(force[binding.gripper_dof] / binding.width_scale))
        self._states.publish(
            name=list(self.spec.names),
            position=binding.position(data.qpos).tolist(),
            velocity=binding.velocity(data.qvel).tolist(),
            effort=effort.tolist(),
        )
