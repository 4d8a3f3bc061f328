"""Whatever is commanded, the goals in the registers of an emulated bus behind LeRobot's own driver keep the limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hal
from hal.emulators import feetech
from hal.emulators.so101 import EmulatedSO101
from hal.robot import Array
from tests.arms import fast_spec
from tests.hal.hostile import Arrived, Device, attack_device

pytest.importorskip("lerobot")
pytestmark = pytest.mark.xdist_group("lerobot")  # importing it takes seconds

STEP = 2 * np.pi / 4096  # [rad] of the encoder: what a goal is rounded to


class Bus:
    """An emulated arm whose goals are kept as they come: all six of each packet, converted by the servos' own units."""

    def __init__(self, folder: Path) -> None:
        self.arm = EmulatedSO101(folder / "port")
        self.arm.write_calibration(folder / "calibration" / "bench.json")
        self.options = {"port": str(folder / "port"), "id": "bench", "calibration_dir": str(folder / "calibration")}
        closed, opened = (limit.get(self.arm.memory[6]) for limit in (feetech.LOWER, feetech.UPPER))
        hand = self.arm.model.jnt_range[5]
        width = (hand[1] - hand[0]) * 0.0786  # [m] the jaws' way: the spec's gripper_width_scale
        self.quantum = np.append(np.full(5, STEP), width / (opened - closed))
        self._zero = np.append(np.full(5, 2047), closed)
        self.arrived = Arrived()
        self._obey, self.arm.written = self.arm.written, self._written  # type: ignore[method-assign]
        self.arm.start()

    def rad(self, register: feetech.Register) -> Array:
        steps = np.array([register.get(memory) for memory in self.arm.memory.values()])
        return (steps - self._zero) * self.quantum

    def _written(self, servo: int, address: int, size: int) -> None:
        self._obey(servo, address, size)
        if servo != 6:  # the last of a packet to all, and of those that LeRobot tells one by one
            return
        torque = feetech.TORQUE_ENABLE.get(self.arm.memory[servo])
        if address == feetech.GOAL.address and torque:
            self.arrived.take(self.rad(feetech.GOAL))
        elif address == feetech.TORQUE_ENABLE.address and torque:
            self.arrived.ready(self.rad(feetech.GOAL))
        elif address == feetech.TORQUE_ENABLE.address:
            self.arm.refresh()
            self.arrived.take(self.rad(feetech.POSITION))


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    made = Bus(tmp_path)
    yield made
    made.arm.close()


def attacked(bus: Bus, folder: Path, seed: int, on_stop: str) -> None:
    patience = 0.06 if on_stop == "brake" else 20.0  # in the first case what comes late is a stop, too
    spec = fast_spec(driver_hz=200.0, control_hz=40.0, watchdog_s=patience, on_stop=on_stop)
    device = Device(bus.arrived, bus.arm.bus.unplug, bus.arm.bus.plug_in, bus.quantum)
    stretches = attack_device(hal.make_robot(spec, "lerobot", **bus.options), device, folder, seed=seed)
    assert len(stretches) == (2 if on_stop == "brake" else 4)
    assert max(np.ptp(one.path, axis=0).max() for one in stretches) > 0.1


@pytest.mark.parametrize("on_stop", ["brake", "hold", "limp"])
def test_no_commands_make_a_goal_leave_the_limits(bus: Bus, tmp_path: Path, on_stop: str) -> None:
    attacked(bus, tmp_path, 2, on_stop)


@pytest.mark.slow
@pytest.mark.parametrize("on_stop", ["brake", "hold", "limp"])
@pytest.mark.parametrize("seed", range(10, 12))
def test_no_more_commands_do(bus: Bus, tmp_path: Path, on_stop: str, seed: int) -> None:
    attacked(bus, tmp_path, seed, on_stop)
