"""How emulators tell that they are there: a folder each, in a runtime folder of the user's, locked while they run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from types import TracebackType
from typing import Any, Self

from hal.errors import DriverError
from hal.runtime import runtime_folder, write_json

_LOOKED_AT_S = 0.2  # [s] within which whoever looks for emulators has let go of the lock of one that was killed


class Presence:
    """The folder of a running emulator, from `with` to the end of it; it is there no longer than its process.

    Raises DriverError for a name that can't be a folder's, or when another emulator of that name runs.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*", name):
            raise DriverError(f"an emulator's name has letters, digits, dots, - and _, so it can't be {name!r}")
        self.name, self.folder = name, runtime_folder("emulators") / name
        self._lock = -1

    def announce(self, spec: str, driver: str, options: dict[str, Any]) -> None:
        """Tell with which spec, driver and driver's options this emulator can be used."""
        content = {"name": self.name, "spec": spec, "driver": driver, "options": options, "pid": os.getpid()}
        write_json(self.folder / "robot.json", content)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _LOOKED_AT_S
        while self._lock < 0:
            self.folder.mkdir(exist_ok=True)
            try:
                lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # one that ended took the folder with it
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_nlink:
                    self._lock = lock
                    continue
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise DriverError(
                        f"an emulator named {self.name!r} runs already: end it, or choose another --name"
                    ) from None
                time.sleep(0.01)
            os.close(lock)
        (self.folder / "robot.json").unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def present() -> list[dict[str, Any]]:
    """What the emulators that run now have announced: name, spec, driver, options, pid. One that was killed is none."""
    found = []
    for folder in sorted(runtime_folder("emulators").iterdir()):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # held: it runs
            try:
                found.append(json.loads((folder / "robot.json").read_text()))
            except (OSError, ValueError):
                continue  # it is about to start, or to end
        finally:
            os.close(lock)
    return found
