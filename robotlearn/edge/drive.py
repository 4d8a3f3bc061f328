"""A policy drives an arm, and nothing is learnt: arm process and policy server as on an edge, their parent without a
learner. Imports no torch.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hal.registry import check_driver
from robotlearn.edge import local
from robotlearn.edge.latencies import described
from robotlearn.edge.outcome import Episodes, Previews
from robotlearn.edge.paced_arm import PacedArm
from robotlearn.errors import ProcessError
from robotlearn.people.errors import DeviceError
from robotlearn.people.keyboard import keys_in_a_run
from robotlearn.processes import Tail
from robotlearn.saved_policy import SavedPolicy


@dataclass(frozen=True)
class DriveView:
    """One moment of it; `episode` counts from 1, 0 before the first."""

    title: str
    unit: Literal["episode", "chunk"]
    episode: int
    episodes: int
    done: int
    step: int
    state: str
    health: str
    version: int
    inference: str
    starved: int
    missed: int
    broken: int
    success: float | None
    delay: int | None = None
    """Control steps from a request to its chunk, the longest of late."""

    def line(self) -> str:
        return f"{self.unit} {self.episode} of {self.episodes} | {', '.join(self._facts())}"

    def page(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self.episodes, completed=self.done, width=40),
            f"{self.unit} {self.episode} of {self.episodes}",
        )
        return Group(Text(self.title, style="bold"), bar, Text(", ".join(self._facts())))

    def _facts(self) -> list[str]:
        facts = [f"version {self.version}" if self.version >= 0 else "no weights yet"]
        if self.unit == "episode":
            facts += [f"step {self.step}", f"starved {self.starved} and missed {self.missed} ticks"]
        if self.success is not None:
            facts.append(f"success {self.success:.0%}")
        if self.broken:
            facts.append(f"{self.broken} broken")
        if self.inference:
            facts.append(self.inference)
        if self.delay is not None:
            facts.append(f"chunks take {self.delay} steps")
        return [*facts, f"arm {self.state} ({self.health})" if self.health else self.state]


class Drive:
    """Runs a number of episodes, one after the other; in a dry run as many chunks are computed and nothing moves.

    An episode that breaks (its arm process is lost, or the watchdog stopped the arm for want of actions) is counted and
    not made up for: with a robot that always fails this ends too.
    """

    def __init__(self, saved: SavedPolicy, *, episodes: int, dry_run: bool = False) -> None:
        """Start both processes; `saved` is of `find_policy_for`. Raises DriverError when there is no driver of the name
        that the robot's spec gives; DeviceError where a person's keys have no terminal.
        """
        self._spec = saved.arm.spec
        check_driver(saved.config.edges[0].driver or self._spec.driver)
        self._keys: tuple[str, ...] = ()
        person = getattr(saved.config.edges[0], "person", None)
        if person is not None and not dry_run:
            try:
                self._keys = keys_in_a_run("edges.0.person", person.device, person.options)
            except DeviceError as error:
                raise DeviceError(f"{saved.file}: {error}") from None
        edge = saved.config.edges[0].name
        self._saved, self._episodes, self._dry_run = saved, episodes, dry_run
        self._unit: Literal["episode", "chunk"] = "chunk" if dry_run else "episode"
        self._account: Episodes | Previews = Previews() if dry_run else Episodes()
        self._say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)
        self._show: Callable[[str], object] = lambda text: None
        self._step = 0
        self._stopping = False
        self._refusals: list[str] = []
        self._logs = Path(tempfile.mkdtemp(prefix="robotlearn-"))
        self._tails = {part: Tail(self._logs / f"{part}.log") for part in ("arm", "policy-server")}
        common = [str(saved.file), *saved.overrides, "--edge", edge]
        more = {"arm": ["--dry-run"] * dry_run, "policy-server": ["--checkpoint", str(saved.checkpoint)]}
        self._arm = PacedArm(
            edge,
            self,
            lambda part: [part, *common, *more[part]],
            say=lambda text: self._say(text),
            logs=self._logs,
        )

    def run(self, stop: Event, say: Callable[[str], object] | None = None) -> None:
        """Work until all episodes are done, or `stop`. `say` is told what goes wrong and each chunk of a dry run; by
        default standard error gets the former alone.

        Raises ProcessError, in the words of the process, when one ends for a fault that its user must mend.
        """
        if say is not None:
            self._say = self._show = say
        for text in self._keys:
            self._say(text)
        while not stop.is_set() and self.done < self._episodes:
            try:
                self._arm.turn()
            except ProcessError as error:
                self._pass_on()
                raise ProcessError("; ".join(self._refusals) or str(error)) from None
            self._pass_on()
            if self._arm.idle and self._arm.version >= 0 and self._arm.started < self._episodes:
                self._arm.start()
                self._step = 0

    def close(self) -> None:
        """Stop the arm, end both processes. Idempotent."""
        self._stopping = True
        self._arm.close()
        self._pass_on()
        shutil.rmtree(self._logs, ignore_errors=True)

    @property
    def done(self) -> int:
        """Episodes (in a dry run chunks) that are over."""
        return self._account.done

    def outcome(self) -> dict[str, Any]:
        """What came of it, as plain values: `Episodes.as_json` or `Previews.as_json`, and what it was asked."""
        asked = {"policy": str(self._saved.checkpoint), "robot": self._spec.name, "version": self._saved.version}
        return {**asked, "dry_run": self._dry_run, "asked": self._episodes, **self._account.as_json(self._arm.counts)}

    def summary(self) -> str:
        """The same on one line."""
        return f"version {self._saved.version}: {self._account.summary(self.outcome())}"

    def view(self) -> DriveView:
        """How it stands; may be called from any thread."""
        arm, server, counts = self._arm.arm, self._arm.server, self._arm.counts
        return DriveView(
            title=f"{self._saved.checkpoint} drives {self._spec.name}{', a dry run' * self._dry_run}",
            unit=self._unit,
            episode=self._arm.started,
            episodes=self._episodes,
            done=self.done,
            step=self._step,
            state=_state(self._arm),
            health=arm.health if arm is not None else "",
            version=server.version if server is not None else -1,
            inference=described(server.latencies) if server is not None else "",
            starved=counts["starved"],
            missed=counts["missed"],
            broken=self._account.broken,
            success=self._account.success if isinstance(self._account, Episodes) else None,
            delay=arm.delay if arm is not None else None,
        )

    def hear(self, message: local.Begin | local.Line | local.Preview) -> None:
        """The next message of the running episode."""
        if isinstance(self._account, Episodes) and self._arm.arm is not None:
            self._account.judge = self._arm.arm.judge
        self._account.hear(message)
        match message:
            case local.Line():
                self._step = message.step + 1
                if message.stopped:
                    self._say(f"episode {message.episode} broke, the arm stopped: {message.stopped}")
            case local.Preview() if isinstance(self._account, Previews):
                title = f"chunk {message.episode} of {self._episodes}, version {message.version}"
                self._show(self._account.shown[-1].text(title, self._spec))

    def broken(self, why: str) -> None:
        """The running episode ended in another way than its task says."""
        if self._stopping:
            return  # its user did that
        self._account.broken += 1
        self._say(f"{self._unit} {self._arm.started} broke: {why}")

    def _pass_on(self) -> None:
        """Say what the processes printed, but keep why one gave up."""
        for tail in self._tails.values():
            for text in tail.lines():
                if text.startswith("robotlearn: "):
                    self._refusals.append(text.removeprefix("robotlearn: "))
                else:
                    self._say(text)


def _state(paced: PacedArm) -> str:
    if paced.arm is None:
        return "waits for the arm process"
    # What it says of itself may be half a second old.
    state = "working" if paced.active is not None and paced.arm.state == "resting" else paced.arm.state
    if paced.arm.waits_for:
        return f"{state}: {paced.arm.waits_for}"
    if paced.server is None:
        return f"{state}, waits for the policy server"
    return f"{state}, the policy server is {paced.server.busy}" if paced.server.busy else state
