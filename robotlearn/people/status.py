"""`StatusLine`: one line on a terminal that changes, and lines above it that stay; it never holds up who drives."""

from __future__ import annotations

import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

PERIOD_S = 0.2


class StatusLine:
    """Draws `line()` five times a second, on a thread of its own: a terminal behind a slow link may block for seconds.

    Where standard output is no terminal only what is said appears.
    """

    def __init__(self) -> None:
        self.line: Callable[[], str] = lambda: ""
        """Called on that thread."""
        self._stream = sys.stdout
        self._said: deque[str] = deque(maxlen=1000)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def say(self, text: str) -> None:
        """A line that stays; returns at once."""
        self._said.append(text)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        live = self._stream.isatty()
        try:
            while not self._closing.wait(PERIOD_S):
                self._draw(self.line() if live else "")
            self._draw("")
        except OSError:  # nobody sees it any more; whether that is an end the device's reader says
            return

    def _draw(self, line: str) -> None:
        live = self._stream.isatty()
        clear = "\r\x1b[K" if live else ""
        parts = []
        while self._said:
            parts.append(f"{clear}{self._said.popleft()}\n")
        width = shutil.get_terminal_size().columns - 1
        text = "".join(parts) + (clear + line[:width] if live else "")
        if text:
            self._stream.write(text)
            self._stream.flush()
