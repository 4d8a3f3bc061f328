"""Tiny checkpoints of each kind, made once, and observations for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.base import Policy
from policies.language import as_bytes
from policies.normalizer import Statistics
from policies.registry import make_policy

KINDS = ("smolvla", "pi0", "pi05")
FEATURES = {"observation.state": (6,), "observation.images.front": (48, 64, 3), "instruction": (256,)}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from policies.vla.tiny import write_tiny

    root = tmp_path_factory.mktemp("vla")
    return {kind: write_tiny(kind, root / kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def make(checkpoints: dict[str, Path]) -> Callable[..., Policy]:
    """A policy of the kind, for six joints, a camera and an instruction, with statistics of its own."""

    def made(kind: str, **options: Any) -> Policy:
        given = {"features": FEATURES, "horizon": 8, "action_dim": 6, "width": 8, "denoising_steps": 4}
        policy = make_policy(kind, **{**given, "pretrained": str(checkpoints[kind]), **options})
        rng = np.random.default_rng(0)
        if options.get("statistics") != "checkpoint":
            policy.set_statistics(
                {key: Statistics(rng.normal(size=6), rng.uniform(0.5, 2, 6)) for key in ("observation.state", "action")}
            )
        return policy

    return made


def observations(words: list[str], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "observation.state": torch.randn(len(words), 6, generator=generator),
        "observation.images.front": torch.randint(0, 256, (len(words), 48, 64, 3), generator=generator).to(torch.uint8),
        "instruction": torch.from_numpy(np.stack([as_bytes(text) for text in words])),
    }
