"""LeRobot's Diffusion Policy (arXiv:2303.04137): a U-Net over time takes the noise out of a chunk, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from policies.imitators.imitator import Imitator
from policies.normalizer import Features, Statistics


class Diffusion(Imitator):
    """DDIM's chunk follows from where it starts (arXiv:2010.02502). DDPM draws at every step (arXiv:2006.11239): that
    noise is seeded by the start, row by row, so that the start decides everything here, too.

    It sees one observation (`n_obs_steps` 1), and steps that are not valid are left out of its loss
    (`do_mask_loss_for_padding`).
    """

    def __init__(
        self, lerobot: Any, features: Features, cameras: Mapping[str, str], colours: Mapping[str, Statistics]
    ) -> None:
        super().__init__(lerobot, features, cameras, colours)
        self.horizon = int(lerobot.config.horizon)

    def batch(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[:, None] for key, value in seen.items()}

    def chunk(self, batch: dict[str, Tensor], start: Tensor) -> Tensor:
        stacked, model = self.batch(batch), self.lerobot.diffusion
        if self.cameras:
            images = [stacked[key] for key in self.lerobot.config.image_features]
            stacked["observation.images"] = torch.stack(images, dim=-4)
        chunk: Tensor = model.conditional_sample(
            len(start),
            global_cond=model._prepare_global_conditioning(stacked),
            generator=generators(start) if self.lerobot.config.noise_scheduler_type == "DDPM" else None,
            noise=start,
        )
        return chunk


def generators(start: Tensor) -> list[torch.Generator]:
    """One per row (B, H, D), on the CPU, seeded by its bytes."""
    seeds = (hashlib.sha256(row.tobytes()).digest()[:8] for row in start.cpu().numpy())
    return [torch.Generator().manual_seed(int.from_bytes(seed)) for seed in seeds]
