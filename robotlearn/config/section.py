"""What every part of a config has in common: read-only, strict about types, no unknown key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt


class Section(BaseModel):
    """One part of a config.

    Frozen; an unknown key is refused; types are strict (an integer passes for a float, but text never passes for a
    number nor a number for true or false), so that a slip of the pen is an error now and not a surprise an hour later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class Misfit(ValueError):
    """Raised when keys of a section don't fit each other; `key` is the path, in the section, of the one to blame."""

    def __init__(self, key: tuple[str | int, ...], text: str) -> None:
        super().__init__(text)
        self.key = key


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# YAML has lists, a frozen config has tuples: every sequence in a config takes both.
ListAsTuple = BeforeValidator(_tuple)
Widths = Annotated[tuple[Annotated[PositiveInt, Field(le=65536)], ...], ListAsTuple]
Interval = Annotated[tuple[float, float], ListAsTuple]


def _names(value: Any) -> Any:
    names = (value,) if isinstance(value, str) else _tuple(value)
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("a name or a list of names")
    return names


# One name or a list of them: always a tuple in the config.
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
