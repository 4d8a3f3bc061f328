"""What is wrong with a config, in one line: which key, which value, what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hal.document import KeyPath, dotted
from robotlearn.config.section import Misfit

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that isn't empty",
    "bool_type": "true or false",
    "dict_type": "a section of keys",
    "tuple_type": "a list",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} in the list",
    "too_long": "at most {max_length} in the list",
    "string_pattern_mismatch": "text that matches {pattern}",
    "union_tag_invalid": "one of {expected_tags}",
}


def complaint(error: ValidationError, model: type[BaseModel]) -> tuple[KeyPath, str]:
    """The key of the first mistake and the line that tells it (file and line number are the caller's).

    An unknown key goes first: what is missing elsewhere is mostly what it was meant to be.
    """
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    first = found[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    path, models = _resolve(model, first["loc"], unknown=kind == "extra_forbidden")
    expected = _EXPECTED.get(kind, first["msg"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, context["discriminator"].strip("'"))
        value = context.get("tag")
    if kind == "extra_forbidden":
        text = f"unknown key{nearest(str(path[-1]), _keys(models))}"
    elif kind == "missing" and isinstance(path[-1], int):  # an item of a list of fixed length
        text = f"{shown(value)} is not valid, expected at least {path[-1] + 1} in the list"
        path = path[:-1]
    elif kind in ("missing", "union_tag_not_found"):
        text = f"missing ({_description(models, str(path[-1]))})"
    elif kind == "value_error":
        cause = context["error"]
        if isinstance(cause, Misfit):
            path, text = (*path, *cause.key), str(cause)
        else:
            text = f"{shown(value)} is not valid, expected {cause}"
    else:
        bounds = {name: _bound(one) for name, one in context.items()}
        text = f"{shown(value)} is not valid, expected {expected.format(**bounds)}"
    line = " ".join((f"{dotted(path)}: {text}" if path else text).split())
    more = len(found) - 1
    return path, line + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")


def nearest(word: str, known: Iterable[str]) -> str:
    """What to put behind "unknown ...": the nearest of the known words or, where none is near, all of them."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f", nearest is '{close[0]}'"
    return f", known are {', '.join(known)}" if known else ""


def shown(value: Any) -> str:
    """A value as a message shows it: as in YAML, and never long."""
    value = list(value) if isinstance(value, tuple) else value
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _bound(value: Any) -> Any:
    """1.0 as 1, but a large whole number with all of its digits."""
    return f"{value:g}" if isinstance(value, float) else value


def _resolve(
    model: type[BaseModel], loc: tuple[int | str, ...], unknown: bool
) -> tuple[KeyPath, list[type[BaseModel]]]:
    """Pydantic's location as a path of keys, and the models that its last key may belong to.

    In a location the tag of a union stands between an item and its keys (`edges`, 0, `batch`, `arms`); it is no key.
    `unknown`: the last part is a key that no model has.
    """
    path: list[int | str] = []
    models = [model]
    names = False  # the next part is a key that the user chose: of a mapping
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        known = not names and any(part in one.model_fields for one in models)
        if names or isinstance(part, int) or known or (last and unknown):
            path.append(part)
            names = False
            if known and not last:
                fields = [one.model_fields[str(part)].annotation for one in models if part in one.model_fields]
                names = any(get_origin(field) is dict for field in fields)
                models = [inner for field in fields for inner in _models(field)]
        else:
            models = [one for one in models if _tagged(one, part)]
    return tuple(path), models


def _tagged(model: type[BaseModel], tag: str) -> bool:
    """Whether this is the union's member of that tag: the one whose kind or name it is, or the one that takes any."""
    field = model.model_fields.get("kind") or model.model_fields.get("name")
    known = get_args(field.annotation) if field is not None else ()
    return tag in known if tag != "other" else not known


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _keys(models: list[type[BaseModel]]) -> set[str]:
    return {key for model in models for key in model.model_fields}


def _description(models: list[type[BaseModel]], key: str) -> str:
    for model in models:
        if key in model.model_fields:
            return str(model.model_fields[key].description).rstrip(".")
    return "a value"
