"""What is said when the keys of a section are not of the kind that the section asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from hal.document import KeyPath, dotted
from robotlearn.config import algorithms, policy_kind
from robotlearn.config.complaint import nearest, shown

_SECTIONS = {
    "policy": ("kind", policy_kind.KINDS, "robotlearn.policies"),
    "algorithm": ("name", algorithms.NAMES, "robotlearn.algorithms"),
}


def chosen(data: Mapping[str, Any]) -> dict[KeyPath, Any]:
    """The kind of each section that comes in kinds, by the path of the key that says it; by default the default."""
    found: dict[KeyPath, Any] = {}
    for section, (tag, own, _) in _SECTIONS.items():
        keys = data.get(section, {})
        found[section, tag] = keys.get(tag, own[0]) if isinstance(keys, dict) else own[0]
    return found


def misplaced(
    error: ValidationError, file: Mapping[KeyPath, Any], now: Mapping[KeyPath, Any], overridden: Collection[KeyPath]
) -> tuple[KeyPath, str] | None:
    """For unknown keys that the kind explains: its key, and the line that tells it; None for any other mistake.

    `file` and `now`: what `chosen` gives without and with the overrides, whose keys `overridden` are.
    """
    wrong = {
        (str(one["loc"][0]), str(one["loc"][-1])): None
        for one in error.errors(include_url=False)
        if one["type"] == "extra_forbidden" and len(one["loc"]) == 3  # section, its kind, key
    }
    for section, (tag, own, group) in _SECTIONS.items():
        keys = [path for path in wrong if path[0] == section]
        path = (section, tag)
        kind, before = now[path], file[path]
        if not keys or not isinstance(kind, str):
            continue
        known = {*own, *(point.name for point in entry_points(group=group))}
        if kind not in known:
            return path, f"{dotted(path)}: {shown(kind)} is not known{nearest(kind, known)}"
        theirs = [key for key in keys if key not in overridden]
        if kind != before and path in overridden and theirs:
            more = f" and {len(theirs) - 3} more" if len(theirs) > 3 else ""
            return path, (
                f"{', '.join(map(dotted, theirs[:3]))}{more}: what the file says for {tag} {before}, {kind} has no "
                f"such key; '{section}={{{tag}: {kind}}}' starts the section anew"
            )
    return None
