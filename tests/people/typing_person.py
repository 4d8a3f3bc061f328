"""A person at a terminal: a child process on a pseudo-terminal, whose keys are pressed and whose screen is read."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
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

ROOT = Path(__file__).parents[2]


class Typist:
    """From the constructor to `close`. `screen` is all that was printed so far."""

    def __init__(self, arguments: Sequence[str], runtime: Path, display: str = "") -> None:
        self._master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.screen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "robotlearn", *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            env={**os.environ, "ROBOTLEARN_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT), "DISPLAY": display},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, condition: Callable[[], object], what: str) -> None:
        """As `until`; fails at once when the command has ended, and shows what it said."""

        def settled() -> bool:
            return bool(condition()) or self.process.poll() is not None

        try:
            until(settled, what, 60)
            assert condition(), what
        except AssertionError:
            print(self.screen[-1500:])  # pytest shows it
            raise

    def hold(self, key: str, condition: Callable[[], object], what: str) -> None:
        """As auto-repeat does, until the condition is true."""

        def pressed_again() -> object:
            self.press(key)
            time.sleep(0.04)
            return condition()

        self.until(pressed_again, what)

    def sees(self, text: str, after: int = 0) -> None:
        """Waits until that is on the screen, `after` so many characters."""
        self.until(lambda: text in self.screen[after:], repr(text))

    def stays(self, state: str) -> None:
        """Waits for four more status lines, each of which has that in it."""
        mark = len(self.screen)

        def lines() -> list[str]:
            return self.screen[mark:].split("\x1b[K")[1:-1]

        self.until(lambda: len(lines()) >= 4, "four status lines")
        assert all(state in line for line in lines()), self.screen[mark:]

    def number(self, before: str) -> float:
        """The number that stands after those words in the newest whole status line; waits for the first one."""
        return self.numbers(before)[0]

    def numbers(self, before: str) -> list[float]:
        """All that stand there, up to the unit."""
        found: list[list[float]] = []

        def there() -> bool:
            lines = (line.rpartition(before)[2] for line in self.screen.split("\x1b[K")[:-1] if before in line)
            words = [[word.rstrip(",|") for word in line.split()] for line in lines]
            found[:] = [[float(word) for word in itertools.takewhile(_is_number, line)] for line in words]
            return bool(found) and bool(found[-1])

        self.until(there, f"a status line with {before!r}")
        return found[-1]

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


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        return math.isfinite(float(word))
    return False
