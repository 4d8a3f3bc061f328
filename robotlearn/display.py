"""What a learner, or another long-running program, shows: a live page on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_PERIOD_S = 5.0


@dataclass(frozen=True)
class PeerLine:
    """One edge, as the learner sees it. Bytes are those that it records per second and robot: as they are recorded, and
    as they would be if nothing were encoded.
    """

    name: str
    state: str
    version: int
    episodes: int
    rate: float
    pending: int
    waits_for: str
    robot_bytes: float = 0.0
    robot_array_bytes: float = 0.0
    lost: str = ""
    """What the learner won't get of it: "segments lost: 12 rejected, 3 evicted"."""


@dataclass(frozen=True)
class View:
    """One moment of a run. `rate` is in environment steps per second; None marks what is not known yet."""

    title: str
    phase: str
    progress: float
    waits_for: str = ""
    version: int = -1
    success: float | None = None
    mean_return: float | None = None
    staleness_mean: float | None = None
    staleness_max: float | None = None
    rate: float = 0.0
    env_steps: int = 0
    seconds: float = 0.0
    peers: Sequence[PeerLine] = field(default_factory=list)

    def line(self) -> str:
        return line(self)

    def page(self) -> Group:
        return page(self)


class Viewable(Protocol):
    """What can be displayed. A new head of its line, up to the first " | ", is worth a line at once."""

    @property
    def version(self) -> int:
        """Of the policy, -1 before the first."""

    def line(self) -> str: ...

    def page(self) -> Group: ...


class Display:
    """Draws `view()` on a thread of its own until closed. A failure to draw never reaches who is shown."""

    def __init__(self, view: Callable[[], Viewable], console: Console | None = None) -> None:
        self._view = view
        self._console = console or Console(file=sys.stdout)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join(timeout=5)

    def say(self, text: str) -> None:
        """One line that stays."""
        # Options given here would be those of the live page too, which is drawn anew below the line.
        self._console.print(Text(text), soft_wrap=not self._console.is_terminal)

    def _run(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, get_renderable=lambda: self._view().page()):
                self._done.wait()
            return
        shown, spoken = "", -LINE_PERIOD_S
        while not self._done.wait(0.2):
            view = self._view()
            # A new version is worth a line at once, though never more than one a second; no silence lasts long.
            text = view.line()
            elapsed = time.monotonic() - spoken
            if (view.version >= 0 and text.split(" | ")[0] != shown and elapsed > 1) or elapsed > LINE_PERIOD_S:
                shown, spoken = text.split(" | ")[0], time.monotonic()
                self.say(text)
        text = self._view().line()
        if text.split(" | ")[0] != shown:
            self.say(text)


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner on the terminal for what takes seconds and can't be counted; nothing where there is none."""
    return Console(stderr=True).status(Text(f"{what} ..."))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _peer(peer: PeerLine) -> str:
    traffic = f", {_traffic(peer)} kB/s per robot" if peer.robot_array_bytes else ""
    lost = f", {peer.lost}" if peer.lost else ""
    return f"{peer.name}: {peer.state}{traffic}{lost}" + (f" (waits for {peer.waits_for})" if peer.waits_for else "")


def _traffic(peer: PeerLine) -> str:
    return f"{peer.robot_bytes / 1e3:.1f} of {peer.robot_array_bytes / 1e3:.1f}"


def line(view: View) -> str:
    """The view as one plain line."""
    parts = [f"{view.phase} {view.progress:.0%}"]
    if view.version >= 0:
        parts = [
            f"version {view.version}",
            f"{view.phase} {view.progress:.0%}",
            f"success {_percent(view.success)}",
            f"return {_number(view.mean_return)}",
            f"staleness {_number(view.staleness_mean, 1)} (max {_number(view.staleness_max, 0)})",
            f"{view.rate:.0f} samples/s",
            ", ".join(map(_peer, view.peers)) or "no edge",
        ]
    if view.waits_for:
        parts.append(f"waiting for {view.waits_for}")
    return " | ".join(parts)


def page(view: View) -> Group:
    """The view as a page for a terminal."""
    head = Table.grid(padding=(0, 3))
    head.add_row(
        f"version [bold]{max(view.version, 0) if view.version >= 0 else '-'}[/]",
        f"success [bold]{_percent(view.success)}[/]",
        f"return [bold]{_number(view.mean_return)}[/]",
        f"staleness [bold]{_number(view.staleness_mean, 1)}[/] (max {_number(view.staleness_max, 0)})",
        f"[bold]{view.rate:.0f}[/] samples/s",
        f"{view.env_steps / 1000:.0f} k steps",
        f"{int(view.seconds) // 60}:{int(view.seconds) % 60:02d}",
    )
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=1.0, completed=view.progress, width=40), f"{view.progress:.0%}", view.phase)
    edges = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2))
    for column in ("edge", "state", "version", "episodes", "steps/s", "kB/s per robot", "in its log", "waits for"):
        edges.add_column(column, justify="left" if column in ("edge", "state", "waits for") else "right")
    for peer in view.peers:
        edges.add_row(
            Text(peer.name),
            Text(peer.state),  # as the edge says it: not to be read as markup
            str(peer.version) if peer.version >= 0 else "-",
            str(peer.episodes),
            f"{peer.rate:.0f}",
            _traffic(peer),
            str(peer.pending),
            Text(peer.waits_for or "-"),
        )
    parts: list[object] = [Text(view.title, style="bold"), bar, head, edges]
    parts += [Text(f"{peer.name}: {peer.lost}", style="yellow") for peer in view.peers if peer.lost]
    if view.waits_for:
        parts.append(Text(f"the learner waits for {view.waits_for}", style="yellow"))
    return Group(*parts)  # type: ignore[arg-type]
