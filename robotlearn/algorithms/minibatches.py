"""How the chunks of an update are split."""

from collections.abc import Iterator

import torch
from torch import Tensor


def minibatches(
    count: int, largest: int, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of `count` once, in random order: rows (size,), and which of them are real; the last may be filled up."""
    rows = split(torch.randperm(count, generator=generator), largest)
    real = torch.arange(rows.numel()).view(rows.shape) < count
    yield from zip(rows.to(device), real.to(device), strict=True)


def split(order: Tensor, largest: int) -> Tensor:
    """Rows of equal size, at most `largest`; what the last lacks is filled up with the first of `order`."""
    parts = -(-len(order) // largest)
    size = -(-len(order) // parts)
    return torch.cat([order, order[: parts * size - len(order)]]).view(parts, size)
