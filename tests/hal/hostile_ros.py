"""Hostile commands to an emulated arm behind ROS 2 topics, by either transport: what its own subscriptions get."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hal
from hal.drivers.ros import NUMBERS, TRAJECTORY, Transport
from hal.drivers.ros_options import Qos
from hal.emulators.ros_arm import EmulatedRosArm
from tests.hal.hostile import Arrived, Device, attack_device

COMMAND = "/joint_trajectory_controller/joint_trajectory"
FORWARD = "/forward_position_controller/commands"


class Tapped:
    """A transport whose subscriptions tell `taps`, by the message's type, too. A busy machine makes it lose nothing."""

    def __init__(self, transport: Transport, taps: Mapping[str, Callable[[Any], None]]) -> None:
        self.publisher, self.gripper = transport.publisher, transport.gripper
        self.graph, self.close = transport.graph, transport.close
        self._transport, self._taps = transport, taps

    def subscribe(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> None:
        def both(message: Any) -> None:
            self._taps[kind](message)
            take(message)

        self._transport.subscribe(topic, kind, qos.model_copy(update={"depth": 1000}), both)


def attack_topics(
    driver: str, transport: Callable[[str], Transport], kind: str, on_stop: str, folder: Path, *, seed: int
) -> None:
    """kind: joint_trajectory or float64_multi_array. What is lost, and comes back, is the arm's joint states."""
    patience = 0.06 if on_stop == "brake" else 20.0  # in the first case what comes late is a stop, too
    changes = {"driver_hz": 200.0, "control_hz": 40.0, "watchdog_s": patience, "on_stop": on_stop}
    spec = hal.RobotSpec.model_validate(hal.load_spec("panda").model_dump() | changes)
    arrived = Arrived()

    def trajectory(message: Any) -> None:
        (point,) = message.points
        after = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
        assert math.isclose(after, spec.dt_driver, abs_tol=2e-9)
        place = dict(zip(message.joint_names, point.positions, strict=True))
        arrived.take(np.array([place[name] for name in spec.names]))

    taps = {TRAJECTORY: trajectory, NUMBERS: lambda message: arrived.take(np.array(message.data))}
    arm = EmulatedRosArm(spec, Tapped(transport("arm"), taps), namespace="hostile")
    arm.start()
    options = {**arm.options, "timeout_s": 3.0, "connect_timeout_s": 20.0}
    if kind == "float64_multi_array":
        options |= {"command": "/hostile" + FORWARD, "command_type": kind}
    device = Device(arrived, lambda: setattr(arm, "mute", True), lambda: setattr(arm, "mute", False))
    try:
        stretches = attack_device(hal.make_robot(spec, driver, **options), device, folder, seed=seed)
    finally:
        arm.close()
    assert len(stretches) == (2 if on_stop == "brake" else 4)
    assert max(np.ptp(one.path, axis=0).max() for one in stretches) > 0.1
