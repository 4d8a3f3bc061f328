"""The transport of `RosRobot` by rclpy: the ROS 2 installation of the user's, with all that it has configured."""

from __future__ import annotations

import array
import importlib
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from hal.drivers.ros import NUMBERS, TRAJECTORY, Endpoint, Publisher, RosRobot
from hal.drivers.ros_options import Qos
from hal.errors import DriverError
from hal.robot import Robot
from hal.spec import RobotSpec

_MOVED = 1e-4  # [m, rad] of a gripper: a goal that differs by less is not sent again
_FLUSH_S = 0.1  # [s] within which the last command, a stop, must have arrived before its publisher goes


def make(spec: RobotSpec, **options: Any) -> Robot:
    """The driver `ros2`; options as in `hal.drivers.ros_options.RosOptions`.

    Raises DriverError as `RosRobot`, and where there is no rclpy.
    """
    _rclpy()
    return RosRobot(spec, RclpyTransport, options)


class RclpyTransport:
    """A node of its own in a context of its own, spun by an executor in a thread of its own.

    Raises DriverError when there is no rclpy.
    """

    def __init__(self, name: str, domain: int | None = None) -> None:
        self._rclpy = _rclpy()
        from rclpy.executors import SingleThreadedExecutor

        self._context = self._rclpy.Context()
        try:
            self._rclpy.init(context=self._context, args=[], domain_id=domain)
        except Exception as error:  # RCLError is no public name; such as a domain that is no number
            raise DriverError(f"ROS 2 doesn't start: {error}") from error
        safe = "".join(c if c.isalnum() else "_" for c in name)
        self._node = self._rclpy.create_node(f"{safe}_{os.getpid()}", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publishers: list[Any] = []
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name=f"rclpy {name}", daemon=True)
        self._thread.start()

    def subscribe(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> None:
        self._node.create_subscription(_type(kind), topic, take, _profile(qos))

    def publisher(self, topic: str, kind: str, qos: Qos) -> Publisher:
        made = self._node.create_publisher(_type(kind), topic, _profile(qos))
        self._publishers.append(made)
        return _RclpyPublisher(made, kind)

    def gripper(self, action: str, joint: str, parallel: bool, max_effort: float) -> Publisher:
        return _GripperAction(self._node, action, joint, parallel, max_effort)

    def graph(self) -> list[Endpoint]:
        from rclpy.qos import ReliabilityPolicy

        found = []
        for topic, _ in self._node.get_topic_names_and_types():
            for writes, look in (
                (True, self._node.get_publishers_info_by_topic),
                (False, self._node.get_subscriptions_info_by_topic),
            ):
                for one in look(topic):
                    reliable = one.qos_profile.reliability == ReliabilityPolicy.RELIABLE
                    found.append(Endpoint(topic, one.topic_type, writes, reliable))
        return found

    def close(self) -> None:
        from rclpy.duration import Duration

        for publisher in self._publishers:
            publisher.wait_for_all_acked(Duration(seconds=_FLUSH_S))
        # The executor's own shutdown takes from a thread that still spins what it needs, and that thread dies of it.
        self._closing = True
        self._executor.create_task(lambda: None)  # spin_once returns from nothing else
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while self._context.ok() and not self._closing:
            self._executor.spin_once()


class _RclpyPublisher:
    def __init__(self, publisher: Any, kind: str) -> None:
        from rclpy._rclpy_pybind11 import InvalidHandle

        self._publisher, self._kind, self._message, self._closed = publisher, kind, _type(kind), InvalidHandle
        self._point = _type("trajectory_msgs/msg/JointTrajectoryPoint") if kind == TRAJECTORY else None

    def publish(self, **fields: Any) -> None:
        message = self._message()
        if self._point is not None:
            point, seconds = self._point(), fields["seconds"]
            point.positions = fields["positions"]
            point.time_from_start.sec, point.time_from_start.nanosec = int(seconds), int(seconds % 1 * 1e9)
            message.joint_names, message.points = fields["joint_names"], [point]
        else:
            for key, value in fields.items():
                # rclpy looks at bytes one by one unless they come as what it keeps them in
                setattr(message, key, array.array("B", value) if isinstance(value, bytes) else value)
            if self._kind != NUMBERS:
                now = time.time_ns()
                message.header.stamp.sec, message.header.stamp.nanosec = now // 10**9, now % 10**9
        self._publisher.publish(message)

    def listeners(self) -> int:
        try:
            return int(self._publisher.get_subscription_count())
        except self._closed:
            return 0


class _GripperAction:
    """Goals of control_msgs: one for each position that differs from the last; one that is refused is sent anew."""

    def __init__(self, node: Any, action: str, joint: str, parallel: bool, max_effort: float) -> None:
        from rclpy.action import ActionClient

        self._kind = _type(f"control_msgs/action/{'ParallelGripperCommand' if parallel else 'GripperCommand'}")
        self._client = ActionClient(node, self._kind, action)
        self._joint, self._parallel, self._max_effort = joint, parallel, max_effort
        self._sent = math.nan

    def publish(self, **fields: Any) -> None:
        position = float(fields["position"])
        if abs(position - self._sent) < _MOVED:
            return
        goal = self._kind.Goal()
        if self._parallel:
            goal.command.name, goal.command.position = [self._joint], [position]
            goal.command.effort = [self._max_effort]
        else:
            goal.command.position, goal.command.max_effort = position, self._max_effort
        self._sent = position
        self._client.send_goal_async(goal).add_done_callback(self._answered)

    def listeners(self) -> int:
        return int(self._client.server_is_ready())

    def _answered(self, future: Any) -> None:
        if future.exception() is not None or not future.result().accepted:
            self._sent = math.nan


def _rclpy() -> Any:
    try:
        return importlib.import_module("rclpy")
    except ImportError as error:
        raise DriverError(
            f"the driver 'ros2' needs rclpy ({error}): source /opt/ros/DISTRO/setup.bash first, and use a Python of "
            "the version that ROS was built for; without ROS use the driver 'dds'"
        ) from error


def _profile(qos: Qos) -> Any:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    reliable = qos.reliability == "reliable"
    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=qos.depth, reliability=policy)


def _type(kind: str) -> Any:
    """The class of `package/msg/Name`. Raises DriverError when the installation lacks the package."""
    package, sort, name = kind.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{sort}"), name)
    except (ImportError, AttributeError) as error:
        debian = package.replace("_", "-")
        raise DriverError(
            f"the driver 'ros2' needs {kind} of the package {package} ({error}): apt install ros-$ROS_DISTRO-{debian}"
        ) from error
