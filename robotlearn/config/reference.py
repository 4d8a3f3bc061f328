"""Every key of a config, from the typed config itself: for the command line and for the page in the docs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from robotlearn.config.complaint import shown
from robotlearn.config.config import Config


@dataclass(frozen=True)
class Key:
    """One key: its dotted path (`edges.*.arms`), what it takes, its default as in YAML, what it means.

    `section` names the variant it belongs to (such as `policy, kind gaussian`) or is the path of its section.
    """

    path: str
    section: str
    takes: str
    default: str
    meaning: str


def keys() -> list[Key]:
    """All keys, section by section, in the order of the config."""
    schema = Config.model_json_schema()
    return list(dict.fromkeys(_of(schema, schema["$defs"], "", "the run")))


def matching(word: str) -> list[Key]:
    """The keys at or below a dotted path; failing that, those whose path or meaning has the word in it."""
    plain = _plain(word)
    below = [key for key in keys() if key.path == plain or key.path.startswith(f"{plain}.")]
    return below or [key for key in keys() if word.lower() in f"{key.path} {key.meaning}".lower()]


def nearest_key(word: str) -> str | None:
    """The key's path that is most like `word`, or None where none is."""
    close = get_close_matches(_plain(word), [key.path for key in keys()], n=1, cutoff=0.6)
    return close[0] if close else None


def _plain(word: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in word.split("."))


def page() -> str:
    """The page of all keys, in Markdown."""
    lines = [
        "# Every key of a config",
        "",
        "Made from the typed config by `robotlearn config --markdown`. A key is overridden on the command line as",
        "`key=value`, with the index of a list's item in place of `*`:",
        "`robotlearn train laptop learner.updates=10 edges.0.arms=64`. Another kind of policy has other keys than the",
        "file holds: `'policy={kind: gaussian}'` starts the section anew, and so does `'algorithm={name: NAME}'`.",
    ]
    section = ""
    for key in keys():
        if key.section != section:
            section = key.section
            lines += ["", f"## {section}", "", "| key | takes | default | |", "|---|---|---|---|"]
        cells = (f"`{key.path}`", key.takes, f"`{key.default}`" if key.default else "must be given", key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _of(schema: dict[str, Any], defs: dict[str, Any], prefix: str, section: str) -> Iterator[Key]:
    later: list[tuple[dict[str, Any], str, str]] = []
    for name, field in schema["properties"].items():
        path = prefix + name
        variants = list(_sections(field, defs))
        if variants:
            listed = any("items" in one for one in (field, *field.get("anyOf", ())))
            inner = path + (".*" if listed else "")
            for variant in {str(variant): variant for variant in variants}.values():
                said = {k: variant["properties"].get(k, {}) for k in ("kind", "name")}
                tag = next((k for k in said if said[k].keys() & {"const", "enum"}), None)
                label = f"{inner}, {tag} {_takes(said[tag], defs)}" if tag else inner
                if tag is None and len(variants) > 1:
                    label = f"{inner}, any other"
                later.append((variant, f"{inner}.", label))
            if name in schema.get("required", ()):
                yield Key(path, section, "a list of sections" if "items" in field else "a section", "", _meaning(field))
            elif {"type": "null"} in field.get("anyOf", ()):
                takes = "a list of sections or null" if listed else "a section or null"
                yield Key(path, section, takes, "null", _meaning(field))
        else:
            default = "" if name in schema.get("required", ()) else shown(field.get("default"))
            yield Key(path, section, _takes(field, defs), default, _meaning(field))
    for variant, inner, label in later:
        yield from _of(variant, defs, inner, label)


def _sections(field: dict[str, Any], defs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas of the sections that a field may hold."""
    for part in (field, field.get("items", {}), *field.get("oneOf", ()), *field.get("anyOf", ())):
        if "$ref" in part:
            yield defs[part["$ref"].rpartition("/")[2]]
        elif part is not field and ("oneOf" in part or "anyOf" in part or "$ref" in part.get("items", ())):
            yield from _sections(part, defs)


def _meaning(field: dict[str, Any]) -> str:
    return " ".join(str(field.get("description", "")).split())


_BOUNDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}


def _takes(field: dict[str, Any], defs: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_takes(part, defs) for part in field["anyOf"]))
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    kind = field.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        items = field.get("prefixItems")
        if items:
            return f"[{', '.join(_takes(item, defs) for item in items)}]"
        return f"list of {_takes(field.get('items', {}), defs)}"
    if kind == "object":
        return "keys and values"
    bounds = [words.format(shown(field[name])) for name, words in _BOUNDS.items() if name in field]
    return " ".join([_TYPES.get(str(kind), "number"), ", ".join(bounds)]).strip()
