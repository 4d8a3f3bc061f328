"""`Terminal`: single key presses of a terminal, here or over ssh; it is as it was before, however its process ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any

from robotlearn.people.errors import DeviceError

_KEYS = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)
_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_NAMES = {
    **{f"\x1b{kind}{end}": name for kind in "[O" for end, name in _ARROWS.items()},
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    " ": "space",
}
# Kept by a process of its own: a killed one can't put anything back. In a session of its own no job control stops it.
_GUARDIAN = """
import os, sys, termios
terminal, pipe = int(sys.argv[1]), int(sys.argv[2])
before = termios.tcgetattr(terminal)
os.write(1, b"x")
if not os.read(pipe, 1):
    try:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    except termios.error:
        pass
"""


class Terminal:
    """From the constructor to `close`: keys arrive without Enter and aren't echoed; Ctrl-C still interrupts.

    heard: called per key, on a thread of this object's: a character, or `up`, `down`, `left`, `right`, `enter`,
    `space`, `backspace`. path: of the terminal, such as /dev/pts/3; by default that of standard input.

    Ctrl-Z and Ctrl-S do nothing meanwhile: a process that commands an arm must not be put to sleep.

    Raises DeviceError when there is no terminal.
    """

    def __init__(self, heard: Callable[[str], None], path: str | None = None) -> None:
        self.gone = False
        """Whether it was hung up: nothing comes from it any more."""
        self._heard = heard
        self._closed = False
        self._fd = _open(path)
        self._wake = os.pipe()
        try:
            self._before = termios.tcgetattr(self._fd)
            self._guardian, self._pipe = _guard(self._fd)
            termios.tcsetattr(self._fd, termios.TCSANOW, _cbreak(self._before, self._fd))
        except (OSError, termios.error) as error:
            raise DeviceError(f"keyboard: the terminal can't be used: {error}") from error
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        os.write(self._wake[1], b"x")
        self._thread.join()
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
            termios.tcflush(self._fd, termios.TCIFLUSH)  # what was held down isn't typed into the shell
        with contextlib.suppress(OSError):
            os.write(self._pipe, b"x")
        for descriptor in (self._pipe, self._fd, *self._wake):
            os.close(descriptor)
        self._guardian.wait()

    def _run(self) -> None:
        try:
            self._listen()
        finally:
            self.gone = True

    def _listen(self) -> None:
        while True:
            ready = select.select([self._fd, self._wake[0]], [], [])[0]
            if self._wake[0] in ready:
                return
            try:
                data = os.read(self._fd, 1024)
            except OSError:  # hung up
                data = b""
            if not data:
                return
            for key in _KEYS.findall(data.decode(errors="replace")):
                self._heard(_NAMES.get(key, key))


def _open(path: str | None) -> int:
    if path is None:
        if not os.isatty(0):
            raise DeviceError("keyboard: standard input is no terminal: run it in one (ssh -t), or name another device")
        return os.dup(0)
    try:
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"keyboard: terminal {path}: {error.strerror}") from error


def _cbreak(before: list[Any], fd: int) -> list[Any]:
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = before
    off = bytes([os.fpathconf(fd, "PC_VDISABLE")])
    characters = characters.copy()
    characters[termios.VMIN], characters[termios.VTIME], characters[termios.VSUSP] = 1, 0, off
    lflag &= ~(termios.ICANON | termios.ECHO)
    return [iflag & ~termios.IXON, oflag, cflag, lflag, ispeed, ospeed, characters]


def _guard(fd: int) -> tuple[subprocess.Popen[bytes], int]:
    """A process that puts the terminal back when this one ends without saying so; and where to say so."""
    reading, writing = os.pipe()
    try:
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(fd), str(reading)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd, reading),
            start_new_session=True,
        )
    finally:
        os.close(reading)
    assert guardian.stdout is not None
    with guardian.stdout:
        guardian.stdout.read(1)  # it has seen how the terminal is
    return guardian, writing
