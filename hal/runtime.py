"""The folder in which the processes of one user on one machine find each other: locks, emulators, states, e-stops."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

from hal.errors import DriverError


def runtime_folder(part: str) -> Path:
    """The folder `part` of it; made if need be, for the user alone: /var/tmp/robotlearn-UID, a few kB.

    The same for every process of the user, whatever its environment says of places for temporary files, since an e-stop
    must reach them all; on the machine's own disk; and there after a log-out and a reboot. ROBOTLEARN_RUNTIME_DIR is
    another place, for processes that shall know nothing of the others, and for containers that shall.

    Raises DriverError when others could write there, and so take an arm or clear its e-stop.
    """
    folder = Path(os.environ.get("ROBOTLEARN_RUNTIME_DIR") or f"/var/tmp/robotlearn-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise DriverError(
            f"{folder} must be a folder of this user's, no link, and writable by nobody else (chmod go-w): "
            "set ROBOTLEARN_RUNTIME_DIR to one that is"
        )
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
