"""One thing that was looked at."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "warning", "broken"]
"""missing: an optional part is not there. warning: works, but not as it should. broken: robotlearn needs it."""


@dataclass(frozen=True)
class Check:
    """`remedy`: the line to type or the thing to do, "" where there is none."""

    section: str
    name: str
    state: State
    detail: str
    remedy: str = ""
