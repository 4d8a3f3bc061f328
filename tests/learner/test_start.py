"""Imitation up to a band of success: what is kept to go back to."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robotlearn.cells import cells_of
from robotlearn.config import load_config
from robotlearn.errors import StartError
from robotlearn.inputs import Inputs
from robotlearn.learner.start import teach
from robotlearn.policy import build_policy


class Copies(TorchDispatchMode):
    """The most copies of tensors of each shape that there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[torch.Tensor]] = []
        self.most: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self._made.append(weakref.ref(result))
            there = (tensor.shape for ref in self._made if (tensor := ref()) is not None)
            self.most |= Counter(tuple(shape) for shape in there)
        return result


def test_what_can_be_gone_back_to_is_kept_once_and_only_what_is_learnt() -> None:
    sizes = ["policy.hidden=[17, 19]", "sft.steps=6", "demonstrations.episodes=1", "episode_steps=12"]
    config = load_config("smoke", [*sizes, "start={success_band: [0.99, 1.0], every: 2, episodes: 1}"])
    inputs = Inputs(config)
    policy = build_policy(config, inputs)
    frozen, learnt = (module for module in policy.network if getattr(module, "out_features", 0) in (17, 19))
    frozen.requires_grad_(False)
    with pytest.raises(StartError, match="6 steps"), Copies() as copies:
        teach(policy, config, cells_of(config), inputs, lambda text, done: None)
    assert copies.most[tuple(frozen.weight.shape)] == 0
    assert copies.most[tuple(learnt.weight.shape)] == 3, "the weight and Adam's two moments"
