"""Tables that commands print, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager


def printable(text: str) -> str:
    """Text of a record without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    """Rows of text under their columns' names, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    from robotlearn.robots.states import wide_console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    wide_console().print(table)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows on standard error, while it goes on, how much of it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
