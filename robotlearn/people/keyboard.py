"""`Keyboard`: a terminal's keys as a device."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import ANGULAR, LINEAR, Device, Event, Intent, OnEStop
from robotlearn.people.terminal import Terminal, is_ours, options_in_a_run

HELD_S = 0.25
"""A terminal tells of presses only; one that is held repeats itself, as a rule 30 times a second."""
_LINGER_S = 1.0  # that motion keys count as enabling: longer than the pause before a key repeats itself
_WORD = "CLEAR"
_MOTION: Mapping[str, tuple[int, float]] = {
    "w": (0, LINEAR), "up": (0, LINEAR), "s": (0, -LINEAR), "down": (0, -LINEAR),
    "a": (1, LINEAR), "left": (1, LINEAR), "d": (1, -LINEAR), "right": (1, -LINEAR),
    "r": (2, LINEAR), "f": (2, -LINEAR),
    "u": (3, ANGULAR), "o": (3, -ANGULAR), "i": (4, ANGULAR), "k": (4, -ANGULAR), "j": (5, ANGULAR), "l": (5, -ANGULAR),
    "v": (6, 1.0), "c": (6, -1.0),
}  # fmt: skip
_EVENTS: Mapping[str, Event] = {
    "y": Event.SUCCESS,
    "n": Event.FAILURE,
    "backspace": Event.DISCARD,
    "enter": Event.NEXT,
    "q": Event.QUIT,
}
_MOTION_HELP = (
    "w s / up down: forth, back   a d / left right: left, right   r f: up, down   c v: close, open",
    "u o: roll   i k: pitch   j l: yaw",
)
_HELP = (
    "e: enable on, off   y: success   n: failure   Backspace: discard   Enter: go on   q: quit",
    "Space: E-STOP; the word CLEAR, in capitals, ends it",
)


class Keyboard(Device):
    """The keys of a terminal. A motion key moves the tool as long as it is held, to `HELD_S`.

    Enabled while a motion key is held and a second longer, or between two presses of `e`. Space is the e-stop; the word
    CLEAR, in capitals, clears it.

    terminal: the path of another terminal than standard input. motion: whether there are motion keys. clock: seconds,
    for tests.
    """

    def __init__(
        self,
        on_estop: OnEStop,
        *,
        terminal: str | None = None,
        motion: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_estop, self._clock = on_estop, clock
        self._motion = motion
        self._lock = threading.Lock()
        self._pressed: dict[str, float] = {}
        self._events: deque[Event] = deque(maxlen=64)
        self._latched = False
        self._typed = ""
        self._terminal = Terminal(self._hear, terminal)

    @property
    def help(self) -> tuple[str, ...]:
        return _help(self._motion)

    @property
    def marks(self) -> str:
        return "y: success, n: failure"

    def release(self) -> None:
        with self._lock:
            self._latched = False
            self._pressed.clear()

    def read(self) -> Intent:
        if self._terminal.gone:
            raise DeviceError(f"keyboard: the terminal is gone: {self._terminal.gone}")
        now = self._clock()
        axes = [0.0] * 7
        with self._lock:
            for key, at in self._pressed.items():
                if now - at < HELD_S:
                    index, speed = _MOTION[key]
                    axes[index] += speed
            enable = self._latched or any(now - at < _LINGER_S for at in self._pressed.values())
            events = tuple(self._events)
            self._events.clear()
        # Two keys of one direction are no faster than one.
        x, y, z = (max(-LINEAR, min(LINEAR, axis)) for axis in axes[:3])
        roll, pitch, yaw = (max(-ANGULAR, min(ANGULAR, axis)) for axis in axes[3:6])
        return Intent((x, y, z), (roll, pitch, yaw), axes[6], None, enable, events)

    def tell(self, text: str) -> None:
        self._terminal.tell(text)

    def close(self) -> None:
        self._terminal.close()

    def _hear(self, key: str) -> None:
        if key == "space":
            self._on_estop("keyboard")
        with self._lock:
            self._typed = (self._typed + key)[-len(_WORD) :] if len(key) == 1 and key.isupper() else ""
            if self._typed == _WORD:
                self._events.append(Event.CLEAR)
            elif key in _MOTION and self._motion:
                self._pressed[key] = self._clock()
            elif key in _EVENTS:
                self._events.append(_EVENTS[key])
            elif key == "e":
                self._latched = not self._latched
                self._pressed.clear()
            elif key == "space":
                self._latched = False
                self._pressed.clear()


def keys_in_a_run(where: str, device: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """What an edge's person can press on the terminal of this command, which is to say so; () where they have another.

    Raises DeviceError as `options_in_a_run`.
    """
    terminal = options_in_a_run(where, device, options).get("terminal")
    return _help(device == "keyboard") if terminal is not None and is_ours(terminal) else ()


def _help(motion: bool) -> tuple[str, ...]:
    return (*_MOTION_HELP * motion, *_HELP)
