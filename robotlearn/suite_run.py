"""`robotlearn eval --suite generalisation`: a table, a picture, and how far it is meanwhile."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from robotlearn.cells import cells_of, env_options
from robotlearn.display import busy
from robotlearn.evaluation import Evaluation, Rate
from robotlearn.inputs import Inputs
from robotlearn.saved_policy import SavedPolicy
from robotlearn.suite import Outcome, measure, trials
from robotlearn.suite_picture import draw, starts

WIDE = 120
"""Columns from which on a terminal has room for a sentence on each split."""


def run_suite(
    saved: SavedPolicy, *, episodes: int, seed: int, picture: Path, drawable: bool, as_json: bool, console: Console
) -> None:
    """Measure a saved policy under every split, print what came out, write the picture.

    drawable: this process can draw scenes; else the picture has bars alone.

    Raises CheckpointError when the policy is damaged, ConfigError when no task of its run has splits, OSError when the
    picture can't be written; all of it before the first episode.
    """
    cells, options = cells_of(saved.config), env_options(saved.config)
    found = trials(cells, options)
    with busy("loading the policy"):
        policy = saved.load()
        shown = starts(found, seed) if drawable else []
    picture.parent.mkdir(parents=True, exist_ok=True)
    there = picture.exists()
    picture.open("ab").close()
    if not there:
        picture.unlink()  # whoever breaks off now finds no empty one
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    disable = as_json or not terminal.is_terminal
    with Progress(*columns, console=terminal, transient=True, disable=disable) as progress:
        bar = progress.add_task("evaluating", total=episodes * len(found))
        outcomes = measure(
            policy, Inputs(saved.config, cells), found, episodes=episodes, seed=seed, threads=2,
            progress=lambda done, split: progress.update(bar, completed=done, description=f"evaluating {split}"),
        )  # fmt: skip
    names = list(dict.fromkeys(outcome.cell for outcome in outcomes))
    if not as_json:  # before the picture: what was measured is told even where that fails
        for name in names:
            part = [outcome for outcome in outcomes if outcome.cell == name]
            console.print(_table(f"version {saved.version}, {name}", part, console.width >= WIDE))
    draw(picture, outcomes, shown, f"version {saved.version}: {', '.join(names)}")
    if as_json:
        rows = [outcome.as_json() for outcome in outcomes]
        told = {"version": saved.version, "suite": "generalisation", "seed": seed, "splits": rows}
        console.file.write(json.dumps({**told, "picture": str(picture)}) + "\n")
        return
    if not options.cameras:
        console.print("no camera is observed, so the splits of vision were left out", soft_wrap=True)
    without = "" if drawable else " (without scenes: nothing to draw with, neither EGL nor OSMesa is installed)"
    console.print(Text(f"picture: {picture}{without}"), soft_wrap=True)


def _table(title: str, outcomes: Sequence[Outcome], wide: bool) -> Table:
    """A row for each split, below it one for each thing that was meant; `wide`: in words, too, how a split differs."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("split", no_wrap=True)
    for column in ("success", "95 % interval", "of", "against seen"):
        table.add_column(column, justify="right", no_wrap=True)
    if wide:
        table.add_column("what differs")
    axis = "seen"
    for outcome in outcomes:
        split, drop = outcome.split, outcome.drop
        if split.axis != axis:
            axis = split.axis
            table.add_row()
            table.add_row(Text(axis, "italic"))
        less = "" if drop is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in drop))
        row = [split.name, *_cells(outcome.measured), less, *([split.what] if wide else [])]
        table.add_row(*map(Text, row), style="bold")
        for told, rate in outcome.goals.items():
            table.add_row(*map(Text, [f"  {told}", *_cells(rate)]))
    return table


def _cells(rate: Evaluation | Rate) -> tuple[str, str, str]:
    return f"{rate.success:.1%}", f"[{rate.low:.1%}, {rate.high:.1%}]", str(rate.episodes)
