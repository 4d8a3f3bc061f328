"""A node of rclpy's alone, nothing of ours in it: joint states and images out, commands in.

It reads one JSON object a line, which replaces keys of `said`, and writes each command that it gets as a line.
"""

import array
import contextlib
import json
import sys
import threading
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

said: dict[str, Any] = {
    "states": {"name": [], "position": []},
    "stamp": True,
    "images": {},  # by topic, the fields of an Image, its data a list of bytes
    "compressed": {},
}


def listen(node: Node) -> None:
    for line in sys.stdin:
        said.update(json.loads(line))
    rclpy.try_shutdown()


def tell(kind: str, **fields: Any) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)


def main() -> None:
    rclpy.init()
    node = Node("somebody")
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy[sys.argv[1]])
    states = node.create_publisher(JointState, "/joint_states", qos)
    pictures: dict[str, Any] = {}

    def speak() -> None:
        now = node.get_clock().now().to_msg()
        if said["states"]:
            message = JointState(**said["states"])
            if said["stamp"]:
                message.header.stamp = now
            states.publish(message)
        for kind, key in ((Image, "images"), (CompressedImage, "compressed")):
            for topic, fields in said[key].items():
                if topic not in pictures:
                    pictures[topic] = node.create_publisher(kind, topic, qos)
                message = kind(**{**fields, "data": array.array("B", fields["data"])})
                message.header.stamp = now
                pictures[topic].publish(message)

    def trajectory(message: JointTrajectory) -> None:
        point = message.points[0]
        seconds = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        tell("trajectory", names=list(message.joint_names), positions=list(point.positions), seconds=seconds)

    node.create_subscription(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", trajectory, qos)
    node.create_subscription(
        Float64MultiArray, "/forward_position_controller/commands", lambda m: tell("numbers", data=list(m.data)), qos
    )
    node.create_timer(0.01, speak)
    threading.Thread(target=listen, args=(node,), daemon=True).start()
    with contextlib.suppress(rclpy.executors.ExternalShutdownException):
        rclpy.spin(node)


main()
