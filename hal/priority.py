"""`ask_for_priority`: real-time priority for a thread, where the system grants it."""

import contextlib
import os

CONTROL = 40
"""Of SCHED_FIFO, below the kernel's own interrupt threads at 50."""
EMULATOR = 45
"""Above the loop that commands it, as what stands for hardware doesn't wait for a processor."""


def ask_for_priority(priority: int) -> bool:
    """SCHED_FIFO for the calling thread; whether it was granted (see sched(7), RLIMIT_RTPRIO)."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        return True
    return False
