"""ReadOnly: all that reads gets through, nothing that moves does."""

from __future__ import annotations

import numpy as np
import pytest

import hal
from hal import ReadOnly
from tests.fakes import FakeRobot, small_spec


def test_what_would_move_the_arm_stays_here() -> None:
    inner = FakeRobot(small_spec())
    with ReadOnly(inner) as robot:
        before = robot.read().position
        for _ in range(3):
            with pytest.raises(hal.DriverError, match="small: this robot is only read, so it takes no command"):
                robot.write(hal.Command(np.full(3, 0.05)))
        assert inner.writes == []
        np.testing.assert_array_equal(robot.read().position, before)
        assert robot.health().state == "ok"
        robot.stop()
        assert inner.stopped.is_set(), "an arm may always be stopped"
    assert robot.health().state == "disconnected" and not inner.connected


def test_a_simulated_robot_stands_still_and_its_scene_is_seen() -> None:
    inner = hal.make_robot(hal.load_spec("panda"))
    with ReadOnly(inner) as robot:
        assert robot.capability(hal.Steppable) is None  # type: ignore[type-abstract]
        scene = robot.capability(hal.Scene)  # type: ignore[type-abstract]
        assert scene is robot and robot.capability(hal.Renderable) is robot  # type: ignore[type-abstract]
        position, rotation = scene.tcp()
        np.testing.assert_array_equal(position, inner.tcp()[0])  # type: ignore[attr-defined]
        assert rotation.shape == (3, 3)
        before = robot.read().position
        with pytest.raises(hal.DriverError, match="its scene stays as it is"):
            scene.set_state(before + 0.1, {})
        np.testing.assert_array_equal(robot.read().position, before)


def test_it_can_no_more_than_its_robot() -> None:
    robot = ReadOnly(FakeRobot(small_spec()))
    assert robot.capability(hal.Scene) is None  # type: ignore[type-abstract]
    with pytest.raises(hal.DriverError, match="has no Scene"):
        robot.tcp()
