"""`EmulatedSO101`: a MuJoCo SO-101 behind six STS3215 servos on an emulated bus."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import mujoco
import numpy as np

from hal.binding import Binding, load_model
from hal.emulators import feetech
from hal.emulators.feetech import FeetechBus
from hal.priority import EMULATOR, ask_for_priority
from hal.realtime import Pacer
from hal.spec import RobotSpec, load_spec

_STEPS = 4096  # of the encoder, per turn
_RAD = 2 * math.pi / _STEPS
_MIDDLE = 2047
_MODEL_NUMBER = 777  # STS3215
_VOLTS = 12.0
_NM_PER_A = 2.94 / 2.7  # stall torque over stall current at 12 V, of the data sheet
_AMBIENT, _HEATING, _WARM_S = 25.0, 10.0, 200.0  # [degrees C], [degrees C / A2], [s]: ours, for want of a source
_AMPERE = 0.0065  # of one unit of Present_Current
_REACT_S = 0.01  # [s] unit of Protection_Time


class EmulatedSO101:
    """Runs in real time from `start` to `close`; `bus` is what a host sees and where things can be made to go wrong.

    A servo without torque is limp; with torque it goes to its goal, within its limits. Where its load stays above
    Overload_Torque for Protection_Time it gives only Protective_Torque and says so in its status and each reply, until
    its power is switched off and on. Load, speed and position are the simulation's, temperature is first-order.

    model and data are MuJoCo's; `lock` must be held to look at them or to change them while it runs.
    """

    def __init__(self, port: Path) -> None:
        self.spec: RobotSpec = load_spec("so101")
        self.model = load_model(self.spec)
        self.data = mujoco.MjData(self.model)
        binding = Binding.of(self.spec, self.model)
        self._qpos = np.concatenate((binding.qpos, binding.gripper_qpos))
        self._dof = np.concatenate((binding.dof, binding.gripper_dof))
        self._actuators = np.concatenate((binding.actuators, binding.gripper_actuators))
        self._gain = self.model.actuator_gainprm[self._actuators].copy()
        self._bias = self.model.actuator_biasprm[self._actuators].copy()
        self._stall = self.model.jnt_actfrcrange[[self.model.dof_jntid[dof] for dof in self._dof], 1].copy()
        # A servo's zero is where LeRobot's calibration would put it: its range has the joint's in the middle.
        ranges = self.model.jnt_range[[self.model.dof_jntid[dof] for dof in self._dof]]
        self._middle = ranges.mean(axis=1)
        half = np.floor((ranges[:, 1] - ranges[:, 0]) / 2 / _RAD).astype(int)
        binding.write_qpos(self.spec.home, self.data.qpos)
        binding.write_ctrl(self.spec.home, self.data.ctrl)
        mujoco.mj_forward(self.model, self.data)
        self.lock = threading.Lock()
        self._temperature = np.full(len(self.spec.names), _AMBIENT)
        self._overloaded_for = np.zeros(len(self.spec.names))
        self.memory = {index + 1: _factory(index + 1, int(half[index])) for index in range(len(self.spec.names))}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.bus = FeetechBus(self, port)
        with self.lock:
            for servo, memory in self.memory.items():
                feetech.GOAL.set(memory, self._ticks()[servo - 1])
                self._obey(servo)

    def start(self) -> None:
        """Time begins to pass, and the port appears."""
        self._thread = threading.Thread(target=self._run, name="so101-emulator", daemon=True)
        self._thread.start()
        self.bus.plug_in()

    def close(self) -> None:
        self.bus.close()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def cycle_power(self) -> None:
        """The servos' power goes off and on: no torque, no error, and what isn't kept in EEPROM as it comes."""
        with self.lock:
            self._overloaded_for[:] = 0.0
            for servo, memory in self.memory.items():
                memory[feetech.TORQUE_ENABLE.address :] = _factory(servo, 0)[feetech.TORQUE_ENABLE.address :]
                feetech.TORQUE_ENABLE.set(memory, 0)
                feetech.GOAL.set(memory, self._ticks()[servo - 1] - feetech.OFFSET.get(memory))
                feetech.TORQUE_LIMIT.set(memory, feetech.MAX_TORQUE.get(memory))
                self._obey(servo)

    def write_calibration(self, file: Path) -> None:
        """LeRobot's calibration file for these servos."""
        content = {
            name: {
                "id": servo,
                "drive_mode": 0,
                "homing_offset": feetech.OFFSET.get(memory),
                "range_min": feetech.LOWER.get(memory),
                "range_max": feetech.UPPER.get(memory),
            }
            for name, (servo, memory) in zip(self.spec.names, self.memory.items(), strict=True)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=4))

    def refresh(self) -> None:
        with self.lock:
            ticks = self._ticks()
            speed = np.rint(self.data.qvel[self._dof] / _RAD).astype(int)
            torque = self.data.actuator_force[self._actuators]
            for index, memory in enumerate(self.memory.values()):
                feetech.POSITION.set(memory, ticks[index] - feetech.OFFSET.get(memory))
                feetech.VELOCITY.set(memory, int(np.clip(speed[index], -32767, 32767)))
                feetech.LOAD.set(memory, int(np.clip(1000 * torque[index] / self._stall[index], -1000, 1000)))
                feetech.CURRENT.set(memory, round(abs(torque[index]) / _NM_PER_A / _AMPERE))
                feetech.VOLTAGE.set(memory, round(10 * _VOLTS))
                feetech.TEMPERATURE.set(memory, round(self._temperature[index]))
                feetech.MOVING.set(memory, int(abs(speed[index]) > 5))

    def written(self, servo: int, address: int, size: int) -> None:
        with self.lock:
            self._obey(servo)

    def _obey(self, servo: int) -> None:
        """Make the simulated servo what its registers say."""
        index, memory = servo - 1, self.memory[servo]
        lower, upper = feetech.LOWER.get(memory), feetech.UPPER.get(memory)
        goal = feetech.GOAL.get(memory)
        if lower < upper:
            goal = min(max(goal, lower), upper)
        actuator = self._actuators[index]
        self.data.ctrl[actuator] = (goal + feetech.OFFSET.get(memory) - _MIDDLE) * _RAD + self._middle[index]
        on = feetech.TORQUE_ENABLE.get(memory) == 1 and feetech.MODE.get(memory) == 0
        self.model.actuator_gainprm[actuator] = self._gain[index] * on
        self.model.actuator_biasprm[actuator] = self._bias[index] * on
        share = min(feetech.MAX_TORQUE.get(memory), feetech.TORQUE_LIMIT.get(memory)) / 1000
        if feetech.STATUS.get(memory) & feetech.OVERLOAD:
            share = min(share, feetech.PROTECTIVE_TORQUE.get(memory) / 100)
        self.model.actuator_forcelimited[actuator] = 1
        self.model.actuator_forcerange[actuator] = np.array([-share, share]) * self._stall[index]

    def _ticks(self) -> list[int]:
        """Actual_Position of each servo: what the encoder says, before the homing offset."""
        angle = self.data.qpos[self._qpos] - self._middle
        return [int(value) for value in np.rint(angle / _RAD) + _MIDDLE]

    def _run(self) -> None:
        ask_for_priority(EMULATOR)
        dt = self.model.opt.timestep
        pacer = Pacer(time.monotonic(), dt, 0.1)
        while not self._stop.wait(pacer.next(time.monotonic())):
            with self.lock:
                mujoco.mj_step(self.model, self.data)
                self._protect(dt)

    def _protect(self, dt: float) -> None:
        torque = np.abs(self.data.actuator_force[self._actuators])
        current = torque / _NM_PER_A
        self._temperature += (_AMBIENT + _HEATING * current**2 - self._temperature) * dt / _WARM_S
        for index, memory in enumerate(self.memory.values()):
            above = torque[index] > feetech.OVERLOAD_TORQUE.get(memory) / 100 * self._stall[index]
            self._overloaded_for[index] = self._overloaded_for[index] + dt if above else 0.0
            status, patience = feetech.STATUS.get(memory), feetech.PROTECTION_TIME.get(memory) * _REACT_S
            if self._overloaded_for[index] >= patience and not status & feetech.OVERLOAD:
                feetech.STATUS.set(memory, status | feetech.OVERLOAD)
                self._obey(index + 1)


def _factory(servo: int, half: int) -> bytearray:
    """The memory of a servo as it comes, calibrated to a range of `half` steps either way."""
    memory = bytearray(feetech.MEMORY)
    for register, value in (
        (feetech.FIRMWARE, 3 + (10 << 8)),
        (feetech.MODEL, _MODEL_NUMBER),
        (feetech.ID, servo),
        (feetech.REPLIES, 1),
        (feetech.LOWER, _MIDDLE - half),
        (feetech.UPPER, _MIDDLE + half),
        (feetech.MAX_TORQUE, 1000),
        (feetech.PROTECTIVE_TORQUE, 20),
        (feetech.PROTECTION_TIME, 200),
        (feetech.OVERLOAD_TORQUE, 80),
        (feetech.TORQUE_LIMIT, 1000),
        (feetech.TORQUE_ENABLE, 1),  # holding, as the last host left it
        (feetech.VOLTAGE, 120),
    ):
        register.set(memory, value)
    return memory
