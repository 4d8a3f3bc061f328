"""Packages of the user's own that are called like ours: one of the two is not found."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from robotlearn.doctor.check import WAYS, Check

NAMES = ("robotlearn", "hal", "envs", "policies")
SECTION = "names"


def check_names(ours: Path, here: Path) -> list[Check]:
    """`ours`: the folder that holds our packages; `here`: the working directory."""
    return [check for name in NAMES for check in _check(name, ours.resolve(), here.resolve())]


def _check(name: str, ours: Path, here: Path) -> list[Check]:
    own = ours / name
    wins = _place(importlib.util.find_spec(name))
    if wins != own:
        found = f"`import {name}` finds {wins or 'nothing'}, not {own}"
        remedy = f"rename {wins}, or take {wins.parent} out of PYTHONPATH" if wins else "install robotlearn again"
        return [Check(SECTION, name, "broken", found, remedy, tuple(WAYS))]
    checks = []
    local = _place(PathFinder.find_spec(name, [str(here)]))
    if local not in (None, own):
        checks.append(
            Check(
                SECTION, name, "warning",
                f"{local} is called like ours and wins in `python -m robotlearn` and in scripts started here",
                "use the command `robotlearn`, or another folder, or rename yours",
            )
        )  # fmt: skip
    for entry in dict.fromkeys(sys.path):
        other = _place(PathFinder.find_spec(name, [entry])) if entry else None
        if other not in (None, own, local):
            checks.append(
                Check(
                    SECTION, name, "warning", f"{other} can't be imported: {own} comes first",
                    "rename it, or give it an environment of its own",
                )
            )  # fmt: skip
    return checks or [Check(SECTION, name, "ok", str(own))]


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module; a folder without __init__.py hides nobody and counts as None."""
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    path = Path(spec.origin).resolve()
    return path.parent if path.name == "__init__.py" else path
