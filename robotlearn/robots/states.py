"""How the robots are that run on this machine, from what their arm processes tell in the runtime folder."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hal.ownership import owner_of
from hal.runtime import runtime_folder

SILENT_S = 2.0
"""Whose arm process tells nothing for so long is offline; it tells every 0.5 s."""
_PRIORITY = {True: ", real-time", False: ", no real-time"}
_COLOURS = {"running": "green", "leased": "cyan", "fault": "red", "e-stopped": "bold red", "offline": "dim"}


@dataclass(frozen=True)
class RobotState:
    """One robot, as its arm process told last.

    state      offline, idle, leased, running, fault or e-stopped; reason says why, where there is something to say
    holder     who has its lease, None when nobody has
    rate_hz    of its control loop; missed: ticks since the arm process started
    realtime   whether that loop was granted real-time priority; None where that isn't known
    frames     how its camera images go to who reads them: shared memory, or tcp (12.3 MB/s: why); "" where none do
    telemetry  temperature [degrees C], current [A], voltage [V], each by the spec's entry, where the driver knows
    seen       wall time of what it told [s since the epoch]
    """

    name: str
    robot: str = ""
    driver: str = ""
    address: str = ""
    pid: int = 0
    state: str = "offline"
    reason: str = ""
    holder: str | None = None
    rate_hz: float = 0.0
    missed: int = 0
    realtime: bool | None = None
    frames: str = ""
    telemetry: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seen: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """`left: running (held by edge left)`."""
        said = [self.reason] if self.reason else []
        said += [f"held by {self.holder}"] if self.holder else []
        return f"{self.name}: {self.state}" + (f" ({'; '.join(said)})" if said else "")


def robot_states() -> list[RobotState]:
    """All that have run here since the machine started, by name; one whose process is gone or silent is offline."""
    names = sorted(folder.name for folder in runtime_folder("robots").iterdir())
    return [state for name in names if (state := robot_state(name)) is not None]


def robot_state(name: str) -> RobotState | None:
    """That of one robot; None when none of that name has run here."""
    file = runtime_folder("robots") / name / "state.json"
    return _state(name, file) if file.is_file() else None


def forget(name: str) -> None:
    """Removes what the last arm process of that name told, when none runs: a new start isn't shown an old fault."""
    if owner_of(name) is None:
        (runtime_folder("robots") / name / "state.json").unlink(missing_ok=True)


def _state(name: str, file: Any) -> RobotState:
    try:
        told = json.loads(file.read_text())
        telemetry = {key: told[key] for key in ("temperature", "current", "voltage") if told.get(key)}
        known = {key: told[key] for key in RobotState.__dataclass_fields__ if told.get(key) is not None}
        state = RobotState(**{**known, "name": name, "telemetry": telemetry})
        age = time.time() - state.seen
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return RobotState(name, reason=f"{file} can't be read: {error}")
    if state.state == "fault" and not _lives(state.pid):
        return state  # what its process ended of
    if state.state != "offline" and not _lives(state.pid):
        return replace(state, state="offline", reason="its arm process is gone", holder=None, rate_hz=0.0)
    if state.state != "offline" and abs(age) > SILENT_S:
        return replace(state, state="offline", reason=f"nothing heard for {age:.0f} s", holder=None, rate_hz=0.0)
    return state


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def wide_console() -> Console:
    """Standard output; where it is no terminal, with lines as long as tables need, for whatever program reads them."""
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=240)


def states_table(states: Sequence[RobotState]) -> Table:
    """One row each: what it is, how it is, who has it, how its loop keeps time, its warmest motor."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    seen = any(one.frames for one in states)
    for column in ("robot", "model", "driver", "address", "state", "held by", "loop", "warmest", *["frames"] * seen):
        table.add_column(column, overflow="fold")
    for one in states:
        state = Text(one.state, style=_COLOURS.get(one.state, ""))
        if one.reason:
            state.append(f": {one.reason}", style="default")
        warm = {name: value for name, value in one.telemetry.get("temperature", {}).items() if not _unknown(value)}
        hottest = max(warm, key=lambda name: warm[name], default="")
        table.add_row(
            Text(one.name), Text(one.robot), Text(one.driver), Text(one.address or "-"), state, Text(one.holder or "-"),
            f"{one.rate_hz:.1f} Hz, {one.missed} missed{_PRIORITY.get(one.realtime, '')}" if one.rate_hz else "-",
            Text(f"{hottest} {warm[hottest]:.0f} °C" if hottest else "-"),
            *[Text(one.frames or "-")] * seen,
        )  # fmt: skip
    return table


def _unknown(value: Any) -> bool:
    return not isinstance(value, int | float) or math.isnan(value)
