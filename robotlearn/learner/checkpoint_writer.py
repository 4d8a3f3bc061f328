"""Checkpoints written behind training."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from robotlearn import checkpoint
from robotlearn.checkpoint import Checkpoint

Tensors = Mapping[str, torch.Tensor]


class CheckpointWriter:
    """Copies what is to be saved, at once, and writes it on a thread of its own, one checkpoint at a time.

    The memory of the copies is kept for the next ones: fresh pages would cost the training loop more than the copying.
    Used by one thread.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None
        self._policy: dict[str, torch.Tensor] = {}
        self._algorithm: dict[str, torch.Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether one was written, or could not be, of which `wait` was not told yet."""
        return self._writing is not None and self._writing.done()

    def begin(self, saved: Checkpoint) -> None:
        """Have it written, as its tensors are now. Waits for the one before it and raises as `wait` does."""
        self.wait()
        self._policy, self._algorithm = _copy(saved.policy, self._policy), _copy(saved.algorithm, self._algorithm)
        copied = replace(saved, policy=self._policy, algorithm=self._algorithm)
        self._writing = self._thread.submit(checkpoint.save, copied, self._directory)

    def wait(self) -> bool:
        """Until what was begun is durable; whether there was anything. Raises CheckpointError when it could not be
        written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
        return writing is not None

    def close(self) -> None:
        """Wait, and end the thread. Idempotent."""
        self._thread.shutdown()


def _copy(tensors: Tensors, kept: Tensors) -> dict[str, torch.Tensor]:
    """Copies on the CPU, in the memory of `kept` where a tensor is like the one before it."""
    return {name: _copy_one(tensor.detach(), kept.get(name)) for name, tensor in tensors.items()}


def _copy_one(tensor: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
        return kept.copy_(tensor)
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
