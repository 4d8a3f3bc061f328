"""`Terminal`: single key presses of a terminal, here or over ssh; it is as it was before, however its process ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robotlearn.people.errors import DeviceError
from robotlearn.people.reader import Reader

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
        fd = _open(path)
        try:
            self._before = termios.tcgetattr(fd)
            self._guardian, self._pipe = _guard(fd)
            termios.tcsetattr(fd, termios.TCSANOW, _cbreak(self._before, fd))
        except (OSError, termios.error) as error:
            raise DeviceError(f"keyboard: the terminal can't be used: {error}") from error
        self._fd, self._heard = fd, heard
        # On the one that this process was started from, its parent shows what is to be seen.
        self._tells = path is not None and not is_ours(path)
        self._reader = Reader(fd, 1024, self._hear)

    @property
    def gone(self) -> str:
        """Why nothing comes from it any more; "" while it is well."""
        return self._reader.gone

    def tell(self, text: str) -> None:
        """A line for who sits at it, where nothing else shows it there; never waits for it."""
        if self._tells and not self._reader.gone and select.select([], [self._fd], [], 0)[1]:
            with contextlib.suppress(OSError):
                os.write(self._fd, f"\r\x1b[K{text}\n".encode())

    def close(self) -> None:
        if self._reader.closed:
            return
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
            termios.tcflush(self._fd, termios.TCIFLUSH)  # what was held down isn't typed into the shell
        self._reader.close()
        with contextlib.suppress(OSError):
            os.write(self._pipe, b"x")
        os.close(self._pipe)
        self._guardian.wait()

    def _hear(self, data: bytes) -> None:
        for key in _KEYS.findall(data.decode(errors="replace")):
            self._heard(_NAMES.get(key, key))


def controlling_terminal() -> str | None:
    """Path of the terminal in whose foreground this process runs, or the nearest that started it and has one: children
    are in sessions of their own. None: there is none, or it is in the background, where the keys are the shell's.
    """
    pid = os.getpid()
    while pid > 0:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no Linux
            return None
        parent, group, _, device, foreground = (int(field) for field in fields[1:6])
        if device:
            return _path_of(device) if group == foreground else None
        pid = parent
    return None


def options_in_a_run(where: str, device: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an edge's person, with the terminal of the keys that go with the device, if any do.

    where: of the person in the config, such as edges.0.person. Raises DeviceError: no terminal, or not that one.
    """
    if device == "gamepad" or (device == "leader" and "enable" in options):
        return dict(options)
    path = options.get("terminal") or controlling_terminal()
    if path is None:
        raise DeviceError(
            f"{where}: the keys are those of a terminal, and this runs in the foreground of none: set "
            f"{where}.options.terminal to the path of one, such as /dev/pts/3 (there, `tty` tells it)"
        )
    try:
        os.close(_open(str(path)))
    except DeviceError as error:
        raise DeviceError(f"{where}.options.terminal: {error}") from None
    return {**options, "terminal": str(path)}


def is_ours(path: str) -> bool:
    """Whether it is the terminal in whose foreground this process runs."""
    ours = controlling_terminal()
    with contextlib.suppress(OSError):
        return ours is not None and os.path.samefile(path, ours)
    return False


def _path_of(device: int) -> str | None:
    numbers = os.major(device), os.minor(device)
    for path in (*Path("/dev/pts").glob("[0-9]*"), *Path("/dev").glob("tty?*")):
        with contextlib.suppress(OSError):
            found = path.stat()
            if stat.S_ISCHR(found.st_mode) and (os.major(found.st_rdev), os.minor(found.st_rdev)) == numbers:
                return str(path)
    return None


def _open(path: str | None) -> int:
    if path is None:
        if not os.isatty(0):
            raise DeviceError("keyboard: standard input is no terminal: run it in one (ssh -t), or name another device")
        return os.dup(0)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)  # a serial line waits for a carrier
    except OSError as error:
        raise DeviceError(f"keyboard: terminal {path}: {error.strerror}") from error
    os.set_blocking(fd, True)
    if os.isatty(fd):
        return fd
    os.close(fd)
    raise DeviceError(f"keyboard: {path} is no terminal")


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
