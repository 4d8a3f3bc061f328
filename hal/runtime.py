"""The folder in which the processes of one user on one machine find each other: locks, emulators, states, e-stops."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from hal.errors import DriverError


def runtime_folder(part: str) -> Path:
    """The folder `part` of it; made if need be, for the user alone. It lies in ROBOTLEARN_RUNTIME_DIR, if that is set.

    Else in XDG_RUNTIME_DIR, else in the machine's folder for temporary files. It needs a few kB, and is gone after a
    reboot in most of these places: with it go locks, and what a person latched.

    Raises DriverError when it belongs to another user: who could write there could take an arm, or clear its e-stop.
    """
    if own := os.environ.get("ROBOTLEARN_RUNTIME_DIR"):
        folder = Path(own)
    elif base := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(base) / "robotlearn"
    else:
        folder = Path(tempfile.gettempdir()) / f"robotlearn-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise DriverError(f"{folder} belongs to another user: set ROBOTLEARN_RUNTIME_DIR to a folder of your own")
    inner = folder / part
    inner.mkdir(exist_ok=True)
    return inner


def checked_name(name: str) -> str:
    """The name of a robot, by which files are called. Raises DriverError for one that could be another file's."""
    if not re.fullmatch(r"[A-Za-z0-9@][A-Za-z0-9._@-]{0,127}", name):
        raise DriverError(f"a robot can't be called {name!r}: expected letters, digits, . _ - and at most 128 of them")
    return name


def write_json(file: Path, content: Any) -> None:
    """Whoever reads the file sees the old content or all of the new one."""
    new = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.new")
    new.write_text(json.dumps(content))
    new.rename(file)
