"""Robots generated from specs, without physics. They validate what they get, and can be made to break one rule each."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import yaml

import hal
from hal.robot import Array


def small_spec(**changes: object) -> hal.RobotSpec:
    """A made-up arm of two joints and a gripper, without any model; `changes` replace top-level keys."""
    joint = {"lower": -1.0, "upper": 1.0, "velocity": 2.0, "acceleration": 10.0, "effort": 5.0, "home": 0.0}
    content: dict[str, object] = {
        "name": "small",
        "maker": "nobody",
        "joints": ({"name": "shoulder", **joint}, {"name": "elbow", **joint}),
        "gripper": {
            "name": "gripper",
            "lower": 0.0,
            "upper": 0.1,
            "velocity": 0.1,
            "acceleration": 1.0,
            "force": 10.0,
            "home": 0.1,
        },
        "cameras": ({"name": "eye", "width": 8, "height": 6, "fps": 10.0},),
        "control_hz": 20.0,
        "watchdog_s": 0.5,
        "workspace": {"lower": (-1.0, -1.0, -1.0), "upper": (1.0, 1.0, 1.0)},
        "driver": "fake",
    }
    return hal.RobotSpec.model_validate(content | changes)


def write_spec(path: Path, spec: hal.RobotSpec, **changes: object) -> Path:
    """The file of a spec, whose top-level keys `changes` replace; whether it is valid then is the reader's business."""
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json") | changes))
    return path


class FakeRobot(hal.Robot):
    """A Steppable robot whose joints follow their set-points at the spec's speed. Everything it gets is validated.

    `stopped` is set by `stop`; `writes` keeps the targets; an exception put into `step_error` is raised by `step`.
    """

    def __init__(self, spec: hal.RobotSpec) -> None:
        self.spec = spec
        self.connected = False
        self.writes: list[Array] = []
        self.stopped = threading.Event()
        self.stepped = threading.Event()
        self.step_error: Exception | None = None
        self.target = self.position = spec.home.copy()
        self.speed = np.zeros(spec.dim)

    def connect(self) -> None:
        self.connected = True

    def read(self) -> hal.Reading:
        self.live()
        image = np.zeros((6, 8, 3), np.uint8)
        return hal.Reading(self.position.copy(), self.speed.copy(), time.monotonic(), time.time(), {"eye": image})

    def write(self, command: hal.Command) -> None:
        self.live()
        target = np.array(command.target, dtype=np.float64)
        if target.shape != (self.spec.dim,) or not np.isfinite(target).all():
            raise hal.DriverError(f"bad target {target}")
        self.writes.append(target)
        self.target = target

    def stop(self) -> None:
        self.stopped.set()
        self.target = self.position.copy()

    def close(self) -> None:
        self.connected = False

    def health(self) -> hal.Health:
        return hal.Health("ok" if self.connected else "disconnected")

    def step(self, dt: float) -> None:
        self.live()
        if self.step_error is not None:
            raise self.step_error
        way = np.clip(self.target - self.position, -self.spec.velocity * dt, self.spec.velocity * dt)
        self.position, self.speed = self.position + way, way / dt
        self.stepped.set()

    def live(self) -> None:
        if not self.connected:
            raise hal.DriverError("not connected")
