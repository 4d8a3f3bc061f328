"""Supervised flow matching on demonstrations: the policy learns to do what they did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.errors import EpisodeError, StateError
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.config.algorithms import SFTConfig

Progress = Callable[[int, float], None]
"""Called with the number of steps done and the last loss."""


@dataclass(frozen=True)
class Windows:
    """B chunks as demonstrated: observations {key: (B, ...)}, actions (B, H, D) float32, valid (B, H) bool.

    Steps after an episode's end repeat its last action and are not valid.
    """

    observations: dict[str, Tensor]
    actions: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, rows: Tensor) -> "Windows":
        return Windows({k: v[rows] for k, v in self.observations.items()}, self.actions[rows], self.valid[rows])

    @classmethod
    def joined(cls, parts: Sequence["Windows"]) -> "Windows":
        """All of several, with equal keys and shapes; one alone is itself."""
        if len(parts) == 1:
            return parts[0]
        observations = {key: torch.cat([part.observations[key] for part in parts]) for key in parts[0].observations}
        return cls(observations, torch.cat([p.actions for p in parts]), torch.cat([p.valid for p in parts]))

    def to(self, device: torch.device | str) -> "Windows":
        """The same windows on a device."""
        obs = {key: value.to(device) for key, value in self.observations.items()}
        return Windows(obs, self.actions.to(device), self.valid.to(device))


def windows(
    observations: Mapping[str, NDArray[np.generic]],
    actions: NDArray[np.floating],
    episode_ends: NDArray[np.integer],
    horizon: int,
) -> Windows:
    """The chunk of the next `horizon` actions from every step of every episode.

    Args:
        observations: {key: (T, ...)}, each the one from which the action of the same row was chosen; not copied where
            they may be written to, since images fill the memory.
        actions: (T, D), of all episodes, one after the other.
        episode_ends: (E,), the row after the last of each episode, ascending; the last is T.

    Raises:
        EpisodeError: where lengths and ends don't fit together.
    """
    steps, ends = len(actions), np.asarray(episode_ends, np.int64)
    if not steps or not len(ends) or ends[-1] != steps or (np.diff(ends, prepend=0) <= 0).any():
        raise EpisodeError(f"episode ends {ends.tolist()} must ascend from above 0 to the {steps} steps there are.")
    for key, rows in observations.items():
        if len(rows) != steps:
            raise EpisodeError(f"{key} has {len(rows)} rows for {steps} actions: they would be paired wrongly.")
    end = ends[np.searchsorted(ends, np.arange(steps), side="right")]  # of the episode that each step is in
    at = np.arange(steps)[:, None] + np.arange(horizon)
    chunks = np.asarray(actions, np.float32)[np.minimum(at, end[:, None] - 1)]
    obs = {key: torch.from_numpy(np.require(rows, requirements=["C", "W"])) for key, rows in observations.items()}
    return Windows(obs, torch.from_numpy(chunks), torch.from_numpy(at < end[:, None]))


class SFT:
    """Trains `policy` in place on its own loss (flow matching), on the device where it is.

    The learning rate falls to 0 along half a cosine over `config.steps`. Set the policy's statistics before.
    """

    def __init__(self, policy: Policy, config: SFTConfig, seed: int) -> None:
        self.policy, self.config = policy, config
        self.device = policy.device
        self.optimizer = Optimizer("policy", policy, config.lr, config.grad_clip, config.weight_decay)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.steps = 0

    def step(self, batch: Windows) -> dict[str, float]:
        """One optimiser step; metrics: loss/sft, grad_norm/sft. Raises DivergedError after several broken in a row."""
        progress = min(self.steps / self.config.steps, 1.0)
        self.optimizer.lr = self.config.lr * 0.5 * (1 + float(np.cos(np.pi * progress)))
        loss = self.policy.loss(batch.observations, batch.actions, batch.valid, self.generator)
        norm = self.optimizer.step(loss)
        self.steps += 1
        return {"loss/sft": loss.item(), "grad_norm/sft": norm}

    def fit(
        self, demonstrations: Windows, progress: Progress | None = None, until: int | None = None
    ) -> dict[str, float]:
        """The config's steps that are left, or those up to step `until`, on batches drawn with replacement.

        Only a batch at a time is moved to the policy's device. Metrics are of the last 100.
        """
        losses = []
        end = self.config.steps if until is None else min(until, self.config.steps)
        while self.steps < end:
            size = (self.config.batch_size,)
            rows = torch.randint(len(demonstrations), size, generator=self.generator, device=self.device)
            # A batch at a time: images of many demonstrations may be more than the memory of a GPU.
            losses.append(self.step(demonstrations[rows.cpu()].to(self.device))["loss/sft"])
            if progress is not None:
                progress(self.steps, losses[-1])
        return {"loss/sft": float(np.mean(losses[-100:])) if losses else float("nan"), "steps": float(self.steps)}

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed fit needs besides the policy's weights, flat, copied to the CPU."""
        optimizer = {f"optimizer.{key}": value for key, value in self.optimizer.state_dict().items()}
        return optimizer | {"generator": self.generator.get_state(), "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises StateError when the state belongs to other sizes."""
        try:
            self.generator.set_state(state["generator"].cpu())
            self.steps = int(state["steps"])
        except (KeyError, RuntimeError) as error:
            raise StateError(f"the saved state is not one of a supervised training: {error}") from error
        prefix = "optimizer."
        self.optimizer.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
