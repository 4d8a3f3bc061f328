"""ROS 2 bags of a made-up arm, written by rosbags in either storage."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
START = 1_700_000_000_000_000_000
Message = tuple[float, str, Any]


def stamp(seconds: float) -> Any:
    at = START + round(seconds * 1e9)
    return TYPES.types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)


def header(seconds: float) -> Any:
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp(seconds), frame_id="")


def states(topic: str, seconds: float, joints: Mapping[str, float]) -> Message:
    message = TYPES.types["sensor_msgs/msg/JointState"](
        header=header(seconds), name=list(joints), position=np.array([*joints.values()], np.float64),
        velocity=np.zeros(0), effort=np.zeros(0),
    )  # fmt: skip
    return seconds, topic, message


def numbers(topic: str, seconds: float, values: Sequence[float]) -> Message:
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    data = np.array(values, np.float64)
    return seconds, topic, TYPES.types["std_msgs/msg/Float64MultiArray"](layout=layout, data=data)


def trajectory(
    topic: str, seconds: float, names: Sequence[str], points: Sequence[tuple[float, Sequence[float]]]
) -> Message:
    """points: (time from start [s], a position of each name)."""
    duration, point = (
        TYPES.types[name] for name in ("builtin_interfaces/msg/Duration", "trajectory_msgs/msg/JointTrajectoryPoint")
    )
    made = [
        point(
            positions=np.array(values, np.float64), velocities=np.zeros(0), accelerations=np.zeros(0),
            effort=np.zeros(0), time_from_start=duration(sec=int(after), nanosec=round(after % 1 * 1e9)),
        )
        for after, values in points
    ]  # fmt: skip
    message = TYPES.types["trajectory_msgs/msg/JointTrajectory"]
    return seconds, topic, message(header=header(seconds), joint_names=list(names), points=made)


def image(topic: str, seconds: float, picture: np.ndarray, encoding: str = "rgb8") -> Message:
    data = picture[:, :, ::-1] if encoding == "bgr8" else picture
    message = TYPES.types["sensor_msgs/msg/Image"](
        header=header(seconds), height=picture.shape[0], width=picture.shape[1], encoding=encoding, is_bigendian=0,
        step=picture.shape[1] * 3, data=np.frombuffer(data.tobytes(), np.uint8),
    )  # fmt: skip
    return seconds, topic, message


def compressed(topic: str, seconds: float, picture: np.ndarray) -> Message:
    packed = io.BytesIO()
    PIL.Image.fromarray(picture).save(packed, "PNG")
    message = TYPES.types["sensor_msgs/msg/CompressedImage"]
    return seconds, topic, message(
        header=header(seconds), format="png", data=np.frombuffer(packed.getvalue(), np.uint8)
    )  # fmt: skip


def write(path: Path, messages: Sequence[Message], storage: str) -> Path:
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        known: dict[str, Any] = {}
        for seconds, topic, message in sorted(messages, key=lambda one: one[0]):
            kind = message.__msgtype__
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(known[topic], START + round(seconds * 1e9), TYPES.serialize_cdr(message, kind))
    return path
