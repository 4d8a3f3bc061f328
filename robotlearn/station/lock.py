"""Two stations can't keep the same robot: the second one is told who the first is."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hal.runtime import checked_name, runtime_folder
from robotlearn.errors import ProcessError


@contextmanager
def station_lock(names: Sequence[str]) -> Iterator[None]:
    """The sole right to keep the robots of these names at work, to the end of the process at most.

    Raises ProcessError, naming the process that has one of them.
    """
    locks: list[int] = []
    try:
        for name in names:
            lock = os.open(
                runtime_folder("stations") / checked_name(name), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
            locks.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.pread(lock, 20, 0).decode(errors="replace") or "just starting"
                raise ProcessError(
                    f"a station with robot {name} runs already (process {other}): end that one first, or choose "
                    "another robot with --only"
                ) from None
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        for lock in locks:
            os.close(lock)
