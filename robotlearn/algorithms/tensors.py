"""Tensors of several things together: the parts of a saved state, the fields of a batch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of several parts as one, `PART.KEY` to tensor."""
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def parted(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What `joined` made one, by its parts again; of a part that isn't there nothing."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    return parts


def moved[Batch](batch: Batch, device: torch.device | str) -> Batch:
    """A dataclass with its tensors, and those of its mappings, on a device; where memory is pinned nothing waits."""
    whole: Any = batch
    made: Batch = replace(whole, **{field.name: _on(getattr(whole, field.name), device) for field in fields(whole)})
    return made


def _on(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Mapping):
        return {key: _on(each, device) for key, each in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
