"""One thing that was looked at, and what robotlearn can be used for if it is well."""

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "warning", "broken"]
"""missing: an optional part is not there. warning: works, though not as it should. broken: something needed does not."""

WAYS = {
    "train": "learner and simulated arms on this machine (robotlearn train)",
    "apart": "learner and edges on machines of their own (robotlearn learner, robotlearn edge)",
    "arms": "arms by the wall clock, real or simulated (a paced edge)",
}


@dataclass(frozen=True)
class Check:
    """`remedy`: the line to type or the thing to do. `ways`: which of `WAYS` don't work while this is broken."""

    section: str
    name: str
    state: State
    detail: str
    remedy: str = ""
    ways: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "remedy": self.remedy,
            "needed_for": list(self.ways),
        }
