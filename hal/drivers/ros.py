"""`RosRobot`: an arm behind ROS 2 topics, as ros2_control offers it. How messages travel is a `Transport`'s business:
rclpy's (`hal.drivers.ros2`) or plain DDS (`hal.drivers.dds`); what they mean is here, once for both."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from hal.drivers.ros_image import decoded, pixels
from hal.drivers.ros_options import Qos, ros_options
from hal.errors import DriverError, RobotFault, nearest
from hal.robot import Array, Command, Health, Image, Reading, Robot
from hal.spec import RobotSpec

JOINT_STATE = "sensor_msgs/msg/JointState"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
NUMBERS = "std_msgs/msg/Float64MultiArray"

_COMMANDS = {"joint_trajectory": TRAJECTORY, "float64_multi_array": NUMBERS}
_LOOK_S = 0.02  # [s] between two looks at whether somebody is there yet
_NAMES = 1000  # of joints that are remembered for messages about those that lack


class Endpoint(NamedTuple):
    """Somebody who publishes (`writes`) or subscribes a topic."""

    topic: str
    kind: str
    writes: bool
    reliable: bool


class Publisher(Protocol):
    """What takes commands: a topic, or an action."""

    def publish(self, **fields: Any) -> None:
        """Sends fields of the message and returns at once; headers are stamped.

        A trajectory is given as joint_names, positions and seconds: one point, due in so many. Raises RobotFault when
        it can't be sent.
        """
        ...

    def listeners(self) -> int:
        """How many take what is sent."""
        ...


class Transport(Protocol):
    """Topics of ROS 2. All methods but `subscribe`'s callback return at once."""

    def subscribe(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> None:
        """`take` gets each message, or the exception that one raised when it was decoded, in the transport's thread."""
        ...

    def publisher(self, topic: str, kind: str, qos: Qos) -> Publisher: ...

    def gripper(self, action: str, joint: str, parallel: bool, max_effort: float) -> Publisher:
        """Takes `position`. Raises DriverError where there are no actions."""
        ...

    def graph(self) -> list[Endpoint]:
        """Everybody who is there, as far as known by now."""
        ...

    def close(self) -> None: ...


class _Channel(NamedTuple):
    """One way commands go: which entries of the spec, where to, and how."""

    part: slice
    topic: str
    kind: str
    publisher: Publisher
    send: Callable[[list[float]], None]


class RosRobot(Robot):
    """Joint states and images in, trajectories or numbers out; options are those of `RosOptions`.

    `connect` waits, up to `connect_timeout_s`, for every joint, every camera and somebody who takes the commands; what
    does not come is named, with what there is instead. Afterwards a topic that falls silent is a fault that names it,
    and so is a joint that vanishes from the messages or a controller that no longer listens; it stays a fault until
    `close` and `connect`, since the arm may have been moved meanwhile.

    A reading's `monotonic` is when the message arrived here, the oldest one if the joints come in several; `wall` is
    the message's stamp where that is within `timeout_s` of the arrival, else the arrival. Velocities are differences
    of positions where none are published. Effort is as published [N m, N].

    `stop` sends the measured pose of the joints; the gripper keeps its set-point, and so what it holds. While joint
    states are silent nothing is sent: the arm rests where its last set-point was. With on_stop: limp it can't be used.

    Raises:
        DriverError: wrong options, each named.
    """

    def __init__(
        self, spec: RobotSpec, transport: Callable[[str, int | None], Transport], options: Mapping[str, Any]
    ) -> None:
        self.spec = spec
        self._make_transport = transport
        self._options = ros_options(spec, options)
        entries = self._options.entries(spec)
        self._names = [str(entry.joint) for entry in entries]
        self._scale = np.array([entry.scale for entry in entries])
        self._scale[: len(spec.joints)] *= math.pi / 180 if self._options.unit == "deg" else 1.0
        self._offset = np.array([entry.offset for entry in entries])
        self._transport: Transport | None = None
        self._channels: list[_Channel] = []
        self._target: Array | None = None
        self._arrived = threading.Condition()  # of what follows
        self._fault = ""
        self._forget()

    def addresses(self) -> tuple[str, ...]:
        """The topics of its commands, as `ros:DOMAIN/TOPIC`."""
        domain = self._options.domain
        where = f"ros:{os.environ.get('ROS_DOMAIN_ID', '0') if domain is None else domain}"
        gripper = self._options.gripper
        topics = [self._options.command, *([gripper.command] if gripper is not None and gripper.command else [])]
        return tuple(f"{where}/{topic.strip('/')}" for topic in topics)

    def connect(self) -> None:
        if self._transport is not None:
            return
        self._forget()
        options = self._options
        transport = self._make_transport(f"robotlearn_{self.spec.name}", options.domain)
        try:
            self._subscribe(transport, options.joint_states, JOINT_STATE, options.joint_states_qos, self._take_joints)
            for name, camera in options.cameras.items():
                kind = COMPRESSED if camera.compressed else IMAGE
                take = self._image_taker(name, decoded if camera.compressed else pixels)
                self._subscribe(transport, camera.topic, kind, camera.qos, take)
            self._channels = self._make_channels(transport)
            self._await(transport)
            with self._arrived:
                self._target = self._position.copy()
            self._send(self._target, arm_only=True)
        except BaseException as error:
            transport.close()
            self._channels = []
            self._fault = str(error) if isinstance(error, RobotFault) else ""
            raise
        self._transport = transport

    def read(self) -> Reading:
        self._check_well()
        with self._arrived:
            position, velocity, effort = (values.copy() for values in (self._position, self._velocity, self._effort))
            oldest = int(np.argmin(self._at))
            images = {name: image for name, (image, _) in self._images.items()}
            return Reading(position, velocity, float(self._at[oldest]), float(self._wall[oldest]), images,
                           None if np.isnan(effort).all() else effort)  # fmt: skip

    def write(self, command: Command) -> None:
        target = np.array(command.target, dtype=np.float64)
        if target.shape != (self.spec.dim,) or not np.isfinite(target).all():
            raise DriverError(f"{self.spec.name}: a target must be {self.spec.dim} finite numbers, not {target}")
        self._check_well()
        self._target = target
        self._send(target)

    def stop(self) -> None:
        if self._transport is None or self._target is None:
            return
        with self._arrived:
            if time.monotonic() - self._at.min() > self._options.timeout_s:
                return
            joints = len(self.spec.joints)
            self._target = np.concatenate((self._position[:joints], self._target[joints:]))
        self._send(self._target, arm_only=True)

    def close(self) -> None:
        transport = self._transport
        if transport is not None:
            try:
                self.stop()
            finally:
                self._transport = None
                transport.close()
        self._fault = ""

    def health(self) -> Health:
        if self._transport is None:
            return Health("fault", self._fault) if self._fault else Health("disconnected")
        amiss = self._fault or self._amiss()
        return Health("fault", amiss) if amiss else Health("ok")

    def _forget(self) -> None:
        dim = self.spec.dim
        self._position, self._velocity, self._effort = np.zeros(dim), np.zeros(dim), np.full(dim, np.nan)
        self._at = np.full(dim, -np.inf)  # [s] monotonic, of each entry
        self._wall = np.zeros(dim)
        self._heard: set[str] = set()  # joints on the topic, ours or not
        self._spoke: dict[str, float] = {}  # [s] monotonic, of each topic
        self._images: dict[str, tuple[Image, float]] = {}
        self._ill: dict[str, str] = {}
        self._fault = ""

    def _subscribe(
        self, transport: Transport, topic: str, kind: str, qos: Qos, take: Callable[[Any, float], None]
    ) -> None:
        def guarded(message: Any) -> None:
            now = time.monotonic()
            try:
                if isinstance(message, Exception):
                    raise message
                take(message, now)
                ill = ""
            except Exception as error:  # whatever comes off the network, the transport's thread goes on
                ill = " ".join(str(error).split()) or repr(error)
            with self._arrived:
                self._spoke[topic], self._ill[topic] = now, ill
                self._arrived.notify_all()

        transport.subscribe(topic, kind, qos, guarded)

    def _take_joints(self, message: Any, now: float) -> None:
        names, arrival = message.name, time.time()
        if len(message.position) != len(names):
            raise ValueError(f"a message has {len(names)} names and {len(message.position)} positions")
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        wall = stamp if abs(arrival - stamp) <= self._options.timeout_s else arrival
        place = {name: index for index, name in enumerate(names)}
        ours = [(entry, place[name]) for entry, name in enumerate(self._names) if name in place]
        with self._arrived:
            self._heard = (self._heard | place.keys()) if len(self._heard) < _NAMES else set(place)
            for entry, index in ours:
                scale = self._scale[entry]
                value = scale * message.position[index] + self._offset[entry]
                if not math.isfinite(value):
                    raise ValueError(f"joint {names[index]!r} is at {message.position[index]}")
                speed = scale * message.velocity[index] if len(message.velocity) == len(names) else math.nan
                passed = wall - self._wall[entry]
                if math.isfinite(speed):
                    self._velocity[entry] = speed
                elif self._at[entry] > -np.inf and passed > 0:
                    self._velocity[entry] = (value - self._position[entry]) / passed
                if len(message.effort) == len(names):
                    self._effort[entry] = math.copysign(1.0, scale) * message.effort[index]
                self._position[entry], self._at[entry], self._wall[entry] = value, now, wall

    def _image_taker(self, name: str, decode: Callable[[Any], Image]) -> Callable[[Any, float], None]:
        camera = next(camera for camera in self.spec.cameras if camera.name == name)

        def take(message: Any, now: float) -> None:
            image = decode(message)
            height, width = image.shape[:2]
            if (height, width) != (camera.height, camera.width):
                raise ValueError(f"an image is {width} x {height}, in the spec {camera.width} x {camera.height}")
            with self._arrived:
                self._images[name] = (image, now)

        return take

    def _make_channels(self, transport: Transport) -> list[_Channel]:
        options, spec = self._options, self.spec
        seconds = options.time_from_start_s or spec.dt_driver

        def topic(where: str, command: str, part: slice) -> _Channel:
            kind, names = _COMMANDS[command], self._names[part]
            publisher = transport.publisher(where, kind, options.command_qos)

            def send(values: list[float]) -> None:
                if kind == NUMBERS:
                    publisher.publish(data=values)
                else:
                    publisher.publish(joint_names=names, positions=values, seconds=seconds)

            return _Channel(part, where, kind, publisher, send)

        gripper = options.gripper
        if gripper is None or gripper.command is None:
            return [topic(options.command, options.command_type, slice(spec.dim))]
        arm = topic(options.command, options.command_type, slice(spec.dim - 1))
        part = slice(spec.dim - 1, spec.dim)
        if gripper.type in ("joint_trajectory", "float64_multi_array"):
            return [arm, topic(gripper.command, gripper.type, part)]
        parallel = gripper.type == "parallel_gripper_command"
        action = transport.gripper(gripper.command, self._names[-1], parallel, gripper.max_effort)
        return [arm, _Channel(part, gripper.command, gripper.type, action, lambda v: action.publish(position=v[0]))]

    def _send(self, target: Array, arm_only: bool = False) -> None:
        values = ((target - self._offset) / self._scale).tolist()
        for channel in self._channels[: 1 if arm_only else None]:
            channel.send(values[channel.part])

    def _check_well(self) -> None:
        if self._transport is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")
        self._fault = self._fault or self._amiss()
        if self._fault:
            raise RobotFault(f"{self.spec.name}: {self._fault}")

    def _amiss(self) -> str:
        """What is wrong by now; empty when all is well."""
        with self._arrived:
            silent = self._silent(time.monotonic())
        # Without the lock, which the transport's thread may be waiting for.
        return silent or "; ".join(
            f"nobody listens on {channel.topic} any more: is the controller running?"
            for channel in self._channels
            if not channel.publisher.listeners()
        )

    def _silent(self, now: float) -> str:
        options = self._options
        topic, entry = options.joint_states, int(np.argmin(self._at))
        if now - self._at[entry] > options.timeout_s:
            if (age := now - self._spoke[topic]) > options.timeout_s:
                return f"{topic} is silent: its last message came {age:.2f} s ago"
            why = self._ill[topic] or nearest(self._names[entry], self._heard)
            return f"{topic} has had no joint {self._names[entry]!r} for {now - self._at[entry]:.2f} s: {why}"
        for name, camera in options.cameras.items():
            if (age := now - self._images[name][1]) > camera.timeout_s:
                why = self._ill[camera.topic]
                return f"{camera.topic} is silent: the last image of camera {name!r} came {age:.2f} s ago" + (
                    f" ({why})" if why else ""
                )
        return ""

    def _await(self, transport: Transport) -> None:
        options = self._options
        deadline = time.monotonic() + options.connect_timeout_s
        while True:
            unheard = [channel for channel in self._channels if not channel.publisher.listeners()]
            with self._arrived:
                lacking = [name for name, at in zip(self._names, self._at, strict=True) if at == -np.inf]
                blind = [camera for name, camera in options.cameras.items() if name not in self._images]
                if not (lacking or blind or unheard):
                    return
                if time.monotonic() > deadline:
                    break
                self._arrived.wait(_LOOK_S)
        graph, faults = transport.graph(), []
        if lacking:
            faults.append(self._why(graph, options.joint_states, JOINT_STATE, options.joint_states_qos, lacking[0]))
        for camera in blind:
            kind = COMPRESSED if camera.compressed else IMAGE
            faults.append(self._why(graph, camera.topic, kind, camera.qos))
        for channel in unheard:
            if channel.kind not in _COMMANDS.values():
                faults.append(f"there is no server of the action {channel.topic} ({channel.kind})")
                continue
            faults.append(_unmatched(graph, channel.topic, channel.kind, options.command_qos, to_read=False))
        raise RobotFault(f"{self.spec.name}: within {options.connect_timeout_s:g} s: {'; '.join(faults)}")

    def _why(self, graph: list[Endpoint], topic: str, kind: str, qos: Qos, joint: str = "") -> str:
        with self._arrived:
            if topic not in self._spoke:
                return _unmatched(graph, topic, kind, qos, to_read=True)
            return f"{topic}: {self._ill[topic] or f'it has no joint {joint!r}: {nearest(joint, self._heard)}'}"


def _unmatched(graph: list[Endpoint], topic: str, kind: str, qos: Qos, *, to_read: bool) -> str:
    """Why nobody is heard, or listens, on a topic."""
    topic = f"/{topic.lstrip('/')}"
    others = [one for one in graph if one.topic == topic and one.writes == to_read]
    whose = "publishers" if to_read else "subscribers"
    if not others:
        there = sorted({one.topic for one in graph if one.kind == kind and one.writes == to_read})
        does = "publishes" if to_read else "subscribes to"
        return f"nobody {does} {topic} ({kind}): {nearest(topic, there)}"
    if kinds := sorted({one.kind for one in others} - {kind}):
        return f"{topic} is of type {', '.join(kinds)}, not {kind}"
    reliable = qos.reliability == "reliable"
    if all((not one.reliable if to_read else one.reliable) and one.reliable != reliable for one in others):
        theirs = "best_effort" if reliable else "reliable"
        ours = qos.reliability
        return f"{topic}: its {whose} are {theirs}, this side asks for {ours}: set qos.reliability to {theirs}"
    return f"{topic} has {len(others)} {whose}, but " + ("no message came" if to_read else "none has matched")
