"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
