"""`check_robot` passes what keeps the rules, and names each rule that a driver breaks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import hal
from tests.fakes import FakeRobot, small_spec


class NoSpec(FakeRobot):
    spec: Any = None

    def __init__(self, spec: hal.RobotSpec) -> None:
        super().__init__(spec)
        self.spec = "small"


class AlwaysWell(FakeRobot):
    def health(self) -> hal.Health:
        return hal.Health("ok")


class ReadsUnconnected(FakeRobot):
    def live(self) -> None:
        pass


class NeverWell(FakeRobot):
    def health(self) -> hal.Health:
        return hal.Health("fault" if self.connected else "disconnected")


class ConnectsOnce(FakeRobot):
    def connect(self) -> None:
        if self.connected:
            raise RuntimeError("port in use")
        super().connect()


class Altered(FakeRobot):
    """Its readings are changed in one field."""

    field, value = "position", None

    def read(self) -> hal.Reading:
        reading = super().read()
        fields = {name: getattr(reading, name) for name in ("position", "velocity", "monotonic", "wall", "images")}
        return hal.Reading(**(fields | {self.field: self.altered(fields[self.field])}))

    def altered(self, old: Any) -> Any:
        return self.value


class Float32(Altered):
    def altered(self, old: Any) -> Any:
        return old.astype(np.float32)


class Degrees(Altered):
    def altered(self, old: Any) -> Any:
        return np.rad2deg(old + 0.5)


class NotANumber(Altered):
    field = "velocity"

    def altered(self, old: Any) -> Any:
        return old * np.nan


class Listed(Altered):
    def altered(self, old: Any) -> Any:
        return list(old)


class WallForMonotonic(Altered):
    field = "monotonic"

    def altered(self, old: Any) -> Any:
        return time.time()


class MonotonicForWall(Altered):
    field = "wall"

    def altered(self, old: Any) -> Any:
        return time.monotonic() - 1e6


class Earlier(Altered):
    """A steppable robot measured before it was asked."""

    field, age = "monotonic", 0.5

    def altered(self, old: Any) -> Any:
        return old - self.age


class InItsOwnTime(Earlier):
    """One whose measurements arrive by themselves."""

    def capability(self, kind: type) -> Any:
        return None


class Stale(InItsOwnTime):
    age = 5.0


class UnknownCamera(Altered):
    field, value = "images", {"ear": np.zeros((6, 8, 3), np.uint8)}


class ChannelsFirst(Altered):
    field, value = "images", {"eye": np.zeros((3, 6, 8), np.uint8)}


class OneBuffer(FakeRobot):
    def read(self) -> hal.Reading:
        reading = super().read()
        self.buffer = getattr(self, "buffer", reading.position)
        self.buffer[:] = reading.position
        return hal.Reading(self.buffer, reading.velocity, reading.monotonic, reading.wall)


class TakesAnySize(FakeRobot):
    def write(self, command: hal.Command) -> None:
        self.live()
        if np.isfinite(command.target).all():
            self.target = np.resize(np.array(command.target), self.spec.dim)
        else:
            raise hal.DriverError("not finite")


class TakesNaN(FakeRobot):
    def write(self, command: hal.Command) -> None:
        self.live()
        if command.target.shape != (self.spec.dim,):
            raise hal.DriverError("size")
        self.target = np.nan_to_num(command.target)


class RaisesAnother(FakeRobot):
    def write(self, command: hal.Command) -> None:
        try:
            super().write(command)
        except hal.DriverError as error:
            raise KeyError("target") from error


class StepsInWrite(FakeRobot):
    def write(self, command: hal.Command) -> None:
        super().write(command)
        self.position = self.position + 1e-6


class KeepsTheArray(FakeRobot):
    def write(self, command: hal.Command) -> None:
        super().write(command)
        self.target = command.target


class Swapped(FakeRobot):
    def write(self, command: hal.Command) -> None:
        super().write(command)
        self.target = self.target[[1, 0, 2]] * [1, -1, 1]


class GoesOn(FakeRobot):
    def stop(self) -> None:
        self.target = self.spec.upper if self.connected else self.target

    def step(self, dt: float) -> None:
        super().step(dt / 20)


class Open(FakeRobot):
    def close(self) -> None:
        pass


BROKEN: list[tuple[type[FakeRobot], str]] = [
    (NoSpec, "spec is a RobotSpec"),
    (AlwaysWell, "health is 'disconnected' before connect"),
    (ReadsUnconnected, "read before connect raises DriverError: it was accepted"),
    (NeverWell, "health is 'ok' or 'degraded' after connect: it is 'fault'"),
    (ConnectsOnce, "connect: allowed calls raise nothing: RuntimeError"),
    (Float32, "position is a (3,) float64 array of finite numbers: it is float32"),
    (Listed, "position is a (3,) float64 array of finite numbers: it is list"),
    (NotANumber, "velocity is a (3,) float64 array of finite numbers: it is [nan"),
    (Degrees, "positions are within the spec's limits: shoulder is at 28.6"),
    (OneBuffer, "a reading's arrays aren't written again"),
    (WallForMonotonic, "monotonic is time.monotonic() of the measurement"),
    (Earlier, "monotonic is time.monotonic() of the measurement"),
    (Stale, "monotonic is time.monotonic() of the measurement"),
    (MonotonicForWall, "wall is time.time()"),
    (UnknownCamera, "images are of the spec's cameras: 'ear' is none"),
    (ChannelsFirst, "an image is uint8 (6, 8, 3): 'eye' is uint8 (3, 6, 8)"),
    (TakesAnySize, "write raises DriverError when the target is too long: it was accepted"),
    (TakesNaN, "write raises DriverError when the target is not finite: it was accepted"),
    (RaisesAnother, "write raises DriverError when the target is too short: it raised KeyError"),
    (StepsInWrite, "write never advances time: the arm moved by 1.00e-06"),
    (KeepsTheArray, "the arm goes to its set-points"),
    (Swapped, "the arm goes to its set-points"),
    (GoesOn, "stop brings the arm to a standstill"),
    (Open, "health is 'disconnected' after close"),
]


def test_a_good_robot_passes_and_is_closed() -> None:
    robot = FakeRobot(small_spec())
    hal.check_robot(robot)
    assert not robot.connected
    assert robot.writes


@pytest.mark.parametrize(("broken", "rule"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_each_breach_is_named(broken: type[FakeRobot], rule: str) -> None:
    with pytest.raises(hal.RobotCheckError) as caught:
        hal.check_robot(broken(small_spec()))
    assert rule in str(caught.value)
    assert "Consequence: " in str(caught.value)


def test_all_breaches_at_once() -> None:
    class Two(Float32, TakesNaN):
        pass

    with pytest.raises(hal.RobotCheckError, match=r"Two \(small\) breaks .* rule\(s\)") as caught:
        hal.check_robot(Two(small_spec()))
    assert "float32" in str(caught.value)
    assert "not finite" in str(caught.value)


def test_measurements_that_arrive_by_themselves_may_be_a_little_old():
    hal.check_robot(InItsOwnTime(small_spec()))
