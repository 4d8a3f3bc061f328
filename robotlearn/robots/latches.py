"""Which e-stops are latched on this machine: each outlives whoever pressed it, and every arm process."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from hal.estop import ALL
from hal.runtime import runtime_folder


@dataclass(frozen=True)
class Latch:
    """One e-stop that is pressed.

    name  the robot's, or `hal.estop.ALL` for all of them, later ones too
    by    who pressed it; why: what they said; both "" where the file can't be read: latched is latched
    at    wall time [s since the epoch], 0 where it isn't known
    """

    name: str
    by: str = ""
    why: str = ""
    at: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """`e-stop latched for left by ann: smoke, since 14:03:07: robotlearn estop left --clear`."""
        every = self.name == ALL
        who = f" by {self.by}" if self.by else ""
        why = f" ({self.why})" if self.why else ""
        since = f", since {_when(self.at)}" if self.at else ""
        return (
            f"e-stop latched for {'all robots' if every else self.name}{who}{why}{since}; release it with: "
            f"robotlearn estop --clear {'--all' if every else self.name}"
        )


def latches(name: str | None = None) -> list[Latch]:
    """All that are latched, that of all robots first; with `name` those that stop this robot."""
    files = sorted(runtime_folder("estop").iterdir(), key=lambda file: (file.name != ALL, file.name))
    written = re.compile(r"\.\d+\.\d+\.new$")  # one that is being written takes effect when it has its name
    names = [file.name for file in files if not written.search(file.name)]
    found = [_read(one) for one in names if name is None or one in (ALL, name)]
    return [one for one in found if one is not None]


def _read(name: str) -> Latch | None:
    file = runtime_folder("estop") / name
    try:
        told = json.loads(file.read_text())
        return Latch(name, str(told["by"]), str(told["why"]), float(told["at"]))
    except FileNotFoundError:
        return Latch(name) if os.path.lexists(file) else None  # cleared just now
    except (OSError, ValueError, KeyError, TypeError):
        return Latch(name)


def _when(at: float) -> str:
    then, now = time.localtime(at), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)
