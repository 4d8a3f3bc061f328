"""Weights that live on a GPU, copied to the host by its copy engine while training goes on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch


class HostCopies:
    """Copies of a policy's tensors in pinned memory of the host, made on a stream of their own.

    The copies are of one point of the training stream: all that was launched there before `take` is in them, and what
    comes after `settle` is not. Between the two, training may read the tensors (its next forward and backward pass),
    and the host waits for nothing; `settle` makes the training stream wait, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._here: dict[str, torch.Tensor] = {}
        self._marks: dict[str, Hashable] = {}
        self._copied = torch.cuda.Event()

    def take(self, state: Mapping[str, torch.Tensor], constant: Mapping[str, Hashable]) -> dict[str, torch.Tensor]:
        """Begin to copy; `wait` returns when all of it is here. What is returned is overwritten by the next `take`.

        `constant` names those that do not train, each with a mark: with the same one it is not copied again.
        """
        training = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            for name, tensor in state.items():
                here = self._here.get(name)
                if here is None or here.shape != tensor.shape or here.dtype != tensor.dtype:
                    here = self._here[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                    self._marks.pop(name, None)
                mark = constant.get(name)
                if mark is None or self._marks.get(name) != mark:
                    here.copy_(tensor.detach(), non_blocking=True)
                if mark is not None:
                    self._marks[name] = mark
            self._copied.record(self._stream)
        return {name: self._here[name] for name in state}

    def settle(self) -> None:
        """What is launched on the training stream from here on runs after the copies: the tensors may change."""
        torch.cuda.current_stream(self._device).wait_event(self._copied)

    def wait(self) -> None:
        """Return when the copies are here; any thread."""
        self._copied.synchronize()
