"""`robotlearn robots --scan`: what is attached, once or as it comes and goes, on the terminal, as JSON, as a file."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hal.discovery import Found, Watcher, scan
from hal.errors import HalError
from hal.ownership import owner_of
from hal.spec import load_spec
from robotlearn.display import Display
from robotlearn.robots.latches import Latch, latches
from robotlearn.robots.states import RobotState, robot_states, states_table, wide_console
from robotlearn.station.draft import write_draft

PERIOD_S = 0.5
"""Between two looks: what comes is seen at the next one, a publisher that falls silent 1.2 s later."""


@dataclass(frozen=True)
class ScanView:
    """What is attached and what runs at one moment."""

    found: Sequence[Found]
    running: Sequence[RobotState]
    latched: Sequence[Latch] = ()
    version: int = -1

    def line(self) -> str:
        return f"{len(self.found)} attached, {len(self.running)} running"

    def page(self) -> Group:
        above = [Text(latch.line(), style="bold red") for latch in self.latched]
        return Group(*above, *([states_table(self.running), ""] if self.running else []), found_table(self.found))


def _look() -> tuple[list[Found], dict[str, str]]:
    found, lacking = scan()
    return [*served(), *found], lacking


def served() -> list[Found]:
    """The arms that `robotlearn serve` has on this machine now: whoever gets its lease reaches one by its address."""
    return [
        Found(
            "served",
            f"served:{one.name}:{one.pid}",
            one.address,
            one.name,
            _loadable(one.robot),
            "remote",
            {"address": one.address},
        )
        for one in robot_states()
        # That of an edge whose robot is remote is the address of another's.
        if one.driver != "remote" and one.address.startswith(("ipc://", "tcp://")) and owner_of(one.name) is not None
    ]


def _loadable(robot: str) -> str:
    """The name of a shipped spec; "" for one of the user's own, whose file isn't known here."""
    try:
        return load_spec(robot).name
    except HalError:
        return ""


def show_scan(*, as_json: bool) -> None:
    """Look once and print it."""
    found, lacking = _look()
    if as_json:
        print(json.dumps({"found": [asdict(one) for one in found], "lacking": lacking}))
        return
    wide_console().print(found_table(found))
    _tell(lacking)


def write_scan(path: Path, *, force: bool, as_json: bool) -> None:
    """Look once, write a station's file of it, and print what is in it. Raises ConfigError when the file is there."""
    found, lacking = _look()
    write_draft(found, path, force=force)
    if as_json:
        print(json.dumps({"found": [asdict(one) for one in found], "lacking": lacking, "written": str(path)}))
        return
    wide_console().print(found_table(found))
    _tell(lacking)
    print(f"{path}: edit it, then `robotlearn station check {path}`")


def watch_scan(stop: Event, *, as_json: bool) -> None:
    """Tell what comes, goes and changes its state, until `stop`: below a live table where there is a terminal."""
    console = wide_console()
    with Watcher() as watcher:
        if as_json or not console.is_terminal:
            _tell(watcher.lacking)
            _follow(watcher, stop, [], _say, as_json=as_json)
            return
        shown = [ScanView([], [])]
        with Display(lambda: shown[0], console) as display:
            _follow(watcher, stop, shown, display.say)


def _follow(
    watcher: Watcher, stop: Event, shown: list[ScanView], say: Callable[[str], object], *, as_json: bool = False
) -> None:
    before: dict[str, RobotState] = {}
    others: list[Found] = []
    first = bool(shown)  # what is there at the beginning is in the table
    while True:
        came, went = watcher.look()
        known, others = others, served()
        came += [one for one in others if one.key not in {each.key for each in known}]
        went += [one for one in known if one.key not in {each.key for each in others}]
        now = {state.name: state for state in robot_states()}
        changed = [one for one in now.values() if one.name not in before or before[one.name].line() != one.line()]
        shown[:] = [ScanView([*others, *watcher.found], list(now.values()), latches())]
        for event, things in () if first else (("went", went), ("came", came), ("robot", changed)):
            for one in things:
                if as_json:
                    content = one.as_json() if isinstance(one, RobotState) else asdict(one)
                    print(json.dumps({"event": event, **content}), flush=True)
                else:
                    line = one.line() if isinstance(one, RobotState) else found_line(one)
                    say(f"{event} {line}")
        before, first = now, False
        if stop.wait(PERIOD_S):
            return


def found_line(one: Found) -> str:
    """`serial /dev/ttyACM0: so101 (servo board ...)`."""
    fits = f"{one.spec} by {one.driver} " if one.spec else ""
    return f"{one.kind} {one.where}: {fits}({one.what})"


def found_table(found: Sequence[Found]) -> Table:
    """One row each: what it is, where, and which spec and driver fit."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("attached", "where", "fits", "driver", "what it is"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(one.kind, Text(one.where), Text(one.spec or "-"), Text(one.driver or "-"), Text(one.what))
    return table


def _tell(lacking: dict[str, str]) -> None:
    for what, why in lacking.items():
        print(f"{what} can't be looked for: {why}", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
