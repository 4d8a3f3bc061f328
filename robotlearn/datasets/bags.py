"""What an arm's ROS 2 bag holds (SQLite or MCAP), read without ROS: joints, commands, images, each with its time.

Times are when the bag got each message: one clock for all, which stamps of different machines are not. Messages are
read by the definitions of ROS 2 Jazzy, never by those in a bag.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from hal.drivers.ros_image import decoded, pixels
from hal.drivers.ros_options import Entry, RosOptions, ros_options
from hal.errors import nearest
from hal.joint_topics import fitting
from hal.spec import RobotSpec
from robotlearn.datasets.errors import DatasetError
from robotlearn.datasets.resampling import NS, Interval, SetPoint
from robotlearn.errors import ExtraError

STATES = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
NUMBERS = "std_msgs/msg/Float64MultiArray"
IMAGES = {"sensor_msgs/msg/Image": pixels, "sensor_msgs/msg/CompressedImage": decoded}
_END = 1 << 20  # bytes of each file's begin and end that tell it from another one
Array = NDArray[Any]


class Bag:
    """A rosbag2 folder, or one of its files, open for reading. Raises ExtraError, DatasetError."""

    def __init__(self, path: Path) -> None:
        if find_spec("rosbags") is None:
            raise ExtraError("bags need rosbags, which isn't installed here: pip install 'robotlearn[bags]'")
        from rosbags.rosbag2 import Reader
        from rosbags.typesys import Stores, get_typestore

        self.path = path
        try:
            self._reader = Reader(path)
            self._reader.open()
        except Exception as error:  # rosbags lets through whatever its parsers of YAML, SQLite and MCAP raise
            raise DatasetError(f"{path} can't be read as a ROS 2 bag: {_line(error)}") from None
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self.topics = {one.topic: one.msgtype for one in self._reader.connections}

    def identity(self) -> int:
        """63 bits that are the same for the same bag, wherever it lies."""
        digest = xxhash.xxh3_64()
        for file in sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]:
            if file.suffix not in (".db3", ".mcap", ".zstd"):
                continue
            with file.open("rb") as stream:
                digest.update(stream.read(_END))
                size = stream.seek(0, 2)
                stream.seek(max(0, size - _END))
                digest.update(stream.read(_END) + size.to_bytes(8, "little"))
        return digest.intdigest() >> 1

    def check(self, topic: str, kinds: Mapping[str, Any], option: str) -> str:
        """What a topic's messages are. Raises DatasetError naming the option when it isn't there, or none of these."""
        if topic not in self.topics:
            fit = [name for name, kind in self.topics.items() if kind in kinds]
            raise DatasetError(
                f"{self.path} has no topic {topic}: {option}; of {' or '.join(kinds)} it has {', '.join(fit) or 'none'}"
            )
        if self.topics[topic] not in kinds:
            raise DatasetError(f"{topic} is of {self.topics[topic]}, expected {' or '.join(kinds)}: another {option}")
        return self.topics[topic]

    def messages(self, *topics: str, span: Interval | None = None) -> Iterator[tuple[str, int, Any]]:
        """(topic, time [ns], message) in the order of their times; span: from when to when, both included.

        Raises DatasetError.
        """
        connections = [one for one in self._reader.connections if one.topic in topics]
        for connection, time, data in self._raw(connections, span):
            try:
                message = self._types.deserialize_cdr(data, connection.msgtype)
            except Exception as error:  # as above
                raise DatasetError(
                    f"{self.path}: a message of {connection.topic} can't be read: {_line(error)}"
                ) from None
            yield connection.topic, time, message

    def times(self, topic: str) -> Array:
        """(n,) int64 ns, sorted: when its messages came, which are not looked at."""
        connections = [one for one in self._reader.connections if one.topic == topic]
        return np.sort(np.array([time for _, time, _ in self._raw(connections, None)], np.int64))

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raw(self, connections: list[Any], span: Interval | None) -> Iterator[tuple[Any, int, Any]]:
        if not connections:
            return
        start, stop = (None, None) if span is None else (span[0], span[1] + 1)
        found = self._reader.messages(connections, start, stop)
        try:
            yield from found
        except Exception as error:  # as above
            raise DatasetError(f"{self.path} can't be read: {_line(error)}") from None


class Axes:
    """The entries of a spec in messages: what they are called there, and value [rad, m] = scale * message + offset."""

    def __init__(self, entries: list[Entry], spec: RobotSpec, unit: str) -> None:
        self.names = [str(entry.joint) for entry in entries]
        self.scale = np.array([entry.scale for entry in entries])
        self.scale[: len(spec.joints)] *= math.pi / 180 if unit == "deg" else 1.0
        self.offset = np.array([entry.offset for entry in entries])
        self._places = {name: index for index, name in enumerate(self.names)}

    def values(self, names: list[str], positions: Array) -> Iterator[tuple[int, float]]:
        """(entry of the spec, rad or m) of those of these joints that are the robot's."""
        for name, position in zip(names, positions, strict=True):
            if (entry := self._places.get(name)) is not None and math.isfinite(position):
                yield entry, float(self.scale[entry] * position + self.offset[entry])


def options_of(bag: Bag, spec: RobotSpec, given: Mapping[str, Any]) -> RosOptions:
    """The options of the drivers `ros2` and `dds` as far as they say what is in messages; joints that are called
    otherwise than in the spec, but all alike, are found. Raises DatasetError, DriverError.
    """
    options = ros_options(spec, given)
    bag.check(options.joint_states, {STATES: None}, "--joint-states")
    heard: dict[str, float] = {}
    for _, _, message in bag.messages(options.joint_states):
        heard |= dict(zip(message.name, map(float, message.position), strict=False))
        if len(heard) >= spec.dim and all(entry.joint in heard for entry in options.entries(spec)):
            return options
    if not given.get("joints") and (fit := fitting(heard, [spec])) is not None:
        found = dict(given) | {"joints": {name: {"joint": called} for name, called in fit.names.items()}}
        if fit.gripper and "gripper" not in given:
            found["gripper"] = {"joint": fit.gripper}
        options = ros_options(spec, found)
    for index, entry in enumerate(options.entries(spec)):
        if entry.joint not in heard:
            own = "gripper={joint: NAME}"
            key = f"joints={{{spec.names[index]}: {{joint: NAME}}}}" if index < len(spec.joints) else own
            near = nearest(str(entry.joint), heard)
            raise DatasetError(f"{options.joint_states} has no joint {entry.joint!r} ({near}): --option '{key}'")
    return options


def joint_states(bag: Bag, topic: str, axes: Axes) -> list[tuple[Array, Array]]:
    """Of each entry of the spec (n,) ns and (n,) rad or m, sorted by time. A message may hold some of them only."""
    times: list[list[int]] = [[] for _ in axes.names]
    values: list[list[float]] = [[] for _ in axes.names]
    for _, time, message in bag.messages(topic):
        if len(message.position) != len(message.name):
            raise DatasetError(f"{topic}: a message has {len(message.name)} names, {len(message.position)} positions")
        for entry, value in axes.values(message.name, message.position):
            times[entry].append(time)
            values[entry].append(value)
    found = []
    for when, what in zip(times, values, strict=True):
        order = np.argsort(np.array(when, np.int64), kind="stable")
        found.append((np.array(when, np.int64)[order], np.array(what)[order]))
    return found


def set_points(
    bag: Bag, topics: Mapping[str, slice], axes: Axes, span: Interval, period_s: float, start: Array
) -> list[SetPoint]:
    """What was commanded in a span, of each entry. topics: each with the entries of its numbers, which have no names.

    A trajectory of one point is a set-point at once, if it is to be reached within two control periods; any other one
    is followed, from where the set-point is then (`start` (D,) before the first). Raises DatasetError.
    """
    found = [SetPoint() for _ in axes.names]
    for topic, time, message in bag.messages(*topics, span=span):
        if bag.topics[topic] == NUMBERS:
            names = axes.names[topics[topic]]
            if len(message.data) not in (len(names), len(names) - 1):
                raise DatasetError(
                    f"{topic}: a command has {len(message.data)} numbers, the robot {len(names)}: {names}"
                )
            for entry, value in axes.values(names[: len(message.data)], message.data):
                found[entry].jump(time, value)
        elif bag.topics[topic] == STATES:
            for entry, value in axes.values(message.name, message.position):
                found[entry].jump(time, value)
        else:
            _trajectory(message, time, found, axes, period_s, start)
    return found


def _trajectory(message: Any, time: int, found: list[SetPoint], axes: Axes, period_s: float, start: Array) -> None:
    points = [point for point in message.points if len(point.positions) == len(message.joint_names)]
    if not points:
        return
    reached = [time + point.time_from_start.sec * NS + point.time_from_start.nanosec for point in points]
    columns = [dict(axes.values(message.joint_names, point.positions)) for point in points]
    for entry in columns[0]:
        if len(points) == 1 and reached[0] - time <= 2 * period_s * NS:
            found[entry].jump(time, columns[0][entry])
        else:
            way = [(when, column[entry]) for when, column in zip(reached, columns, strict=True) if entry in column]
            found[entry].follow(time, way, float(start[entry]))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)
