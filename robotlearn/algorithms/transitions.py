"""What off-policy algorithms learn from: windows of stored steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robotlearn.algorithms.tensors import moved


@dataclass(frozen=True)
class Window:
    """What is to be known of a step that is drawn: the chunk of actions from it on, and where it led.

    horizon: H, actions of the chunk. steps: n >= H, how many steps on the bootstrap lies (n-step returns); both end
    earlier with the episode. gamma: discount per step. bootstraps: whether the observation there is needed at all.
    timeout: what is worth nothing more: bootstrap, only what terminated; failure, also what a time limit cut off.
    """

    horizon: int
    steps: int
    gamma: float
    bootstraps: bool = True
    timeout: Literal["bootstrap", "failure"] = "bootstrap"

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= self.steps:
            raise ValueError(f"a window of {self.steps} steps can't hold chunks of {self.horizon} actions")


@dataclass(frozen=True)
class Transitions:
    """B windows that begin at steps that were drawn, all as the policy is shown it. H actions, m <= n steps each.

    observations: {key: (B, ...)} before the first step; images stay uint8.
    next_observations: {key: (B, ...)} after the m steps; empty where the window doesn't bootstrap.
    actions: (B, H, D) float32, as the policy asked for them, or as they were executed where a person acted and in
        demonstrations, in the robots' units; after an episode's end the last one again.
    valid: (B, H) bool, steps that there were.
    intervention: (B, H) bool, steps that a person did; False where not valid.
    reward: (B,) float32, sum_{k<m} gamma^k r_k.
    discount: (B,) float32, gamma^m, or 0 where the episode was over with the window: the weight of what comes after.
    weight: (B,) float32, 1, or what makes up for drawing some steps more often than others (arXiv:1511.05952, 3.4).
    version: (B,) int64, of the weights that the first action came from; -1: of none.
    rows: (B,) int64, which steps these are.
    """

    observations: Mapping[str, Tensor]
    next_observations: Mapping[str, Tensor]
    actions: Tensor
    valid: Tensor
    intervention: Tensor
    reward: Tensor
    discount: Tensor
    weight: Tensor
    version: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.reward)

    def to(self, device: torch.device | str) -> "Transitions":
        """The same on a device, without waiting where memory is pinned."""
        if self.reward.device == torch.device(device):
            return self
        return moved(self, device)
