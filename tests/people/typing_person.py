"""A person at a terminal: a child process on a pseudo-terminal, whose keys are pressed and whose screen is read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import until

PROGRAM = """
from robotlearn import cli
from robotlearn.commands.record import record
from robotlearn.commands.teleop import teleop
for command in (record, teleop):
    cli.app.command()(command)
cli.main()
"""
ROOT = Path(__file__).parents[2]


class Typist:
    """From the constructor to `close`. `screen` is all that was printed so far."""

    def __init__(self, arguments: Sequence[str], runtime: Path) -> None:
        self._master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.screen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            env={**os.environ, "ROBOTLEARN_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT), "DISPLAY": ""},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def hold(self, key: str, condition: Callable[[], object], what: str) -> None:
        """As auto-repeat does, until the condition is true."""

        def pressed_again() -> object:
            self.press(key)
            time.sleep(0.04)
            return condition()

        until(pressed_again, what)

    def sees(self, text: str, after: int = 0) -> None:
        """Waits until that is on the screen, `after` so many characters."""
        until(
            lambda: text in self.screen[after:] or self.process.poll() is not None,
            f"{text!r}; the screen ends with: {self.screen[-600:]!r}",
            60,
        )
        assert text in self.screen[after:], self.screen[-1500:]

    def number(self, before: str) -> float:
        """The number that stands after those words in the newest whole status line; waits for the first one."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [line for line in self.screen.split("\x1b[K")[:-1] if before in line]
            return bool(found)

        until(there, f"a status line with {before!r}")
        return float(found[-1].partition(before)[2].split()[0].rstrip(",|"))

    @property
    def mode(self) -> list[Any]:
        """The terminal's, without what it can't change."""
        return termios.tcgetattr(self.slave)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Waits for its end; the exit status."""
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._closing.set()
        self._thread.join()
        os.close(self._master)
        os.close(self.slave)

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self._master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.screen += os.read(self._master, 65536).decode(errors="replace")
