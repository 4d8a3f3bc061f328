"""Emulated SO-101 arms, and what a person's hand does to one; `ArmProcess` has one in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from hal.emulators import feetech
from hal.emulators.presence import Presence
from hal.emulators.so101 import EmulatedSO101

_RAD_PER_M = 1 / 0.0786  # of the jaw


class HandledArm(EmulatedSO101):
    """On a port in `folder`, calibrated for LeRobot under its name, from the constructor to `close`."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / f"port-{name}")
        calibration = folder / "calibration"
        self.write_calibration(calibration / f"{name}.json")
        self.options = {"port": str(folder / f"port-{name}"), "id": name, "calibration_dir": str(calibration)}
        self.start()

    @property
    def pose(self) -> np.ndarray:
        """(6,) rad, and m of the gripper."""
        with self.lock:
            return np.append(self.data.qpos[:5], self.data.qpos[5] / _RAD_PER_M)

    def put(self, pose: np.ndarray) -> None:
        """As a person's hand does, from whose grip it doesn't fall; with torque it then holds itself there."""
        with self.lock:
            self.model.opt.gravity[:] = 0
            self.data.qpos[:5] = pose[:5]
            self.data.qpos[5] = pose[5] * _RAD_PER_M
            self.data.qvel[:] = 0
            mujoco.mj_forward(self.model, self.data)
            for servo, tick in enumerate(self._ticks(), 1):
                feetech.GOAL.set(self.memory[servo], tick - feetech.OFFSET.get(self.memory[servo]))
                self._obey(servo)


class ArmProcess:
    """A `HandledArm` in a process of its own, which `robotlearn robots --scan` would find."""

    def __init__(self, folder: Path, name: str) -> None:
        command = [sys.executable, "-m", "tests.people.emulated", str(folder), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.options: dict[str, str] = self._ask(None)

    @property
    def pose(self) -> np.ndarray:
        return np.array(self._ask("pose"))

    def put(self, pose: np.ndarray) -> None:
        self._ask(list(pose))

    def close(self) -> None:
        """Its cable is pulled out, and all ends."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def _ask(self, request: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve(folder: Path, name: str) -> None:
    arm = HandledArm(folder, name)
    with Presence(name) as presence:
        presence.announce("so101", "lerobot", dict(arm.options))
        for line in sys.stdin:
            request = json.loads(line)
            if isinstance(request, list):
                arm.put(np.array(request))
            print(json.dumps(arm.options if request is None else list(arm.pose)), flush=True)
    arm.close()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2])
