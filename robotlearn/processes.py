"""Child processes that end with their parent, and a stop signal that every loop can ask."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

_PIPE_VARIABLE = "ROBOTLEARN_PARENT_PIPE"
REFUSED = 2
"""Exit status of what its user must mend: starting it again would not help."""


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT, SIGTERM, or the death of the process that called `spawn`, sets.

    The first signal asks for a clean end; a second one ends the process at once with status 130. Call from the main
    thread.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    descriptor = os.environ.pop(_PIPE_VARIABLE, None)
    if descriptor is not None:
        threading.Thread(target=_watch_parent, args=(int(descriptor), stop), name="parent-watch", daemon=True).start()
    return stop


def freeze_heap() -> None:
    """Keep the garbage collector from going through what this process made at its start; call it before the loop.

    Each time that takes 9 ms in an arm process and 40 in one with torch, for which every loop of it stands still.
    """
    gc.collect()
    gc.freeze()


def _watch_parent(descriptor: int, stop: threading.Event) -> None:
    # The parent holds the only writing end and never writes: end of file means that it is gone, however it went.
    while os.read(descriptor, 1):
        pass
    stop.set()
    time.sleep(10)
    os._exit(1)


class Running(Protocol):
    """A process that was started: a `Child`, or one that another machine runs."""

    @property
    def status(self) -> int | None: ...
    def terminate(self) -> None: ...
    def wait(self, timeout: float) -> None: ...
    def kill(self) -> None: ...


class Child:
    """A child process of robotlearn's own command line, in a session of its own.

    In its own session a Ctrl-C at the terminal reaches the parent alone, which then ends its children in order. When
    the parent dies, even by kill -9, the child sees its pipe close and ends by itself.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `python -m robotlearn ARGUMENTS`; output goes to `log` (appended), or to this process's own streams.

        `environment` is added to this process's own.
        """
        self.name = name
        self.arguments = list(arguments)
        reading, self._writing = os.pipe()
        stream = log.open("ab") if log is not None else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robotlearn", *arguments],
                env={**os.environ, **(environment or {}), _PIPE_VARIABLE: str(reading)},
                pass_fds=(reading,),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        finally:
            os.close(reading)
            if stream is not None:
                stream.close()

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def close(self) -> None:
        """Close the parent's end of the pipe; the child, if it still runs, takes that for its parent's death."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def terminate(self) -> None:
        if self.status is None:
            self.process.terminate()

    def wait(self, timeout: float) -> None:
        """Wait until it has ended, at most so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)

    def kill(self) -> None:
        """End the child and whatever it started, at once. Idempotent."""
        if self._writing < 0:
            return  # reaped: its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.close()


def stop_all(children: Sequence[Running], patience_s: float = 8.0) -> None:
    """Ask every child to end, wait together for at most `patience_s`, kill what is left. Returns with all reaped."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + patience_s
    for child in children:
        child.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        child.kill()


class Keeper:
    """Keeps one child alive: starts it again after it ended by itself, waiting longer after each early end."""

    def __init__(
        self, start: Callable[[], Running], *, first_delay_s: float = 0.5, longest_delay_s: float = 30.0
    ) -> None:
        self._start = start
        self._first, self._longest = first_delay_s, longest_delay_s
        self._delay = first_delay_s
        self._started = time.monotonic()
        self._again_at: float | None = None
        self.restarts = 0
        self.child = start()

    def tend(self) -> int | None:
        """Call now and then; returns the exit status when the child was just found dead, else None."""
        now = time.monotonic()
        if self._again_at is not None:
            if now >= self._again_at:
                self._again_at = None
                self._started = now
                self.restarts += 1
                self.child = self._start()
            return None
        status = self.child.status
        if status is None:
            return None
        self.child.kill()
        if now - self._started > 60:
            self._delay = self._first
        self._again_at = now + self._delay
        self._delay = min(self._delay * 2, self._longest)
        return status


class Tail:
    """The lines that are appended to a file by another process; the file may come later."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def lines(self) -> list[str]:
        """The whole lines that came since the last call."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                text, newline, _ = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(text) + len(newline)
        return text.decode(errors="replace").splitlines()
