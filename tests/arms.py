"""An arm with a time of its own that does at once what it is told, and writes it down; for control loops over it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import hal
from hal.robot import Array, C, Steppable
from tests.fakes import FakeRobot


def fast_spec(**changes: Any) -> hal.RobotSpec:
    """An SO-101 at 50 Hz that stops by holding its pose, so that nothing is written after a stop."""
    fast: dict[str, Any] = {"control_hz": 50.0, "watchdog_s": 2.0, "on_stop": "hold"}
    # Not model_copy: it would keep what was derived from the old values.
    return hal.RobotSpec.model_validate(hal.load_spec("so101").model_dump() | fast | changes)


class RecordingArm(FakeRobot):
    """`written` holds the time and target of each write, `stops` the times of stops. Exceptions put into `read_error`
    and `write_error` are raised there; `effort` is what it measures, and `stuck` keeps it where it is.
    """

    def __init__(self, spec: hal.RobotSpec, *, port: str = "") -> None:
        super().__init__(spec)
        self._port = port
        self.written: list[tuple[float, Array]] = []
        self.stops: list[float] = []
        self.effort: Array | None = None
        self.read_error: Exception | None = None
        self.write_error: Exception | None = None
        self.stuck = False

    def addresses(self) -> tuple[str, ...]:
        return (self._port,) if self._port else ()

    def capability(self, kind: type[C]) -> C | None:
        return None if kind is Steppable else super().capability(kind)

    def read(self) -> hal.Reading:
        self.live()
        if self.read_error is not None:
            raise self.read_error
        now = time.monotonic()
        images = {"front": np.full((128, 128, 3), len(self.written) % 256, np.uint8)}
        return hal.Reading(self.position.copy(), np.zeros(self.spec.dim), now, time.time(), images, self.effort)

    def write(self, command: hal.Command) -> None:
        if self.write_error is not None:
            raise self.write_error
        super().write(command)
        self.written.append((time.monotonic(), self.target))
        if not self.stuck:
            self.position = self.target

    def stop(self) -> None:
        self.stops.append(time.monotonic())
        super().stop()
