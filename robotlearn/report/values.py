"""Single values of configs, for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robotlearn.config.complaint import shown
from robotlearn.config.config import Config
from robotlearn.config.load import differences

ABSENT = "–"


def differing(configs: Sequence[Config]) -> list[str]:
    """The dotted keys in which any of the configs differs from the first."""
    return sorted({key for config in configs[1:] for key in differences(configs[0], config)})


def value_of(config: Config, key: str) -> str:
    """The value of a dotted key, as a message shows it; a dash where the config has no such key."""
    value: Any = config.model_dump()
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return shown(value)
