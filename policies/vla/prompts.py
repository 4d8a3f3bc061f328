"""The words that a VLA is given, as its tokens."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_STEP = 8  # tokens are padded to a multiple of it, so that a batch's longest prompt decides less


class Prompts:
    """A tokenizer that remembers what it was asked; pads to the right."""

    def __init__(self, tokenizer: Any, longest: int) -> None:
        """`longest`: tokens; what goes beyond is cut off, as in LeRobot."""
        self.tokenizer, self.longest = tokenizer, longest
        self._tokens = lru_cache(maxsize=65536)(self._ask)
        self._batches = lru_cache(maxsize=64)(self._batch)

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) int64, and which of them count (B, L) bool; for the same texts mostly the same tensors."""
        return self._batches(tuple(texts), device)

    def _batch(self, texts: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        rows = [self._tokens(text) for text in texts]
        width = min(-(-max(map(len, rows)) // _STEP) * _STEP, self.longest)
        tokens = torch.full((len(rows), width), self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        counts = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            counts[index, : len(row)] = True
        return tokens.to(device), counts.to(device)

    def _ask(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, max_length=self.longest, truncation=True)["input_ids"])
