"""`robotlearn station up`: the processes of a station, kept alive, shown, ended together."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from rich.console import Console, Group

from robotlearn.display import Display
from robotlearn.processes import REFUSED, Child, Keeper, Tail, stop_all
from robotlearn.robots.states import RobotState, forget, robot_states, states_table
from robotlearn.station.file import StationProcess
from robotlearn.station.lock import station_lock

PATIENCE_S = 15.0
"""How long an edge gets to stop its arm and to send what it has recorded; then it is killed."""
_TELL_S = 0.5


@dataclass(frozen=True)
class StationView:
    """One moment of a station: its robots, and what became of the processes that keep them."""

    robots: Sequence[RobotState]
    version: int = 0

    def line(self) -> str:
        how = ", ".join(robot.line() for robot in self.robots)
        return f"{how} | " + ", ".join(f"{one.name} {one.rate_hz:.1f} Hz, missed {one.missed}" for one in self.robots)

    def page(self) -> Group:
        return Group(states_table(self.robots))


class StationUp:
    """Starts one process per robot and starts it again, ever later, when it ends by itself.

    What a process can't do for a fault that its user must mend (exit status 2) is said, and it stays ended; the others
    go on. What they print goes to LOGS/NAME.log, and from there to this terminal, each line behind its robot's name.
    """

    def __init__(self, processes: Sequence[StationProcess], logs: Path) -> None:
        self._processes = list(processes)
        self._logs = logs
        self._tails: dict[str, Tail] = {}
        self._said: dict[str, list[str]] = {process.name: [] for process in processes}
        self._keepers: dict[str, Keeper] = {}
        self._told: dict[str, tuple[str, str]] = {}
        self._told_at = 0.0
        self.refused: list[str] = []

    def run(self, stop: Event, console: Console | None = None) -> int:
        """Block until `stop`, or until every process is refused; returns the exit status: 2 if any was, else 0.

        A terminal shows the robots' states; elsewhere a line tells each change. Raises ProcessError when another
        station keeps one of these robots.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        console = console or Console(file=sys.stdout)
        display = Display(self.view, console)
        names = [process.name for process in self._processes]
        with station_lock(names), display if console.is_terminal else nullcontext():
            try:
                for process in self._processes:
                    self._start_keeping(process, display.say)
                while self._keepers and not stop.wait(0.1):
                    for name in list(self._keepers):
                        self._tend(name, display.say)
                    if not console.is_terminal:
                        self._tell_changes(display.say)
                display.say("stopping" if stop.is_set() else "no process is left")
            finally:
                stop_all([keeper.child for keeper in self._keepers.values()], patience_s=PATIENCE_S)
                for name in self._tails:
                    self._relay(name, display.say)
        return REFUSED if self.refused else 0

    def view(self) -> StationView:
        """The robots of this station, in its order; one that has told nothing yet is offline."""
        told = {state.name: state for state in robot_states()}
        names = [process.name for process in self._processes]
        return StationView([self._of(name, told.get(name)) for name in names])

    def _tell_changes(self, say: Callable[[str], None]) -> None:
        """A line for each robot that isn't as it was; between its episodes it is leased, which is no news."""
        if time.monotonic() < self._told_at + _TELL_S:
            return
        self._told_at = time.monotonic()
        for robot in self.view().robots:
            how = ("at work" if robot.state in ("leased", "running") else robot.state, robot.reason)
            if self._told.get(robot.name) != how and robot.name not in self.refused:
                self._told[robot.name] = how
                say(robot.line())

    def _of(self, name: str, state: RobotState | None) -> RobotState:
        if name in self.refused:
            return RobotState(name, reason=f"refused: {self._why(name)}")
        return state if state is not None else RobotState(name, reason="starting")

    def _start_keeping(self, process: StationProcess, say: Callable[[str], None]) -> None:
        forget(process.name)
        log = self._logs / f"{process.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.before"))
        self._tails[process.name] = Tail(log)
        say(f"{process.name}: robotlearn {shlex.join(process.arguments)}")
        self._keepers[process.name] = Keeper(partial(Child, process.name, process.arguments, log))

    def _tend(self, name: str, say: Callable[[str], None]) -> None:
        status = self._keepers[name].tend()
        self._relay(name, say)
        if status == REFUSED:
            del self._keepers[name]
            self.refused.append(name)
            say(f"{name}: can't work and is not started again: {self._why(name)}")
        elif status is not None:
            self._said[name].clear()
            say(f"{name}: ended with status {status} and is started again")

    def _why(self, name: str) -> str:
        """What it and its own children said at the end."""
        return "; ".join(dict.fromkeys(self._said[name][-3:])) or "no reason given"

    def _relay(self, name: str, say: Callable[[str], None]) -> None:
        for line in self._tails[name].lines():
            say(f"[{name}] {line}")
            if line.startswith("robotlearn: "):
                self._said[name].append(line.removeprefix("robotlearn: "))
