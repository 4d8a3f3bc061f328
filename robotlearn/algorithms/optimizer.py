"""Adam that never applies a broken step, and whose state is a flat dict of tensors."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from robotlearn.algorithms.errors import DivergedError, StateError

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5
BETAS = (0.9, 0.999)


class Optimizer:
    """AdamW (arXiv:1711.05101) with a bound on the gradient's norm. A step that is not finite is skipped and counted.

    Written out, since the first step of torch's own loads its compiler, which takes five seconds of every start.

    Attributes:
        skipped: steps skipped so far.
    """

    def __init__(
        self, name: str, module: nn.Module, lr: float, grad_clip: float, weight_decay: float = 0.0, eps: float = 1e-5
    ) -> None:
        """`name` appears in messages; parameters that need no gradient are left alone."""
        self.name, self.grad_clip = name, grad_clip
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self._named = {key: p for key, p in module.named_parameters() if p.requires_grad}
        self._mean = {key: torch.zeros_like(p) for key, p in self._named.items()}
        self._square = {key: torch.zeros_like(p) for key, p in self._named.items()}
        self._grad: dict[str, Tensor] = {}
        self._steps = 0
        self.skipped = 0
        self._in_a_row = 0

    def step(self, loss: Tensor, before_change: Callable[[], None] = lambda: None) -> float:
        """One descent step; returns the gradient's norm before clipping (NaN or infinite: the step was skipped).

        `before_change` is called when the gradient is there and the parameters are about to change.
        Raises DivergedError when this was the fifth skipped step in a row.
        """
        self._grad = self._gradients(loss)
        # Together, for each look at a number waits for the device.
        value, *norms = torch.stack([loss.detach(), *torch._foreach_norm(list(self._grad.values()))]).tolist()
        norm = math.hypot(*norms)
        if not (math.isfinite(norm) and math.isfinite(value)):
            self._grad = {}
            self._skip(value, norm)
            return math.nan
        self._in_a_row = 0
        before_change()
        if norm > self.grad_clip:
            _scale(self._grad, self.grad_clip / norm)
        self._descend()
        self._grad = {}
        return norm

    @property
    def parameters(self) -> Iterable[nn.Parameter]:
        return self._named.values()

    def state_dict(self) -> dict[str, Tensor]:
        """Moments by parameter name, and the counts of steps done and skipped; copied to the CPU, since the device's
        memory may be full.
        """
        moments = (("exp_avg", self._mean), ("exp_avg_sq", self._square))
        state = {
            f"{key}.{name}": value.to("cpu", copy=True) for name, values in moments for key, value in values.items()
        }
        return state | {"counts": torch.tensor([self._steps, self.skipped, self._in_a_row])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises StateError when the state belongs to other parameters."""
        state = dict(state)
        try:
            self._steps, self.skipped, self._in_a_row = state.pop("counts").tolist()
        except KeyError as error:
            raise StateError(f"the saved state of the {self.name} optimiser lacks {error}.") from None
        for name, values in (("exp_avg", self._mean), ("exp_avg_sq", self._square)):
            for key, value in values.items():
                found = state.pop(f"{key}.{name}", None)
                if found is None or found.shape != value.shape:
                    what = (
                        "is missing"
                        if found is None
                        else f"has shape {tuple(found.shape)}, expected {tuple(value.shape)}"
                    )
                    raise StateError(f"the saved state of the {self.name} optimiser doesn't fit: {key}.{name} {what}.")
                value.copy_(found)
        if state:
            raise StateError(
                f"the saved state of the {self.name} optimiser has keys that nothing here uses: {sorted(state)}."
            )

    def _gradients(self, loss: Tensor) -> dict[str, Tensor]:
        # Of these parameters alone: what else the loss went through, such as a critic, costs no gradient.
        found = torch.autograd.grad(loss, list(self.parameters), allow_unused=True)
        return {
            key: _laid_out_as(parameter, gradient)
            for (key, parameter), gradient in zip(self._named.items(), found, strict=True)
            if gradient is not None
        }

    @torch.no_grad()
    def _descend(self) -> None:
        self._steps += 1
        parameters = [self._named[key] for key in self._grad]
        count = torch.full((), float(self._steps), device=parameters[0].device)
        torch._fused_adamw_(
            parameters,
            list(self._grad.values()),
            [self._mean[key] for key in self._grad],
            [self._square[key] for key in self._grad],
            [],
            [count] * len(parameters),
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

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


def _scale(gradients: dict[str, Tensor], factor: float) -> None:
    """Multiply all, in place where it can be, or they would be in memory twice."""
    # Parameters that are added to each other have one gradient, or parts of one.
    holders = Counter(gradient.untyped_storage().data_ptr() for gradient in gradients.values())
    alone = {key for key, gradient in gradients.items() if holders[gradient.untyped_storage().data_ptr()] == 1}
    gradients |= {key: gradient * factor for key, gradient in gradients.items() if key not in alone}
    if alone:
        torch._foreach_mul_([gradient for key, gradient in gradients.items() if key in alone], factor)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides: the fused step goes through the memory of both alike."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
