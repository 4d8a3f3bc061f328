"""YAML as specs and configs want it: safe, no key twice, every key's line known, numbers as people write them.

PyYAML follows YAML 1.1, in which `3e-4` is text, `off` is false, `012` is ten and `1:30` is ninety. Here plain scalars
follow YAML 1.2's core schema, plus `inf`: so a learning rate of 3e-4 is the number that it looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from hal.errors import DocumentError

KeyPath = tuple[str | int, ...]

_STR = "tag:yaml.org,2002:str"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (a class attribute that PyYAML reads)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (so that it quotes what the loader would not read as text)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _sequence(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, list | dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _sequence)

for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        (_INT, r"[-+]?[0-9]+", list("-+0123456789")),
        (
            _FLOAT,
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.?(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+.0123456789iI"),
        ),
        (_MERGE, r"<<", ["<"]),
    ):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), _first)


def _integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _float(_: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor(_INT, _integer)
_Loader.add_constructor(_FLOAT, _float)


@dataclass(frozen=True)
class Document:
    """A parsed YAML document: its plain data, and the line (from 1) on which each key or item stands."""

    data: Any
    lines: dict[KeyPath, int]


def parse(text: str, source: str) -> Document:
    """Parse one YAML document; `source` names it in errors.

    Raises DocumentError for what isn't YAML, for a key that stands twice in one place, and for a key that isn't text.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {})
        lines: dict[KeyPath, int] = {}
        _walk(node, (), lines, set(), source)
        return Document(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise DocumentError(f"{where}: not YAML: {_one_line(error.problem or error.context or str(error))}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentError(f"{source}: not YAML: {_one_line(str(error))}") from None


def write(data: Any) -> str:
    """YAML of plain data, keys in their order; `parse` reads the same data back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], seen: set[int], source: str) -> None:
    if id(node) in seen:  # an alias: its lines are those of its anchor, and it may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), lines, seen, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_STR, _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or a section"
                raise DocumentError(f"{source}:{line}: a key must be text, not {shown}")
            inner = (*path, str(key.value))
            if inner in lines and key.tag != _MERGE:
                raise DocumentError(f"{source}:{line}: {dotted(inner)}: stands twice, first on line {lines[inner]}")
            lines[inner] = line
            _walk(value, inner, lines, seen, source)


def dotted(path: KeyPath) -> str:
    """A key's path as the command line writes it: `edges.0.arms`."""
    return ".".join(map(str, path))


def _one_line(text: str) -> str:
    return " ".join(text.split())
