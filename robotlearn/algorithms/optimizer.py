"""Adam that never applies a broken step, and whose state is a flat dict of tensors."""

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robotlearn.algorithms.errors import DivergedError, StateError

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5


class Optimizer:
    """AdamW with a bound on the gradient's norm. A step whose loss or gradient is not finite is skipped and counted.

    Attributes:
        skipped: steps skipped so far.
    """

    def __init__(
        self, name: str, module: nn.Module, lr: float, grad_clip: float, weight_decay: float = 0.0, eps: float = 1e-5
    ) -> None:
        """`name` appears in messages; parameters that need no gradient are left alone."""
        self.name, self.grad_clip = name, grad_clip
        self._named = {key: p for key, p in module.named_parameters() if p.requires_grad}
        self._adam = torch.optim.AdamW(self._named.values(), lr=lr, eps=eps, weight_decay=weight_decay, fused=True)
        self.skipped = 0
        self._in_a_row = 0

    def step(self, loss: Tensor) -> float:
        """One descent step; returns the gradient's norm before clipping (NaN or infinite: the step was skipped).

        Raises DivergedError when this was the fifth skipped step in a row.
        """
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.grad_clip).item()
        if not (math.isfinite(norm) and math.isfinite(loss.item())):
            self._skip(loss.item(), norm)
            return math.nan
        self._in_a_row = 0
        self._adam.step()
        return norm

    @property
    def parameters(self) -> Iterable[nn.Parameter]:
        return self._named.values()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._adam.param_groups[0]["lr"])

    def set_lr(self, lr: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and step count by parameter name, and the counts of skipped steps."""
        state = {
            f"{key}.{name}": value.detach().clone()
            for key, parameter in self._named.items()
            for name, value in self._adam.state[parameter].items()
        }
        return state | {"skipped": torch.tensor([self.skipped, self._in_a_row])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises StateError when the state belongs to other parameters."""
        state = dict(state)
        try:
            self.skipped, self._in_a_row = state.pop("skipped").tolist()
        except KeyError as error:
            raise StateError(f"the saved state of the {self.name} optimiser lacks {error}.") from None
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (key, parameter) in enumerate(self._named.items()):
            found = {name: state.pop(f"{key}.{name}", None) for name in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is None for value in found.values()):
                continue  # no step was taken before it was saved
            moments[index] = {}
            for name, value in found.items():
                shape = torch.Size(()) if name == "step" else parameter.shape
                if value is None or value.shape != shape:
                    what = "is missing" if value is None else f"has shape {tuple(value.shape)}, expected {tuple(shape)}"
                    raise StateError(f"the saved state of the {self.name} optimiser doesn't fit: {key}.{name} {what}.")
                moments[index][name] = value.clone()
        if state:
            raise StateError(
                f"the saved state of the {self.name} optimiser has keys that nothing here uses: {sorted(state)}."
            )
        self._adam.load_state_dict({"state": moments, "param_groups": self._adam.state_dict()["param_groups"]})

    def _skip(self, loss: float, norm: float) -> None:
        self.skipped += 1
        self._in_a_row += 1
        log.warning("skipped a step of the %s: loss %g, gradient norm %g", self.name, loss, norm)
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"{self._in_a_row} optimiser steps of the {self.name} in a row had a loss or gradient that isn't "
                f"finite (last loss {loss:g}, gradient norm {norm:g}); no such step was applied. Look for non-finite "
                "observations or rewards, else lower the learning rate."
            )
