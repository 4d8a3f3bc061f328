"""`EStopInput`: a real button as e-stop: a key of an input device, or a contact between two pins of a serial port."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import logging
import os
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from hal.errors import DriverError, nearest

logger = logging.getLogger(__name__)

POLL_S = 0.005
_HANGS_S = 1.0  # without a look
_ASKED_S = 0.25  # who asks less often wasn't running either: the machine hung
_AGAIN_S = 1.0  # between two tries to open a contact that is gone
_EVENT = struct.Struct("llHHi")  # input_event of linux/input.h: time (2), type, code, value
_SYN, _KEY, _SYN_DROPPED = 0x00, 0x01, 3
_KEYS = 0x300  # of linux/input-event-codes.h
_GET_KEYS = (2 << 30) | (_KEYS // 8 << 16) | (ord("E") << 8) | 0x18  # EVIOCGKEY
_LINES = ("cts", "dsr", "cd", "ri")


_LETTERS = {16: "QWERTYUIOP", 30: "ASDFGHJKL", 44: "ZXCVBNM"}
KEYS = {
    **{f"KEY_{letter}": first + index for first, row in _LETTERS.items() for index, letter in enumerate(row)},
    **{f"KEY_{digit}": 1 + (digit or 10) for digit in range(10)},
    **{f"KEY_F{number}": 58 + number for number in range(1, 11)},
    **{f"KEY_F{number}": 76 + number for number in (11, 12)},
    **{f"KEY_F{number}": 170 + number for number in range(13, 25)},
    **{f"BTN_{number}": 0x100 + number for number in range(10)},
    **dict(KEY_ESC=1, KEY_BACKSPACE=14, KEY_TAB=15, KEY_ENTER=28, KEY_SPACE=57, KEY_KPENTER=96, KEY_PAUSE=119),
    **dict(KEY_STOP=128, KEY_POWER=116, BTN_LEFT=0x110, BTN_RIGHT=0x111, BTN_MIDDLE=0x112, BTN_TRIGGER=0x120),
    **dict(BTN_THUMB=0x121, BTN_THUMB2=0x122, BTN_TOP=0x123, BTN_SOUTH=0x130, BTN_EAST=0x131, BTN_NORTH=0x133),
}
"""Those keys of linux/input-event-codes.h that make sense here; any other has its number."""


class Contact(ABC):
    """What a button does to a wire. Used by one thread; an OSError means that it can't be told: that is pressed."""

    @abstractmethod
    def open(self) -> None:
        """Anew, if need be. Raises OSError."""

    @abstractmethod
    def pressed(self) -> bool:
        """Whether it is pressed now; returns within a millisecond. Raises OSError when it is gone."""

    @abstractmethod
    def close(self) -> None:
        """Idempotent."""


class KeyContact(Contact):
    """A key of a Linux input device: a USB button, a pedal, a keyboard.

    device: such as /dev/input/by-id/...-event-kbd. key: its name in the kernel, such as KEY_SPACE, or its number; None:
    any. released: pressed is when the key is up, which a cut wire is as well: the better wiring of the two.

    Raises DriverError for an unknown key.
    """

    def __init__(self, device: str, key: str | int | None = None, *, released: bool = False) -> None:
        if isinstance(key, str) and key not in KEYS:
            raise DriverError(f"{device}: unknown key {key!r}: {nearest(key, KEYS)}; or give its number")
        self._code = KEYS[key] if isinstance(key, str) else key
        if self._code is not None and not 0 < self._code < _KEYS:
            raise DriverError(f"{device}: key is {key}, expected a number from 1 to {_KEYS - 1}")
        self.device, self._released = device, released
        self._fd = -1
        self._down: set[int] = set()

    def open(self) -> None:
        self.close()
        self._fd = os.open(self.device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._down = self._all_down()

    def pressed(self) -> bool:
        while True:
            try:
                data = os.read(self._fd, 64 * _EVENT.size)
            except BlockingIOError:
                break
            if not data:
                raise OSError(errno.ENODEV, "it was unplugged")
            for _, _, kind, code, value in _EVENT.iter_unpack(data[: len(data) // _EVENT.size * _EVENT.size]):
                if kind == _KEY:
                    (self._down.add if value else self._down.discard)(code)
                elif kind == _SYN and code == _SYN_DROPPED:  # more came than the kernel keeps
                    self._down = self._all_down()
        down = bool(self._down) if self._code is None else self._code in self._down
        return down != self._released

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _all_down(self) -> set[int]:
        bits = bytearray(_KEYS // 8)
        try:
            fcntl.ioctl(self._fd, _GET_KEYS, bits)
        except OSError as error:
            if error.errno != errno.ENOTTY:  # what only passes events on, such as a pipe, can't be asked
                raise
        return {8 * index + bit for index, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}


class SerialContact(Contact):
    """A button that opens the way from DTR or RTS, which are set, to an input line of a serial port.

    An open circuit is pressed: that of a button that breaks it (normally closed, as e-stops are), of a cut cable, of a
    port that is gone. port: such as /dev/ttyUSB0. line: cts, dsr, cd or ri.

    Raises DriverError: no such line, or pyserial is missing.
    """

    def __init__(self, port: str, line: str = "cts") -> None:
        if line not in _LINES:
            raise DriverError(f"{port}: unknown line {line!r}: {nearest(line, _LINES)}")
        try:
            self._make: Callable[[str], Any] = importlib.import_module("serial").Serial
        except ImportError:
            raise DriverError(f"{port}: a serial line needs pyserial: pip install pyserial") from None
        self.port, self._line = port, line
        self._port: Any = None

    def open(self) -> None:
        self.close()
        self._port = self._make(self.port)  # its SerialException is an OSError
        self._port.dtr = self._port.rts = True

    def pressed(self) -> bool:
        return not self.closed_circuit()

    def closed_circuit(self) -> bool:
        """Whether the line is set."""
        return bool(getattr(self._port, self._line))

    def close(self) -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):
                self._port.close()
        self._port = None


class EStopInput:
    """Looks at a contact 200 times a second, on a thread of its own, from the constructor to `close`.

    press: called with the reason when the contact is pressed, and again ten times a second as long as it is, so that an
    e-stop can't be cleared under a pressed button. A contact that can't be opened or read is pressed.

    Call `alive` where it matters that this thread isn't stuck in a driver. What `press` raises is logged.
    """

    def __init__(self, contact: Contact, press: Callable[[str], None]) -> None:
        self._contact, self._press = contact, press
        self._closing = threading.Event()
        self._looked = self._seen = self._asked = time.monotonic()
        self._silent = 0.0  # [s] for which someone asked, and it didn't look
        self._gone = "it was not opened yet"
        self._open_at = 0.0
        self._thread = threading.Thread(target=self._run, name="e-stop input", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether the contact was looked at within the last second. For one thread, which asks often.

        Of the time between two questions 0.25 s count: where all hung, as on a machine that was suspended, a button is
        looked at as soon as it goes on.
        """
        now, seen = time.monotonic(), self._looked
        self._silent = self._silent + min(now - self._asked, _ASKED_S) if seen == self._seen else 0.0
        self._asked, self._seen = now, seen
        return self._silent < _HANGS_S

    def close(self) -> None:
        """Idempotent."""
        self._closing.set()
        self._thread.join(_HANGS_S)
        self._contact.close()

    def _run(self) -> None:
        told = 0.0
        while not self._closing.wait(POLL_S):
            why = self._why()
            now = self._looked = time.monotonic()
            if not why:
                told = 0.0
            elif now - told > 0.1:
                told = now
                try:
                    self._press(why)
                except Exception:  # such as a full disk; the next time it may do
                    logger.exception("the e-stop was pressed, and can't be latched for other processes")

    def _why(self) -> str:
        """Why it counts as pressed; "" when it doesn't."""
        try:
            if self._gone:
                if time.monotonic() < self._open_at:
                    return self._gone
                self._contact.open()
            pressed, self._gone = self._contact.pressed(), ""
        except Exception as error:  # whatever it is: an e-stop that can't be read is pressed
            self._gone = f"its input is gone: {' '.join(str(error).split()) or type(error).__name__}"
            self._open_at = time.monotonic() + _AGAIN_S
            return self._gone
        return "button" if pressed else ""


def contact(options: Mapping[str, Mapping[str, Any]]) -> Contact:
    """`{evdev: {device: PATH, key: KEY_SPACE}}` or `{serial: {port: PATH, line: cts}}`, as configs have it: what
    `KeyContact` and `SerialContact` take. Raises DriverError.
    """
    kinds: dict[str, Callable[..., Contact]] = {"evdev": KeyContact, "serial": SerialContact}
    if len(options) != 1 or not set(options) <= set(kinds):
        raise DriverError(f"e-stop input: expected either evdev or serial, not {', '.join(options) or 'nothing'}")
    ((kind, rest),) = options.items()
    try:
        return kinds[kind](**rest)
    except TypeError as error:
        raise DriverError(f"e-stop input {kind}, called with {rest}: {error}") from None
