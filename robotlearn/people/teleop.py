"""`robotlearn teleop`: a person drives an arm, real or simulated, by the clock."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag

import numpy as np

from envs.control import JointDeltaControl
from hal.errors import LeaseError, RobotFault, Stopped
from hal.robot import Command
from hal.spec import load_spec
from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Event, Intent
from robotlearn.people.mapping import Mapping
from robotlearn.people.options import Options
from robotlearn.people.session import session, stop_on_hangup
from robotlearn.people.taken import Taken
from robotlearn.processes import freeze_heap

_ONE = np.zeros(1, np.int64)
_SHOWN_S = 0.5  # for which a limit that was hit is shown


def teleop(robot: str, options: Options) -> None:
    """The command. Raises what makes it impossible, each with one line for its user."""
    stop, spec = stop_on_hangup(), load_spec(robot)
    with session(spec, options, stop, holder="teleop") as (taken, hands, status, _):
        driving = Teleoperation(taken, hands, speed=options.speed, say=status.say)
        status.line = driving.line
        status.say(f"{taken.name}: at {options.speed:.0%} of its speeds")
        freeze_heap()
        driving.run(stop)


class Teleoperation:
    """Drives until the person quits, `stop` is set, or the device is gone: then the arm brakes and stays.

    Whatever stops the arm meanwhile (e-stop, watchdog, a blocked joint) is told, and what ends it: `Event.CLEAR` an
    e-stop, `Event.NEXT` anything else. A leader is crept to anew after each.

    device: of whoever made it; its e-stop presses `taken`'s.
    """

    def __init__(self, taken: Taken, device: Device, *, speed: float, say: Callable[[str], object]) -> None:
        self._taken, self._device, self._say = taken, device, say
        self.spec, self._loop = taken.spec, taken.loop
        self._mapping = Mapping(self.spec, speed)
        self._control = JointDeltaControl(self.spec, 1)
        self._enabled = self._leading = False
        self._held = True
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
            if Event.CLEAR in intent.events and self._taken.clear(self._say):
                self._say("e-stop cleared")
                self._go_on()
            elif self._stopped and Event.NEXT in intent.events:
                self._go_on()
            if not self._stopped:
                self._drive(intent)
            self.missed += self._loop.wait()
        self._loop.stop()

    def line(self) -> str:
        """How it stands, in one line; may be called from any thread."""
        try:
            reading = self._loop.read()
        except RobotFault as error:
            return str(error)
        joints = reading.position[: len(self.spec.joints)]
        tool = self._mapping.chain.position(joints[None])[0]
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
            return "let go" if self._held else "waits for you"
        return "creeps to the leader" if self._leading and self._mapping.creeping else "driven"

    def _start(self) -> None:
        self._control.reset(_ONE, self._loop.read().position[None])
        self._mapping.engage()
        self._device.release()
        self._enabled, self._held = False, True
        self._loop.skip()
        # A latched e-stop is found out by whoever moves first; the person should know before that.
        if self._taken.estop.pressed:
            self._note(self._taken.estop.reason())

    def _drive(self, intent: Intent) -> None:
        # A switch held since before a start, or a stop, moves nothing until it was let go of.
        self._held = self._held and intent.enable
        enable = intent.enable and not self._held
        if enable and not self._enabled:
            self._mapping.engage()
        self._enabled, self._leading = enable, intent.target is not None
        before = self._control.set_point(_ONE)[0]
        action = self._mapping.action(intent, before) if enable else self._mapping.rest(before)
        applied = self._control.apply(_ONE, action[None].astype(np.float32))
        hit = bool(applied.clipped[0]) and enable and intent.moves
        self._limited = _SHOWN_S if hit else max(0.0, self._limited - self.spec.dt)
        try:
            self._loop.write(Command(applied.set_point[0]))
        except (Stopped, LeaseError) as error:
            self._note(str(error))

    def _note(self, why: str) -> None:
        self._stopped, self._enabled = why, False
        self._device.release()
        self._say(f"{why}: {self._taken.remedy}")

    def _go_on(self) -> None:
        try:
            self._loop.rest()
        except Stopped as error:
            self._say(str(error))
            return
        self._stopped = ""
        self._start()
