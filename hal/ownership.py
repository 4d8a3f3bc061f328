"""`Ownership`: the sole right of one process to a robot's name and to its port."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hal.errors import OwnershipError
from hal.runtime import checked_name, runtime_folder

HUNG_S = 10.0
"""[s] An owner that hasn't said for so long that it goes on is killed by the next one."""
_CONNECTS_S = 60.0  # [s] that it has until its first beat: cameras and buses take their time
_BEAT_S = 0.1
_PATIENCE_S = 5.0  # [s] for a killed process to be gone


class Ownership:
    """Held from `with` to the end of it, or to the end of the process, however that ends.

    name       of the robot; its folder in the runtime folder is `folder`
    addresses  of what moves it, as `Robot.addresses`. Links are followed, so that two names of one port are one.

    An owner calls `beat` at least every second, once its arm is connected, for which it has a minute. One that has not
    for `HUNG_S` is killed (kill -9) by who comes next: while it hangs nobody stops the arm.

    Raises OwnershipError when another process that is well owns either; it names the process.
    """

    def __init__(self, name: str, *addresses: str) -> None:
        self.name = checked_name(name)
        self.folder = runtime_folder("robots") / name
        self._what = {f"robot {name!r}": self.folder / "lock"}
        for address in addresses:
            real = os.path.realpath(address) if address.startswith("/") else address
            self._what[address] = runtime_folder("ports") / re.sub(r"[^A-Za-z0-9._-]", "_", real)
        self._locks: list[int] = []
        self._beaten = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name=f"beat {name}", daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        try:
            for what, file in self._what.items():
                self._locks.append(_lock(what, file, self.name))
        except BaseException:
            self.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def beat(self) -> None:
        """This process goes on. It touches no disk, which a control loop must not wait for."""
        self._beaten = True

    def _pass_on(self) -> None:
        while not self._closing.wait(_BEAT_S):
            if self._beaten:
                self._beaten = False
                for lock in self._locks:
                    os.utime(lock)

    def close(self) -> None:
        """Give all back. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for lock in self._locks:
            os.close(lock)
        self._locks = []


def owner_of(name: str) -> int | None:
    """The process that owns the robot of that name now; None where none does."""
    try:
        lock = os.open(runtime_folder("robots") / name / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _try(lock) else _owner(lock)[0]
    finally:
        os.close(lock)


def _lock(what: str, file: Path, name: str) -> int:
    lock = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        deadline = 0.0
        while not _try(lock):
            owner, doing = _owner(lock)
            silent = time.time() - os.fstat(lock).st_mtime
            if deadline == 0.0:
                if owner is None or silent <= HUNG_S:
                    who = f"process {owner} ({doing})" if owner is not None else "a process that just starts"
                    raise OwnershipError(f"{what} belongs to {who}: end that one first, or use another robot")
                os.kill(owner, signal.SIGKILL)
                deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                raise OwnershipError(f"{what}: process {owner} hangs and can't be killed: switch the robot off")
            time.sleep(0.01)
        os.truncate(lock, 0)
        program = Path(sys.argv[0])
        command = " ".join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:2]])
        os.pwrite(lock, f"{os.getpid()} {_started(os.getpid())} robot {name}, {command}".encode(), 0)
        os.utime(lock, (first := time.time() + _CONNECTS_S - HUNG_S, first))
        return lock
    except BaseException:
        os.close(lock)
        raise


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> tuple[int | None, str]:
    """The process that holds it, if it still is the one that wrote its number there; its robot and its command."""
    match os.pread(lock, 300, 0).decode(errors="replace").split(" ", 2):
        case [number, started, *doing] if number.isdigit() and _started(int(number)) == started:
            return int(number), " ".join(doing)
    return None, ""


def _started(process: int) -> str:
    """When it started, in clock ticks since boot (proc(5), field 22); "" when there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
