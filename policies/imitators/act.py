"""ACT of LeRobot (arXiv:2304.13705): a transformer gives the whole chunk at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from policies.imitators.imitator import Imitator
from policies.normalizer import Features, Statistics


class ACT(Imitator):
    """Nothing of it is random but its training: the latent of its variational encoder is 0 when it acts."""

    def __init__(
        self, lerobot: Any, features: Features, cameras: Mapping[str, str], colours: Mapping[str, Statistics]
    ) -> None:
        super().__init__(lerobot, features, cameras, colours)
        self.horizon = int(lerobot.config.chunk_size)

    def batch(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        return seen

    def chunk(self, batch: dict[str, Tensor], start: Tensor) -> Tensor:
        chunk: Tensor = self.lerobot.predict_action_chunk(batch)
        return chunk
