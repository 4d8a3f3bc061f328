"""Several runs side by side: in the terminal, as JSON, as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robotlearn.durable import write_atomic
from robotlearn.errors import ConfigError, RunFolderError
from robotlearn.report import html
from robotlearn.report.chart import compact, figure
from robotlearn.report.figures import side_by_side
from robotlearn.report.run import Run
from robotlearn.report.seeds import Group, group
from robotlearn.report.values import differing, value_of

DASH = "–"
SPREAD = ("start_success", "final_success", "seconds_to_90", "env_steps_to_90", "updates", "seconds", "samples_per_s")
"""Figures of which a group's median, lowest and highest are given."""
_PLAIN_WIDTH = 240  # columns, where the output is no terminal: a file or a pipe wraps nothing


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Raises RunFolderError for the first that is no run folder, has nothing measured yet, or is named twice."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise RunFolderError(f"{path} is named twice")
        seen.add(path.resolve())
    return [Run.read(path) for path in paths]


class Comparison:
    """Runs, grouped by what they share but for the seed, and the keys of their configs that differ."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.groups = group(runs)
        self.keys = differing([run.config for run in runs])
        self.between = [key for key in self.keys if key != "seed"]
        """The keys in which the groups differ."""

    def name(self, members: Group) -> str:
        """A group by what sets it apart; where that is too much to say, by its runs."""
        if not self.between:
            return members.runs[0].title
        if len(self.between) <= 3:
            return ", ".join(f"{key}={value_of(members.runs[0].config, key)}" for key in self.between)
        return ", ".join(run.name for run in members.runs)

    def print(self, console: Console) -> None:
        """Tables of runs, of groups with several seeds, and of the keys that differ."""
        if not console.is_terminal:
            console.width = max(console.width, _PLAIN_WIDTH)
        shared = [f"{what} {values[0]}" for what, values in self._settings().items() if len(set(values)) == 1]
        if shared:
            console.print(Text(f"all runs: {', '.join(shared)}", style="dim"))
        _show(console, *self._run_table())
        if any(len(members.runs) > 1 for members in self.groups):
            _show(console, *self._group_table())
        if self.keys:
            console.print(_table(["config key", *(run.name for run in self.runs)], self._difference_rows(), left=99))

    def as_json(self) -> dict[str, Any]:
        """Everything, unrounded; null is what was not measured."""
        return {
            "runs": [
                {
                    "run": str(run.folder.path),
                    "task": list(run.config.task),
                    "robot": list(run.config.robot),
                    "policy": run.config.policy.kind,
                    "seed": run.config.seed,
                    "state": run.state,
                    **run.summary().as_json(),
                }
                for run in self.runs
            ],
            "differences": {key: [value_of(run.config, key) for run in self.runs] for key in self.keys},
            "groups": [
                {
                    "name": self.name(members),
                    "runs": [str(run.folder.path) for run in members.runs],
                    "seeds": [run.config.seed for run in members.runs],
                    **{
                        figure: None if spread is None else dict(zip(("median", "min", "max"), spread, strict=True))
                        for figure in SPREAD
                        for spread in [members.spread(figure)]
                    },
                }
                for members in self.groups
            ],
        }

    def write_page(self, path: Path) -> None:
        """Write the page, whole or not at all; its folder is made where it is missing.

        Raises ConfigError when `path` itself is a folder.
        """
        if path.is_dir():
            raise ConfigError(f"--html {path}: is a folder, expected a file such as {path / 'compare.html'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.page().encode())

    def page(self) -> str:
        charts = side_by_side(self.groups, [self.name(members) for members in self.groups])
        title = f"{len(self.runs)} runs: {', '.join(dict.fromkeys(run.title for run in self.runs))}"
        several = any(len(members.runs) > 1 for members in self.groups)
        body = [
            f"<header><h1>{escape(title)}</h1></header>",
            html.section("Curves", f'<div class="grid wide">{"".join(map(figure, charts))}</div>' if charts else ""),
            html.section("Runs", _page_table(*self._run_table())),
            html.section("Seeds together", _page_table(*self._group_table()) if several else ""),
            html.section(
                "What their configs differ in",
                _page_table(["key", *(run.name for run in self.runs)], self._difference_rows(), left=99)
                if self.keys
                else "",
            ),
        ]
        return html.document(title, "".join(body))

    def _settings(self) -> dict[str, list[str]]:
        return {
            "task": [run.task for run in self.runs],
            "robot": [run.robot for run in self.runs],
            "policy": [run.config.policy.kind for run in self.runs],
        }

    def _run_table(self) -> tuple[list[str], list[list[str]]]:
        """A setting that all runs share has no column."""
        apart = {what: values for what, values in self._settings().items() if len(set(values)) > 1}
        head = [
            "run", *apart, "state", "seed", "updates", "steps", "time", "start", "end", "95 % interval", "to 90 %",
            "steps to 90 %", "steps/s", "max. staleness",
        ]  # fmt: skip
        rows = []
        for index, run in enumerate(self.runs):
            found = run.summary()
            low, high = found.final_low, found.final_high
            rows.append([
                run.name, *(values[index] for values in apart.values()), run.state, str(run.config.seed),
                str(found.updates), _count(found.env_steps), _time(found.seconds), html.percent(found.start_success),
                html.percent(found.final_success),
                DASH if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}",
                _time(found.seconds_to_90), _count(found.env_steps_to_90), _count(found.samples_per_s),
                _count(found.staleness_max),
            ])  # fmt: skip
        return head, rows

    def _group_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["median (lowest to highest)", "seeds", "start", "end", "to 90 %", "steps to 90 %", "updates", "time",
                "steps/s"]  # fmt: skip
        shown = {"start_success": html.percent, "final_success": html.percent, "seconds_to_90": _time, "seconds": _time}
        rows = []
        for members in self.groups:
            cells = []
            for key in SPREAD:
                spread, text = members.spread(key), shown.get(key, _count)
                if spread is None:
                    missing = sum(getattr(run.summary(), key) is None for run in members.runs)
                    cells.append(f"{DASH} ({missing} of {len(members.runs)} without)")
                elif len(members.runs) == 1:
                    cells.append(text(spread[0]))
                else:
                    cells.append("{} ({} to {})".format(*map(text, spread)))
            rows.append([self.name(members), members.seeds, *cells])
        return head, rows

    def _difference_rows(self) -> list[list[str]]:
        return [[key, *(value_of(run.config, key) for run in self.runs)] for key in self.keys]


def compare(runs: Sequence[Run], *, as_json: bool, page: Path | None, console: Console) -> None:
    """What `robotlearn compare` prints and writes."""
    comparison = Comparison(runs)
    if page is not None:
        comparison.write_page(page)
    if as_json:
        console.file.write(json.dumps(comparison.as_json(), allow_nan=False) + "\n")
        return
    comparison.print(console)
    if page is not None:
        console.print(Text(f"page: {page}"), soft_wrap=True)


def _show(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table and an empty line; on its side where the terminal is too narrow for it."""
    table = _table(head, rows)
    if console.measure(table, options=console.options.update(max_width=9999)).maximum > console.width:
        turned = list(zip(*rows, strict=True))
        table = _table(
            [head[0], *turned[0]], [[what, *cells] for what, cells in zip(head[1:], turned[1:], strict=True)]
        )
    console.print(table)
    console.print()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """Text only: what a config says is not to be read as markup. All but the first `left` columns go to the right."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(head):
        table.add_column(Text(column), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _page_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    cells = [[escape(cell) for cell in row] for row in rows]
    return html.table([escape(cell) for cell in head], cells, range(left, len(head)))


def _time(seconds: float | None) -> str:
    return DASH if seconds is None else html.duration(seconds)


def _count(value: float | None) -> str:
    return DASH if value is None else compact(value, 4 if math.isfinite(value) and value < 1e4 else 3)
