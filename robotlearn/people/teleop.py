"""`robotlearn teleop`: a person drives an arm, real or simulated, by the clock."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag

import numpy as np

from envs.control import JointDeltaControl
from hal.errors import LeaseError, Stopped
from hal.kinematics import Chain
from hal.robot import Command
from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Event, Intent
from robotlearn.people.mapping import Mapping
from robotlearn.people.taken import Taken

_ONE = np.zeros(1, np.int64)
_SHOWN_S = 0.5  # for which a limit that was hit is shown


class Teleoperation:
    """Drives until the person quits, `stop` is set, or the device is gone: then the arm brakes and stays.

    Whatever stops the arm meanwhile (e-stop, watchdog, a blocked joint) is told, and what ends it: `Event.CLEAR` an
    e-stop, `Event.NEXT` anything else. A leader is crept to anew after each.

    device: of whoever made it; its e-stop presses `taken`'s.
    """

    def __init__(self, taken: Taken, device: Device, *, speed: float, say: Callable[[str], object]) -> None:
        self._taken, self._device, self._say = taken, device, say
        self.spec, self._loop = taken.spec, taken.loop
        self._chain = Chain(self.spec)
        self._mapping = Mapping(self.spec, speed, self._chain)
        self._control = JointDeltaControl(self.spec, 1)
        self._enabled = self._leading = False
        self._limited = 0.0
        self._stopped = ""
        self.missed = 0
        """Control ticks that went by unused."""

    def run(self, stop: Flag) -> None:
        """Blocks. Raises RobotFault when the robot fails, DeviceError when the device is gone."""
        self._start()
        while not stop.is_set():
            try:
                intent = self._device.read()
            except DeviceError:
                self._loop.stop()
                raise
            if Event.QUIT in intent.events:
                break
            if Event.CLEAR in intent.events:
                self._clear()
            elif self._stopped and Event.NEXT in intent.events:
                self._go_on()
            if not self._stopped:
                self._drive(intent)
            self.missed += self._loop.wait()
        self._loop.stop()

    def line(self) -> str:
        """How it stands, in one line; may be called from any thread."""
        reading = self._loop.read()
        joints = reading.position[: len(self.spec.joints)]
        tool = self._chain.position(joints[None])[0]
        parts = [
            "E-STOP" if self._taken.estop.pressed else "stopped" if self._stopped else self._doing(),
            *["LIMIT"] * (self._limited > 0),
            "tool " + " ".join(f"{value:+.3f}" for value in tool) + " m",
        ]
        if self.spec.gripper is not None:
            parts.append(f"gripper {1000 * reading.position[-1]:.0f} mm")
        parts.append(f"missed {self.missed}")
        health = self._loop.health()
        parts += [health.detail or health.state] * (health.state != "ok" and not self._stopped)
        return " | ".join([*parts, "joints " + " ".join(f"{value:+.2f}" for value in joints)])

    def _doing(self) -> str:
        if not self._enabled:
            return "waits for you"
        return "creeps to the leader" if self._leading and self._mapping.creeping else "driven"

    def _start(self) -> None:
        self._control.reset(_ONE, self._loop.read().position[None])
        self._mapping.engage()
        self._device.release()
        self._enabled = False
        self._loop.skip()
        # A latched e-stop is found out by whoever moves first; the person should know before that.
        if self._taken.estop.pressed:
            self._note(self._taken.estop.reason())

    def _drive(self, intent: Intent) -> None:
        if intent.enable and not self._enabled:
            self._mapping.engage()
        self._enabled, self._leading = intent.enable, intent.target is not None
        before = self._control.set_point(_ONE)[0]
        action = self._mapping.action(intent, before) if intent.enable else self._mapping.rest(before)
        applied = self._control.apply(_ONE, action[None].astype(np.float32))
        hit = bool(applied.clipped[0]) and intent.enable and intent.moves
        self._limited = _SHOWN_S if hit else max(0.0, self._limited - self.spec.dt)
        try:
            self._loop.write(Command(applied.set_point[0]))
        except (Stopped, LeaseError) as error:
            self._note(str(error))

    def _note(self, why: str) -> None:
        self._stopped, self._enabled = why, False
        self._device.release()
        how = "type CLEAR, in capitals, to clear it" if self._taken.estop.pressed else "press Enter to go on"
        self._say(f"{why}: {how}")

    def _clear(self) -> None:
        if not self._taken.estop.pressed:
            return
        self._taken.estop.clear()
        if self._taken.estop.pressed:
            self._say(f"still pressed, for all robots: {self._taken.estop.reason()}: robotlearn estop --clear")
            return
        self._say("e-stop cleared")
        self._go_on()

    def _go_on(self) -> None:
        try:
            self._loop.rest()
        except Stopped as error:
            self._say(str(error))
            return
        self._stopped = ""
        self._start()
