"""Imitator: a policy of LeRobot whose chunks have no probability, as a `Policy`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from policies.base import Chunk, Contract, Observations, Policy
from policies.encoder import IMAGES, INSTRUCTION
from policies.errors import ImitationOnlyError, ObservationError, PolicyConfigError, StatisticsError
from policies.normalizer import Features, Normalizer, Scale, Statistics
from policies.vla.checkpoint import scales

STATE, NUMBERS = "observation.state", "observation.environment_state"
_FLOOR = 1e-6  # of a std, in the data's units: LeRobot's own is 1e-8


class Imitator(Policy):
    """Its path has a single step, from noise to the chunk, normalised; none is stochastic, with exploration or without.

    Weights are LeRobot's, `lerobot` is its policy; the loss is LeRobot's own. Numbers are normalised as its
    configuration says, images by `colours`.

    Args:
        lerobot: of `policies.imitators.make`.
        features: `observation.state`, the task's numbers, or images, or both.
        cameras: for LeRobot's images the features' keys; one may be shown as several.
        colours: by LeRobot's key of each image, statistics per colour of values from 0 to 1.

    Raises:
        PolicyConfigError: features that it doesn't take.
    """

    denoising_steps = 1
    has_log_prob = False
    colour_mean: Tensor
    colour_std: Tensor

    def __init__(
        self, lerobot: Any, features: Features, cameras: Mapping[str, str], colours: Mapping[str, Statistics]
    ) -> None:
        super().__init__()
        check_features(features)
        self.kind, self.lerobot = lerobot.name, lerobot
        self.features, self.cameras = dict(features), dict(cameras)
        self.action_dim = int(lerobot.config.action_feature.shape[0])
        self.state = Normalizer(features[STATE][0], _FLOOR)
        self.environment = Normalizer(features[NUMBERS][0], _FLOOR) if NUMBERS in features else None
        self.action = Normalizer(self.action_dim, _FLOOR)
        for name in ("mean", "std"):
            rows = [np.ravel(getattr(colours[there], name)) for there in self.cameras]
            self.register_buffer(f"colour_{name}", torch.tensor(np.array(rows), dtype=torch.float32).view(-1, 3, 1, 1))

    @abstractmethod
    def chunk(self, batch: dict[str, Tensor], start: Tensor) -> Tensor:
        """Normalised actions (B, H, D) for normalised observations; `start` (B, H, D) is all that is random."""

    @abstractmethod
    def batch(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalised observations under LeRobot's keys as LeRobot's `forward` takes them."""

    @property
    def scales(self) -> dict[str, Scale]:
        known = scales(self.lerobot.config)
        return {key: known[key] for key in self._normalizers()}

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        shape = (batch, 2, self.horizon, self.action_dim)
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        self.lerobot.eval()
        start = noise[:, 0].to(self.action.mean.device)
        chunk = self.chunk(self._seen(obs), start)
        stochastic = torch.zeros(len(start), 1, dtype=torch.bool, device=start.device)
        log_prob = start.new_zeros(len(start), 1, self.horizon)
        return Chunk(self.action.inverse(chunk), torch.stack([start, chunk], 1), stochastic, log_prob)

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        raise ImitationOnlyError(f"{self.kind} learns by imitation alone: its chunks have no probability.")

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """LeRobot's own, its dropout and noise drawn from the generator. Batch norm's statistics stay as they are:
        they would follow each batch, and edges hold what doesn't train for fixed.
        """
        self.lerobot.train()
        for module in self.lerobot.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        batch = self.batch(self._seen(obs)) | {"action": self.action(actions), "action_is_pad": ~valid}
        with _drawn_from(generator, actions.device):
            loss: Tensor = self.lerobot.forward(batch)[0]
        return loss

    def contract(self) -> Contract:
        shapes: Contract = {f"feature:{key}": list(shape) for key, shape in self.features.items()}
        cameras: Contract = {f"camera:{key}": value for key, value in self.cameras.items()}
        return shapes | cameras | {"kind": self.kind, "horizon": self.horizon, "action_dim": self.action_dim}

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        for key, normalizer in self._normalizers().items():
            if key not in stats:
                raise StatisticsError(f"no statistics of {key!r}; there are {', '.join(sorted(stats)) or 'none'}.")
            normalizer.set(stats[key].mean, stats[key].std)

    def statistics(self) -> dict[str, Statistics]:
        return {key: normalizer.statistics() for key, normalizer in self._normalizers().items()}

    def colours(self) -> dict[str, Statistics]:
        """As the constructor takes them."""
        pairs = zip(self.cameras, self.colour_mean, self.colour_std, strict=True)
        return {key: Statistics(*(one.double().cpu().numpy() for one in (mean, std))) for key, mean, std in pairs}

    def _normalizers(self) -> dict[str, Normalizer]:
        environment = {} if self.environment is None else {NUMBERS: self.environment}
        return {STATE: self.state, **environment, "action": self.action}

    def _seen(self, obs: Observations) -> dict[str, Tensor]:
        """Normalised, under LeRobot's keys."""
        for key, shape in self.features.items():
            if key not in obs:
                raise ObservationError(f"observation lacks {key!r}; it has {', '.join(sorted(obs)) or 'nothing'}.")
            if tuple(obs[key].shape[1:]) != shape:
                raise ObservationError(f"{key!r} has shape {tuple(obs[key].shape)}, expected (batch, *{shape}).")
        seen = {key: one(obs[key]) for key, one in self._normalizers().items() if key != "action"}
        for index, (there, here) in enumerate(self.cameras.items()):
            image = obs[here].permute(0, 3, 1, 2).float() / 255
            seen[there] = (image - self.colour_mean[index]) / self.colour_std[index]
        return seen


def check_features(features: Features) -> None:
    """Raises PolicyConfigError for what ACT and diffusion policies can't be shown."""
    for key in features:
        if key not in (STATE, NUMBERS) and not key.startswith(IMAGES):
            option = f"set observations.{key.removeprefix('observation.')} to false"
            if key == INSTRUCTION:
                option += "; where only the words tell what is meant, choose a kind that reads them, flow_mlp or a VLA"
            raise PolicyConfigError(f"a policy that imitates can't be shown {key!r}, only joints and images: {option}.")
    if STATE not in features or len(features) < 2:
        raise PolicyConfigError(f"a policy that imitates needs {STATE}, and images or {NUMBERS}.")


@contextmanager
def _drawn_from(generator: Generator | None, device: torch.device) -> Iterator[None]:
    """LeRobot draws from torch's own random numbers: meanwhile they follow from the generator, if there is one."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
