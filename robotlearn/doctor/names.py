"""Packages of the user's own that are called like ours: `import envs` finds one of the two, and hides the other."""

import importlib.util
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from robotlearn.doctor.check import Check

NAMES = ("robotlearn", "hal", "envs", "policies")
SECTION = "names"


def check_names(ours: Path, here: Path) -> list[Check]:
    """`ours`: the folder that holds our packages; `here`: the working directory. Imports none of them."""
    ours, here = ours.resolve(), here.resolve()
    checks = [check for name in NAMES for check in _wrong(name, ours, here)]
    fine = [name for name in NAMES if name not in {check.name for check in checks}]
    return [*([Check(SECTION, ", ".join(fine), "ok", f"of {ours}")] if fine else []), *checks]


def _wrong(name: str, ours: Path, here: Path) -> list[Check]:
    own = ours / name
    wins = _place(importlib.util.find_spec(name))
    if wins != own:
        remedy = f"rename {wins}, or take {wins.parent} out of PYTHONPATH" if wins else "install robotlearn again"
        return [Check(SECTION, name, "broken", f"`import {name}` finds {wins or 'nothing'}, not {own}", remedy)]
    checks = []
    for folder in dict.fromkeys([here, *(Path(entry).resolve() for entry in sys.path if entry)]):
        spec = PathFinder.find_spec(name, [str(folder)])
        other = _place(spec)
        if other is None or other == own:
            continue
        if name != "robotlearn" and (folder / "robotlearn" / "version.py").exists():
            continue  # another robotlearn, of which is told once
        detail, remedy = f"{other} is hidden: `import {name}` finds {own}", f"rename {other}, to use it with robotlearn"
        if name == "robotlearn":
            remedy = f"keep one of the two: uninstall one, or take {folder} out of PYTHONPATH"
        elif folder == here and spec is not None and spec.origin is not None:
            detail = f"{other} takes its place in scripts started here, and robotlearn does not work there"
            remedy = f"rename {other}"
        checks.append(Check(SECTION, name, "warning", detail, remedy))
    owners = [one for one in metadata.packages_distributions().get(name, []) if one != "robotlearn"]
    if owners and not checks:
        detail = f"{owners[0]} installs a package {name} too: one of them may have written over the other's files"
        checks.append(Check(SECTION, name, "warning", detail, f"give {owners[0]} an environment of its own"))
    return checks


def _place(spec: ModuleSpec | None) -> Path | None:
    """Folder of a package, file of a module. A folder without __init__.py counts if there is code in it."""
    if spec is None:
        return None
    if spec.origin is not None and spec.has_location:
        path = Path(spec.origin).resolve()
        return path.parent if path.name == "__init__.py" else path
    for folder in map(Path, spec.submodule_search_locations or []):
        if any(folder.glob("*.py")) or any(folder.glob("*/__init__.py")):
            return folder.resolve()
    return None
