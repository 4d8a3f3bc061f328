"""`robotlearn estop`: press first, then tell which of the robots that run here have stopped."""

from __future__ import annotations

import time

from hal.errors import nearest
from hal.estop import ALL, EStop
from hal.ownership import owner_of
from hal.runtime import runtime_folder
from robotlearn.robots.states import RobotState, robot_state

REACTS_S = 2.0
"""[s] A robot stops at its next tick, and its arm process tells so every 0.5 s."""


def press(name: str | None, by: str, why: str) -> tuple[list[str], bool]:
    """Latch the e-stop of a robot, or of all; returns what to tell, and whether all has stopped that should have.

    It is latched whatever is known of the name: a robot may run of which nothing is known here. Raises OSError when it
    can't be written: then use the switch.
    """
    EStop(name or ALL).press(by, why)
    known = sorted(folder.name for folder in runtime_folder("robots").iterdir())
    running = [one for one in known if name in (None, one) and owner_of(one) is not None]
    stopped, others = _wait(running)
    lines = []
    if name is not None and name not in known:
        lines.append(f"NOTHING STOPPED: no robot {name!r} has run on this machine ({nearest(name, known)}); stop all "
                     "with: robotlearn estop")  # fmt: skip
    elif not running:
        lines.append("no robot runs here now" if name is None else f"{name} does not run now")
    if stopped:
        lines.append(f"stopped: {', '.join(stopped)}")
    for one, state in others.items():
        how = state.line() if state is not None else f"{one}: has told nothing"
        lines.append(f"NOT SEEN TO STOP within {REACTS_S:.0f} s: {how}: use the switch that cuts the power")
    lines.append(f"e-stop pressed: {name or 'all robots'}. Release it with: robotlearn estop --clear {name or '--all'}")
    return lines, not others and (name is None or bool(running))


def _wait(running: list[str]) -> tuple[list[str], dict[str, RobotState | None]]:
    """Those whose arm process says that they are stopped by it, or is gone by now; and the others with their states."""
    deadline = time.monotonic() + REACTS_S
    left: dict[str, RobotState | None] = dict.fromkeys(running)
    stopped = []
    while left:
        for name in list(left):
            left[name] = state = robot_state(name)
            if (state is not None and state.state == "e-stopped") or owner_of(name) is None:
                stopped.append(name)
                del left[name]
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return sorted(stopped), left
