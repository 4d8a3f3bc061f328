"""Joint states on ROS 2 topics: who publishes them now, and which of the shipped specs they fit."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from hal.drivers.ros import JOINT_STATE, Transport
from hal.drivers.ros_options import Qos
from hal.errors import DriverError
from hal.spec import RobotSpec

LIBRARIES = {"ros2": "rclpy", "dds": "cyclonedds"}
"""What the drivers need that reach topics; each reaches those of the other."""
SILENT_S = 1.2
"""A topic without a message for so long is gone: DDS itself misses a publisher that was killed after 10 s or more."""
HEARD_S = 3.5
"""Within which all who publish at 2 Hz or more have been found and heard: Fast DDS tells of itself every 3 s, and its
answer to a newcomer is lost as often as not."""
_BEYOND = 0.05  # [rad] outside its spec's limits, where a well calibrated arm may still rest
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_PROFILE = """\
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"><profiles>
<participant profile_name="listener" is_default_profile="true"><rtps><builtin><discovery_config>
<leaseAnnouncement><sec>0</sec><nanosec>300000000</nanosec></leaseAnnouncement>
</discovery_config></builtin></rtps></participant>
</profiles></dds>
"""


@dataclass
class JointTopic:
    """One topic: the value of each joint that its messages had, by the joint's name, and when the last of them came."""

    name: str
    joints: dict[str, float] = field(default_factory=dict)
    heard: float = -float("inf")


@dataclass(frozen=True)
class Fit:
    """A spec that a topic's joints fit, with the driver's options.

    names: of the joints that are called otherwise than in the spec. gripper: the joint's name, "" where there is none.
    doubt: why it may be another robot after all, "" where nothing speaks against it.
    """

    spec: RobotSpec
    names: Mapping[str, str]
    gripper: str
    doubt: str


def joint_driver(preferred: str = "ros2") -> str:
    """The driver by which topics are reached here: the preferred one, else the other of `LIBRARIES`.

    Raises DriverError where there is neither.
    """
    for driver in (preferred, *LIBRARIES):
        if find_spec(LIBRARIES[driver]) is not None:
            return driver
    raise DriverError("neither rclpy nor cyclonedds is here: pip install 'robotlearn[dds]'")


class JointTopics:
    """Listens to every joint state of ROS_DOMAIN_ID, from its making to `close`.

    Raises DriverError when there is neither rclpy nor cyclonedds, or the domain can't be joined.
    """

    def __init__(self) -> None:
        name = f"robotlearn_scan_{os.getpid()}"
        self._transport: Transport
        if joint_driver() == "ros2":
            from hal.drivers.ros2 import RclpyTransport

            with _announced_often():
                self._transport = RclpyTransport(name)
        else:
            from hal.drivers.dds import DdsTransport

            self._transport = DdsTransport(name)
        self._lock = threading.Lock()  # of what follows
        self._topics: dict[str, JointTopic] = {}

    def heard(self) -> list[JointTopic]:
        """The topics that speak now. One that comes is heard within a second or so, one that was there in `HEARD_S`."""
        published = {one.topic for one in self._transport.graph() if one.writes and one.kind == JOINT_STATE}
        for name in published:
            if name not in self._topics:
                self._topics[name] = JointTopic(name)
                self._transport.subscribe(name, JOINT_STATE, Qos(), partial(self._take, name))
        now = time.monotonic()
        with self._lock:
            for topic in self._topics.values():
                if now - topic.heard > SILENT_S or topic.name not in published:
                    topic.joints.clear()  # whoever speaks there next may be another one
            return [JointTopic(one.name, dict(one.joints), one.heard) for one in self._topics.values() if one.joints]

    def close(self) -> None:
        self._transport.close()

    def _take(self, name: str, message: Any) -> None:
        if isinstance(message, Exception):
            return
        with self._lock:
            topic = self._topics[name]
            topic.heard = time.monotonic()
            topic.joints.update(zip(message.name, map(float, message.position), strict=False))


@contextmanager
def _announced_often() -> Iterator[None]:
    """A participant of Fast DDS that is made here tells of itself every 0.3 s, unless the user has profiles of his own.

    An arm that has just come often misses the first answer to it, and would know of this listener only up to 3 s later.
    Other DDS implementations don't look at it.
    """
    if any(name in os.environ for name in _PROFILES):
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(_PROFILE)
        file.flush()
        os.environ.update(dict.fromkeys(_PROFILES, file.name))
        try:
            yield
        finally:
            for name in _PROFILES:
                del os.environ[name]


def fitting(joints: Mapping[str, float], specs: Iterable[RobotSpec]) -> Fit | None:
    """The spec all of whose joints are among these, called so, or all with the same text before and behind.

    (`panda_joint1` is joint1, `left_shoulder_pan_joint` is shoulder_pan.) Of several that with the most joints, before
    all one within whose limits [rad] the values are: the names alone are the same for many arms.
    """
    fits = [fit for spec in specs if (fit := _fit(joints, spec)) is not None]
    return max(fits, key=lambda fit: (not fit.doubt, len(fit.spec.joints), not fit.names), default=None)


def _fit(joints: Mapping[str, float], spec: RobotSpec) -> Fit | None:
    first = spec.joints[0].name
    for candidate in sorted(joints, key=len):
        at = candidate.find(first)
        if at < 0:
            continue
        before, behind = candidate[:at], candidate[at + len(first) :]
        names = {joint.name: f"{before}{joint.name}{behind}" for joint in spec.joints}
        if not set(names.values()) <= joints.keys():
            continue
        doubt = next(
            (
                f"{names[joint.name]} is at {joints[names[joint.name]]:.2f} rad, {spec.name}'s {joint.name} goes from "
                f"{joint.lower:g} to {joint.upper:g}"
                for joint in spec.joints
                if not joint.lower - _BEYOND <= joints[names[joint.name]] <= joint.upper + _BEYOND
            ),
            "",
        )
        other = {name: called for name, called in names.items() if name != called}
        grippers = [] if spec.gripper is None else [spec.gripper.name, f"{before}{spec.gripper.name}{behind}"]
        return Fit(spec, other, next((name for name in grippers if name in joints), ""), doubt)
    return None
