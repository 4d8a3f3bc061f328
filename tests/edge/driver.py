"""Drivers of a third party, installed beside a test: what reaches them from an arm process is written down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import make_task
from envs.scene import build_scene
from hal import Command, RobotSpec, Scene, load_spec
from hal.drivers.mujoco import MujocoRobot
from hal.robot import Array, C, Reading
from tests import fakes

NOTES = "ROBOTLEARN_TEST_NOTES"
HZ = 50.0


class Noting(MujocoRobot):
    """A simulated Panda that notes every call in the file named by the environment, one name a line."""

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec, build_scene(spec, make_task("reach", spec)))

    def note(self, call: str) -> None:
        with open(os.environ[NOTES], "a") as stream:
            stream.write(call + "\n")

    def connect(self) -> None:
        super().connect()
        self.note("connect")

    def read(self) -> Reading:
        self.note("read")
        return super().read()

    def write(self, command: Command) -> None:
        self.note("write")
        super().write(command)

    def set_state(self, position: Array, objects: Mapping[str, Array]) -> None:
        self.note("set_state")
        super().set_state(position, objects)

    def step(self, dt: float) -> None:
        self.note("step")
        super().step(dt)

    def close(self) -> None:
        self.note("close")
        super().close()


class Blind(Noting):
    """As a real arm without cameras on its objects."""

    def capability(self, kind: type[C]) -> C | None:
        return None if kind is Scene else super().capability(kind)


class Seeing(Blind):
    """As such an arm with a camera, before which nothing ever changes."""

    def read(self) -> Reading:
        return replace(super().read(), images={"front": np.full((128, 128, 3), 99, np.uint8)})


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make the drivers `noting`, `blind` and `seeing` known in this process and in those that it starts."""
    info = folder / "noting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[robotlearn.drivers]\nnoting = tests.edge.driver:Noting\nblind = tests.edge.driver:Blind\n"
        "seeing = tests.edge.driver:Seeing\n"
    )
    root = Path(__file__).parents[2]
    patch.syspath_prepend(folder)
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root)]))
    patch.setenv(NOTES, str(folder / "notes"))


def notes(folder: Path) -> list[str]:
    """What was called since `connect`, in order."""
    calls = (folder / "notes").read_text().split()
    return calls[len(calls) - calls[::-1].index("connect") :]


def write_spec(path: Path, **changes: Any) -> Path:
    """The Panda, faster, so that tests are."""
    return fakes.write_spec(path, load_spec("panda"), **{"control_hz": HZ, "watchdog_s": 2.0} | changes)
