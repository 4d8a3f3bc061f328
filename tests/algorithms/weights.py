"""A module's weights at a moment, and whether a policy's change only after it was said."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robotlearn.algorithms.optimizer import Optimizer


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def watch(policy: nn.Module, optimizer: Optimizer) -> tuple[list[dict[str, Tensor]], Callable[[], None]]:
    """From now on each step of `optimizer` must come after a call of the second thing returned, `before_change`, and
    what is there then must be what the step before left. The first has the weights at the start and after each step.
    """
    seen: list[dict[str, Tensor]] = [weights(policy)]
    descend = optimizer._descend

    def say() -> None:
        assert same(weights(policy), seen[-1])
        seen.append({})

    def watched() -> None:
        assert seen[-1] == {}, "a step without a word"
        descend()
        seen[-1] = weights(policy)

    optimizer._descend = watched  # type: ignore[method-assign]
    return seen, say
