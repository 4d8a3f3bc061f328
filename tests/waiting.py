"""Waiting for a condition, with a deadline: how a test synchronises with other threads and processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return once `condition()` is true; AssertionError naming `what` when that takes longer than any machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.005)


def pause(pid: int) -> None:
    """SIGSTOP, and wait until it has stopped: a thread that writes to a disk at that moment finishes it first."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(map(_stopped, Path(f"/proc/{pid}/task").iterdir())), f"process {pid} to stop")


def _stopped(thread: Path) -> bool:
    """Whether a thread is stopped (proc_pid_stat(5)) or gone."""
    try:
        return (thread / "stat").read_text().rpartition(") ")[2][0] in "TZX"
    except OSError:
        return True
