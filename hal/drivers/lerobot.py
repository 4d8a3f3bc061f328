"""`LerobotRobot`: any robot of LeRobot, by its registered type and options, its calibration and its cameras."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from hal.drivers import lerobot_parts as parts
from hal.errors import DriverError, HalError, RobotFault, SpecError, nearest
from hal.robot import Array, Command, Health, Image, Reading, Robot
from hal.spec import CameraSpec, RobotSpec

logger = logging.getLogger(__name__)

_VELOCITY_S = 0.04  # [s] over which positions are differentiated: one encoder step within 10 ms is 0.15 rad/s
_TELEMETRY_S = 0.1  # [s] between two reads of a register besides the positions
_TURNS = ("status", "current", "status", "temperature", "status", "current", "status", "voltage")
_ASKS = 3  # times, for each answer
_CONNECTS = 3  # times: LeRobot sends no packet of its many twice while it connects
_OVERLOAD = 0x20  # the bit of a status that says so, in Feetech's servos and Dynamixel's


class LerobotRobot(Robot):
    """A robot that LeRobot drives; degrees, percents and ticks become rad and m here, and nowhere above.

    The spec's block `lerobot` says which type it is and how its keys are the spec's entries:
    value in SI = scale * LeRobot's value + offset.

    options: what LeRobot's config of that type takes, `port`, `id` and `calibration_dir` above all, on top of those in
    the spec. cameras: as in LeRobot's own YAML files (`{"type": "opencv", "index_or_path": 0}`), by the spec's names;
    pictures are cut to the spec's shape around their middle and scaled to its size.

    It never asks on standard input: an arm without a calibration, or with another one in its motors than in the file,
    is a fault that names the command to run. `calibration="write"` puts the file's into the motors instead.

    A read that fails is repeated twice, each time when the line is quiet (LeRobot's own `num_read_retries`, which don't
    wait for that, are off); then it is a fault that names joint and port. So damaged packets cost time and no episode.
    A fault stays until `close` and `connect`, which tries up to three times.

    Motors on a serial bus of LeRobot's are watched: one register of all of them is read each 0.1 s, every second time
    the status. A joint that reports an error, such as overload, is a fault. An overloaded gripper is `degraded`, since
    to hold something hard is its work. No `effort`: the servos' current has no sign and isn't read each time.

    After `close` the servos hold the last pose, or give no torque where LeRobot's `disable_torque_on_disconnect` is set
    or the spec's `on_stop` is limp.

    Raises:
        DriverError: LeRobot is not installed or lacks what that robot needs, an unknown type, wrong options.
        SpecError: the spec has no block `lerobot`, or the robot has no such keys.
    """

    def __init__(self, spec: RobotSpec, *, calibration: str = "check", **options: Any) -> None:
        if spec.lerobot is None:
            raise SpecError(f"{spec.name}: the driver 'lerobot' needs the block 'lerobot' in the spec")
        if calibration not in ("check", "write"):
            raise DriverError(f"{spec.name}: calibration is {calibration!r}, expected 'check' or 'write'")
        self.spec = spec
        self._calibration = calibration
        self._kind = spec.lerobot.type
        self._config = parts.config(spec, self._kind, options)
        self._keys = spec.lerobot.keys
        self._scale = np.broadcast_to(np.array(spec.lerobot.scale), spec.dim)
        self._offset = np.broadcast_to(np.array(spec.lerobot.offset), spec.dim)
        # "left_gripper.pos" is the motor "gripper" of the part "left_".
        self._motors = {key.rpartition(".")[0]: name for key, name in zip(self._keys, spec.names, strict=True)}
        made = self._made()
        self._cameras, self._addresses = self._checked(made), parts.addresses(made)
        self._robot: Any = None
        self._lock = threading.RLock()
        self._fault = self._degraded = ""
        self._limp = False
        self._grip: Array = np.empty(0)  # the gripper's last set-point, once there was one
        self._past: deque[tuple[float, Array]] = deque()
        self._telemetry: dict[str, Array] = {}
        self._turns: Iterator[str] = itertools.cycle(_TURNS)
        self._watched_at = -math.inf

    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def connect(self) -> None:
        with self._lock:
            if self._robot is not None:
                return
            self.close()
            with self._faults("connecting"):
                for left in range(_CONNECTS - 1, -1, -1):
                    try:
                        return self._take()
                    except (ConnectionError, RuntimeError) as error:
                        if not left:
                            raise
                        logger.warning("%s: connecting is tried again: %s", self.spec.name, parts.line(error))

    def _take(self) -> None:
        self._robot = robot = self._made()  # anew: it reads the calibration file
        try:
            for prefix, arm in parts.serial(robot).items():
                kind = arm.config.type if prefix else self._kind
                parts.check_calibration(arm, kind, write=self._calibration == "write")
            robot.connect(calibrate=False)
            parts.listen_well(robot)
            if not robot.is_calibrated:
                raise RobotFault(f"it is not calibrated; run {parts.calibrate(robot, self._kind)}")
            if not parts.serial(robot):  # it would go on with the set-points of who had it before
                self._send(self._position(robot.get_observation()))
            self.read()
        except BaseException as error:
            troubles = "" if isinstance(error, HalError) else parts.troubles(robot, self._motors)
            self._robot = None
            if self.spec.on_stop != "limp":
                with contextlib.suppress(Exception):  # LeRobot may have been in the midst of a setting, its torque off
                    parts.stiffen(robot)
            parts.let_go(robot)
            if troubles:  # not one lost packet: it is still so
                raise RobotFault(troubles) from error
            raise

    def read(self) -> Reading:
        with self._lock:
            robot = self._well()
            with self._faults("reading"):
                observed = self._observed(robot)
                monotonic, wall = time.monotonic(), time.time()
                position = self._position(observed)
                images = {name: _picture(observed[name], camera) for name, camera in self._cameras.items()}
                if monotonic - self._watched_at >= _TELEMETRY_S:
                    self._watched_at = monotonic
                    self._watch(robot, next(self._turns))
            return Reading(position, self._velocity(monotonic, position), monotonic, wall, images)

    def write(self, command: Command) -> None:
        target = np.asarray(command.target, dtype=np.float64)
        if target.shape != (self.spec.dim,) or not np.isfinite(target).all():
            raise DriverError(f"{self.spec.name}: a target must be {self.spec.dim} finite numbers, not {target}")
        with self._lock:
            robot = self._well()
            with self._faults("commanding"):
                if self._limp:
                    parts.stiffen(robot)
                    self._limp = False
                self._grip = target[len(self.spec.joints) :].copy()
                self._send(target)

    def stop(self) -> None:
        """As the spec's `on_stop` says: hold the present pose, or limp: no torque, where the bus can do that.

        A gripper keeps its set-point, and so what it holds.
        After a fault, or where the pose can't be believed, the motors keep their last set-points.

        Raises RobotFault when a robot that was well can't be stopped.
        """
        with self._lock:
            if self._robot is None:
                return
            with contextlib.suppress(HalError) if self._fault else contextlib.nullcontext(), self._faults("stopping"):
                if self.spec.on_stop == "limp":
                    self._limp = True
                    parts.slacken(self._robot)
                elif not self._fault and not self._leaps(held := self._position(self._observed(self._robot))):
                    held[len(held) - len(self._grip) :] = self._grip
                    self._send(held)

    def close(self) -> None:
        with self._lock:
            if self._robot is not None:
                with contextlib.suppress(HalError):  # it is let go of, whatever state it is in
                    self.stop()
                parts.let_go(self._robot)
            self._robot, self._fault, self._degraded, self._limp = None, "", "", False
            self._grip = np.empty(0)
            self._past.clear()
            self._telemetry = {}
            self._turns, self._watched_at = itertools.cycle(_TURNS), -math.inf

    def health(self) -> Health:
        # Without the lock: a report must not wait for the bus.
        telemetry = dict(self._telemetry)
        if self._fault:
            return Health("fault", self._fault, telemetry)
        if self._robot is None:
            return Health("disconnected")
        return Health("degraded" if self._degraded else "ok", self._degraded, telemetry)

    def _made(self) -> Any:
        from lerobot.robots import make_robot_from_config

        try:
            return make_robot_from_config(self._config)
        except Exception as error:
            raise DriverError(f"{self.spec.name}: LeRobot can't make a {self._kind}: {parts.line(error)}") from error

    def _checked(self, robot: Any) -> dict[str, CameraSpec]:
        """The cameras that it has, by the names of their pictures. Raises SpecError, DriverError: not of the spec."""
        for key in self._keys:
            if key not in robot.action_features:
                known = nearest(key, robot.action_features)
                raise SpecError(f"{self.spec.name}: lerobot.keys: LeRobot's {self._kind} has no {key!r}: {known}")
        cameras = {camera.name: camera for camera in self.spec.cameras}
        shapes = {key: shape for key, shape in robot.observation_features.items() if isinstance(shape, tuple)}
        for name in (found := [name for name, shape in shapes.items() if shape[-1] == 3]):
            if name not in cameras:
                raise DriverError(f"{self.spec.name}: the spec has no camera {name!r}: {nearest(name, cameras)}")
        if self.spec.on_stop == "limp" and not parts.serial(robot):
            raise SpecError(f"{self.spec.name}: on_stop: limp: LeRobot's {self._kind} can't switch its torque off")
        return {name: cameras[name] for name in found}

    def _observed(self, robot: Any) -> dict[str, Any]:
        observed: dict[str, Any] = self._asked(robot, robot.get_observation)
        if self._leaps(self._position(observed)):
            observed = self._asked(robot, robot.get_observation)
        return observed

    def _asked(self, robot: Any, ask: Callable[[], Any]) -> Any:
        """What `ask` reads; asked again when the line is quiet, so that no late answer is taken for another's."""
        for left in range(_ASKS - 1, -1, -1):
            parts.drop_late_replies(robot)
            try:
                found = ask()
            except (ConnectionError, IndexError) as error:  # the second is the servo library's, of a reply cut short
                if not left:
                    raise
                logger.warning("%s: a read failed and is repeated: %s", self.spec.name, parts.line(error))
                time.sleep(parts.QUIET_S)
                continue
            if left < _ASKS - 1:
                time.sleep(parts.QUIET_S)
            return found

    def _leaps(self, position: Array) -> bool:
        """No arm gets there in the time; a damaged answer may say so. A reading that says so twice is believed."""
        if not self._past:
            return False
        then, before = self._past[-1]
        reach = 2 * self.spec.velocity * (time.monotonic() - then) + 0.1 * (self.spec.upper - self.spec.lower)
        return bool((np.abs(position - before) > reach).any())

    def _position(self, observed: Mapping[str, Any]) -> Array:
        position: Array = np.array([float(observed[key]) for key in self._keys]) * self._scale + self._offset
        return position

    def _send(self, target: Array) -> None:
        values = (target - self._offset) / self._scale
        self._robot.send_action({key: float(value) for key, value in zip(self._keys, values, strict=True)})

    def _velocity(self, now: float, position: Array) -> Array:
        self._past.append((now, position))
        while len(self._past) > 2 and now - self._past[1][0] >= _VELOCITY_S:
            self._past.popleft()
        then, before = self._past[0]
        return np.zeros(self.spec.dim) if then == now else (position - before) / (now - then)

    def _watch(self, robot: Any, what: str) -> None:
        found = self._asked(robot, partial(parts.registers, robot, what))
        if what == "status" and any(found.values()):  # told twice it is believed
            again = self._asked(robot, partial(parts.registers, robot, what))
            found = {motor: int(bits) & int(again[motor]) for motor, bits in found.items()}
        values = np.array([found.get(motor, math.nan) for motor in self._motors])
        if np.isnan(values).all():
            return
        if what != "status":
            self._telemetry = {**self._telemetry, what: values}
            return
        bits = {name: int(value) for name, value in zip(self.spec.names, values, strict=True) if value > 0}
        grip = {self.spec.gripper.name} if self.spec.gripper else set()
        bad = [f"{name} ({parts.status(bit)})" for name, bit in bits.items() if bit != _OVERLOAD or name not in grip]
        if bad:
            raise RobotFault(f"motors report an error: {', '.join(bad)}; free the arm, switch its power off and on")
        self._degraded = f"{', '.join(bits)}: overload protection, less torque" if bits else ""

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """What LeRobot and the operating system raise becomes a RobotFault, and stays until `close`."""
        try:
            yield
        except (DriverError, SpecError):
            raise
        except RobotFault as error:
            self._fault = self._fault or f"{doing}: {error}"
            raise RobotFault(f"{self.spec.name}: {self._fault}") from error
        except Exception as error:
            troubles = parts.troubles(self._robot, self._motors) if self._robot is not None else ""
            self._fault = self._fault or f"{doing}: {troubles or parts.line(error)}"
            raise RobotFault(f"{self.spec.name}: {self._fault}") from error

    def _well(self) -> Any:
        if self._fault:
            raise RobotFault(f"{self.spec.name}: {self._fault}")
        if self._robot is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")
        return self._robot


def _picture(image: Image, camera: CameraSpec) -> Image:
    """The middle of it, in the spec's shape and size; an array of its own."""
    import cv2

    height, width = image.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return image.copy()
    scale = min(height / camera.height, width / camera.width)
    rows, columns = round(camera.height * scale), round(camera.width * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = image[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(cut, (camera.width, camera.height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
