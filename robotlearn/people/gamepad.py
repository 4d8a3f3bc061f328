"""`Gamepad`: a game controller through Linux's joystick interface, /dev/input/js*."""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections import deque
from pathlib import Path

from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import ANGULAR, LINEAR, Device, Event, Intent, OnEStop
from robotlearn.people.reader import Reader

_EVENT = struct.Struct("IhBB")  # js_event of linux/joystick.h: time [ms], value, type, number
_BUTTON, _AXIS, _INIT = 0x01, 0x02, 0x80
_FULL = 32767
_DEAD = 0.12  # share of a stick's way in which it counts as let go
_LEFT_X, _LEFT_Y, _LEFT_TRIGGER, _RIGHT_X, _RIGHT_Y, _RIGHT_TRIGGER, _PAD_X, _PAD_Y = range(8)


class Gamepad(Device):
    """Two sticks for the tool, triggers for the gripper; a shoulder button is the enable switch.

    Axes and buttons are numbered as the kernel's drivers xpad and playstation do; the buttons can be others.

    path: the device; by default the first /dev/input/js*. enable, estop, success, failure, discard, next: numbers of
    buttons. A pad that sends nothing changes nothing: a wireless one that is out of reach stays as it was until the
    kernel drops it, which may take seconds.

    Raises DeviceError when there is none, or it may not be read.
    """

    def __init__(
        self,
        on_estop: OnEStop,
        *,
        path: str | None = None,
        enable: int = 5,
        estop: int = 1,
        success: int = 3,
        failure: int = 2,
        discard: int = 6,
        next: int = 7,
    ) -> None:
        self._on_estop = on_estop
        self._enable, self._estop = enable, estop
        self._next = next
        self._marks = {success: Event.SUCCESS, failure: Event.FAILURE, discard: Event.DISCARD, next: Event.NEXT}
        if len({enable, estop, *self._marks}) < 6:
            raise DeviceError("gamepad: enable, estop, success, failure, discard, next must be six different buttons")
        self.path = path or _first()
        self._lock = threading.Lock()
        self._axes = [0.0] * 8
        self._axes[_LEFT_TRIGGER] = self._axes[_RIGHT_TRIGGER] = -1.0
        self._held: set[int] = set()
        self._events: deque[Event] = deque(maxlen=64)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            more = ": you need to be in the group input" if isinstance(error, PermissionError) else ""
            raise DeviceError(f"gamepad {self.path}: {error.strerror}{more}") from error
        self._reader = Reader(fd, 64 * _EVENT.size, self._hear)

    @property
    def help(self) -> tuple[str, ...]:
        return (
            f"hold button {self._enable} (right shoulder) to move   left stick: forth, back, left, right",
            "right stick: up, down, yaw   cross: roll, pitch   triggers: left opens, right closes",
            f"button {self._estop}: E-STOP   "
            + "   ".join(f"{number}: {event.value}" for number, event in self._marks.items()),
        )

    @property
    def go_on(self) -> str:
        return f"press button {self._next}"

    @property
    def marks(self) -> str:
        ends = (Event.SUCCESS, Event.FAILURE)
        return ", ".join(f"button {number}: {event.value}" for number, event in self._marks.items() if event in ends)

    def read(self) -> Intent:
        if self._reader.gone:
            raise DeviceError(f"gamepad {self.path} is gone: {self._reader.gone}")
        with self._lock:
            axes, enable = [_live(value) for value in self._axes], self._enable in self._held
            open_, close = ((self._axes[trigger] + 1) / 2 for trigger in (_LEFT_TRIGGER, _RIGHT_TRIGGER))
            events = tuple(self._events)
            self._events.clear()
        if not enable:
            return Intent(events=events)
        linear = (-axes[_LEFT_Y] * LINEAR, -axes[_LEFT_X] * LINEAR, -axes[_RIGHT_Y] * LINEAR)
        angular = (axes[_PAD_X] * ANGULAR, -axes[_PAD_Y] * ANGULAR, -axes[_RIGHT_X] * ANGULAR)
        return Intent(linear, angular, _live(open_) - _live(close), None, True, events)

    def close(self) -> None:
        self._reader.close()

    def _hear(self, data: bytes) -> None:
        for _, value, kind, number in _EVENT.iter_unpack(data[: len(data) // _EVENT.size * _EVENT.size]):
            self._take(value, kind, number)

    def _take(self, value: int, kind: int, number: int) -> None:
        pressed = kind == _BUTTON and value == 1  # not what was held already when it was opened
        if pressed and number == self._estop:
            self._on_estop("gamepad")
        with self._lock:
            if kind & ~_INIT == _AXIS and number < len(self._axes):
                self._axes[number] = max(-1.0, value / _FULL)
            elif kind & ~_INIT == _BUTTON:
                (self._held.add if value else self._held.discard)(number)
                if pressed and number in self._marks:
                    self._events.append(self._marks[number])


def _live(value: float) -> float:
    """Of a stick's way what is outside the dead zone, from 0 on."""
    return 0.0 if abs(value) < _DEAD else (value - _DEAD if value > 0 else value + _DEAD) / (1 - _DEAD)


def _first() -> str:
    found = sorted(path for path in Path("/dev/input").glob("js*") if stat.S_ISCHR(path.stat().st_mode))
    if not found:
        raise DeviceError("gamepad: there is no /dev/input/js*: plug one in, or name its path")
    return str(found[0])
