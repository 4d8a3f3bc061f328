"""Puts the looks together, prints them or gives them as JSON, and says with which status the command ends."""

import json
import platform
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from robotlearn.doctor import installed, machine, names
from robotlearn.doctor.check import Check
from robotlearn.doctor.children import run_probes
from robotlearn.version import __version__

MARKS = {"ok": ("ok", "green"), "missing": ("-", "dim"), "warning": ("warning", "yellow"), "broken": ("BROKEN", "red")}
INDENT = 11


def look(waiting: Callable[[list[str]], None] = lambda names: None) -> list[Check]:
    """Everything, in a few seconds; no look that fails keeps the others from being done."""
    needs: list[installed.Requirement] = []
    unread = _safely("packages", lambda: needs.extend(installed.requirements()) or [])
    found = run_probes(installed.probes(needs) | machine.probes(), waiting)
    torch, gpu = found.get("torch", {}), found.get("gpu", {})
    return [
        *unread,
        *_safely("packages", lambda: installed.check_packages(found, needs)),
        *_safely("names", lambda: names.check_names(installed.ROOT, Path.cwd())),
        *_safely("drawing", lambda: machine.check_drawing(found)),
        *_safely("machine", lambda: [machine.check_gpus(gpu, torch)]),
        *_safely("machine", lambda: [machine.check_cores()]),
    ]


def _safely(section: str, one: Callable[[], list[Check]]) -> list[Check]:
    try:
        return one()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return [Check(section, "doctor", "warning", f"this can't be looked at ({text})")]


def doctor(*, as_json: bool) -> int:
    """Look and print; 0, or 1 when something is broken."""
    about = f"robotlearn {__version__} in {installed.ROOT}, Python {platform.python_version()} ({sys.executable})"
    # Spinner and complaints go to the other stream: what is printed can be piped into a report of a fault.
    console = Console(stderr=True)
    with console.status("looking ...") as status:
        checks = look(lambda waiting: status.update(f"looking ... {', '.join(waiting)}"))
    broken = [check.name for check in checks if check.state == "broken"]
    if as_json:
        print(json.dumps({"ok": not broken, "about": about, "checks": [asdict(check) for check in checks]}))
    else:
        show(about, checks, Console())
    if broken:
        print(f"robotlearn: broken: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


def show(about: str, checks: list[Check], console: Console) -> None:
    """A paragraph per section; packages that are well share one line."""
    console.print(Text(about), soft_wrap=True)
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            console.print(Text(f"\n{section}", style="bold"))
            well = [one for one in checks if one.section == section == "packages" and one.state == "ok"]
            if well:
                _line(console, "ok", ", ".join(f"{one.name} {one.detail.replace(', ', ' ')}" for one in well))
        if check.section == "packages" and check.state == "ok":
            continue
        _line(console, check.state, f"{check.name}: {check.detail}")
        if check.remedy:
            # Never folded, so that it can be copied.
            console.print(Text(f"{'':{INDENT}}{check.remedy}", style="cyan"), soft_wrap=True)


def _line(console: Console, state: str, text: str) -> None:
    word, style = MARKS[state]
    width = max(console.width, 2 * INDENT) - INDENT
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
        console.print(Text.assemble((f"  {word}".ljust(INDENT), style), line), soft_wrap=True)
        word = ""
