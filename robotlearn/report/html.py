"""The frame of a page: one file without a script, whose policy forbids it to ask the network for anything."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from robotlearn.version import __version__

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'"
_SOFTWARE = ("torch", "mujoco", "numpy")


def document(title: str, body: str) -> str:
    """A whole page. `title` is text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}</main><footer>{escape(_written())}</footer></body></html>\n"
    )


def section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>" if body else ""


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """(what, value, small print) each."""
    return '<dl class="tiles">' + "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for what, value, note in values
    ) + "</dl>"  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of HTML cells, which the caller has escaped; columns in `numeric` are set to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        right = ' class="number"'
        return "".join(f"<{tag}{right if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    above = f"<thead><tr>{cells('th', head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{above}<tbody>{body}</tbody></table></div>'


def moment(seconds: float) -> str:
    """Seconds since the epoch, as a date; what is beyond the calendar is told as it is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _written() -> str:
    software = [f"Python {platform.python_version()}"]
    for name in _SOFTWARE:
        try:
            software.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    now = moment(datetime.now(UTC).timestamp())
    return f"Written {now} by robotlearn {__version__} ({', '.join(software)})."
