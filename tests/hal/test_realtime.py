"""A simulated arm by the wall clock: it moves by itself, watches over its commands, and shows what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import hal
from hal.realtime import Pacer
from hal.robot import Renderable, Scene, Steppable, Tunable
from tests.fakes import FakeRobot, small_spec

PATIENCE = 30.0  # seconds until a test that waits for an event gives up


def until(condition: Callable[[], bool], tick: threading.Event) -> None:
    """Waits, step of the robot by step of the robot, until the condition holds."""
    while not condition():
        tick.clear()
        assert tick.wait(PATIENCE), "the robot makes no steps"


def test_pacer_keeps_an_absolute_clock() -> None:
    pacer = Pacer(100.0, 0.25, catch_up=1.0)
    assert pacer.next(100.0) == 0.25
    assert pacer.next(100.375) == 0.125  # the work took 0.125 s: waits that much less
    assert pacer.next(101.0) == 0.0  # late: no pause ...
    assert pacer.next(101.0) == 0.0
    assert pacer.next(101.0) == 0.25  # ... until it has caught up
    assert pacer.missed == 0


def test_pacer_drops_and_counts_what_it_cannot_catch_up() -> None:
    pacer = Pacer(0.0, 0.25, catch_up=1.0)
    assert pacer.next(10.25) == 0.0
    assert pacer.missed == 40
    assert pacer.next(10.25) == 0.25


@pytest.mark.parametrize(("period", "catch_up"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, -1.0)])
def test_pacer_refuses_what_cannot_work(period: float, catch_up: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        hal.RealTime(FakeRobot(small_spec()), period=period, catch_up=catch_up)


def test_it_passes_the_check() -> None:
    hal.check_robot(hal.RealTime(hal.make_robot(hal.load_spec("panda"))))
    hal.check_robot(hal.RealTime(FakeRobot(small_spec())))


def test_time_passes_by_itself() -> None:
    fake = FakeRobot(small_spec(watchdog_s=1e6))
    with hal.RealTime(fake) as robot:
        robot.write(hal.Command(np.array([0.1, -0.1, 0.05])))
        until(lambda: np.allclose(robot.read().position, [0.1, -0.1, 0.05]), fake.stepped)
        assert robot.health().state == "ok"
    assert not fake.connected


def test_the_panda_moves_by_itself() -> None:
    spec = hal.load_spec("panda").model_copy(update={"watchdog_s": 1e6})
    with hal.RealTime(hal.make_robot(spec)) as robot:
        target = spec.home + np.array([0.2, 0, 0, 0, 0, 0, 0, -0.02])
        robot.write(hal.Command(target))
        start = robot.read()
        while not np.allclose(robot.read().position, target, atol=5e-3):
            assert robot.read().monotonic < start.monotonic + PATIENCE
        assert robot.read().monotonic > start.monotonic


def test_the_watchdog_stops_an_arm_without_commands() -> None:
    fake = FakeRobot(small_spec(watchdog_s=0.05))
    with hal.RealTime(fake) as robot:
        until(lambda: True, fake.stepped)
        assert not fake.stopped.is_set()  # before the first command there is nothing to watch over
        robot.write(hal.Command(np.array([1.0, 1.0, 0.0])))
        assert fake.stopped.wait(PATIENCE)
        until(lambda: robot.health().state == "degraded", fake.stepped)
        assert "watchdog" in robot.health().detail
        assert (robot.read().position[:2] < 1.0).all()
        robot.write(hal.Command(robot.read().position))
        assert robot.health().state == "ok"


def test_before_the_first_command_nothing_trips() -> None:
    fake = FakeRobot(small_spec(watchdog_s=0.05))
    with hal.RealTime(fake, period=0.01) as robot:
        for _ in range(12):  # longer than the watchdog
            fake.stepped.clear()
            assert fake.stepped.wait(PATIENCE)
        assert robot.health().state == "ok"
        assert not fake.stopped.is_set()


@pytest.mark.parametrize("error", [hal.RobotFault("it broke"), ZeroDivisionError("a bug")])
def test_a_failing_step_is_a_fault(error: Exception) -> None:
    fake = FakeRobot(small_spec())
    with hal.RealTime(fake) as robot:
        until(lambda: True, fake.stepped)
        fake.step_error = error
        with pytest.raises(hal.RobotFault, match=str(error)):
            while True:
                robot.read()
        assert robot.health().state == "fault"
        assert str(error) in robot.health().detail
        with pytest.raises(hal.RobotFault, match=str(error)):
            robot.read()
        with pytest.raises(hal.RobotFault, match=str(error)):
            robot.write(hal.Command(fake.spec.home))
        robot.stop()
    assert robot.health().state == "disconnected"
    fake.step_error = None
    with robot:  # and it can be connected again
        until(lambda: True, fake.stepped)
        assert robot.health().state == "ok"


def test_a_clock_that_was_held_up_loses_time_and_says_so() -> None:
    class Slow(FakeRobot):
        def step(self, dt: float) -> None:
            if not self.stepped.is_set():
                threading.Event().wait(0.2)  # what a blocked machine does to a process
            super().step(dt)

    fake = Slow(small_spec())
    with hal.RealTime(fake, period=0.005, catch_up=0.02) as robot:
        assert fake.stepped.wait(PATIENCE)
        until(lambda: robot.missed > 0, fake.stepped)
        assert robot.missed >= 20


def test_capabilities() -> None:
    robot = hal.RealTime(hal.make_robot(hal.load_spec("panda")))
    assert robot.capability(Steppable) is None
    assert robot.capability(Scene) is robot
    assert robot.capability(Renderable) is robot
    assert robot.capability(Tunable) is robot
    fake = hal.RealTime(FakeRobot(small_spec()))
    assert fake.capability(Scene) is None
    with pytest.raises(hal.DriverError, match="has no Scene"):
        fake.tcp()
    with pytest.raises(hal.DriverError, match="needs a robot that can be stepped"):
        hal.RealTime(robot)


def test_the_scene_of_a_running_robot() -> None:
    spec = hal.load_spec("panda")
    with hal.RealTime(hal.make_robot(spec)) as robot:
        position = spec.home + np.array([0.3, 0, 0, 0, 0, 0, 0, 0])
        robot.set_state(position, {})
        assert robot.read().position == pytest.approx(position, abs=1e-6)
        tcp = hal.Chain(spec).position(position[None, :7])[0]
        assert robot.tcp()[0] == pytest.approx(tcp, abs=1e-6)


def test_no_thread_is_left() -> None:
    robot = hal.RealTime(FakeRobot(small_spec()))
    for _ in range(3):
        robot.connect()
        robot.connect()
        robot.close()
        robot.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("realtime")]
