"""Policies of LeRobot as checkpoints that LeRobot itself loads: weights, configuration, processors with statistics."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from policies.normalizer import Statistics
from policies.vla.checkpoint import WEIGHTS, Checkpoint
from policies.vla.tiny import SIZES, TOKENIZER, VLM

if TYPE_CHECKING:
    from policies.vla.flow_vla import FlowVLA


def save(policy: FlowVLA, folder: Path, origin: Checkpoint) -> None:
    """Write it; LoRA's additions are merged. What `origin` has beside its weights, such as a tokenizer, comes along.

    Raises OSError.
    """
    from policies.vla.trained import merged

    config = copy.deepcopy(policy.lerobot.config)
    if origin.kind == "smolvla":
        config.vlm_model_name = origin.settings["vlm_model_name"]
        # LeRobot names cameras that stay dark among the others: whoever looks through it next has their own.
        config.empty_cameras = origin.settings.get("empty_cameras", 0)
        for key in config.input_features.keys() - origin.settings["input_features"].keys() - {"observation.state"}:
            del config.input_features[key]
    known = {key: one for key, one in policy.statistics().items() if key != "features"}
    with _tokenizer_at_hand(origin.kind, policy.prompts.tokenizer):
        write(config, merged(policy.lerobot), known, folder)
    if origin.folder is not None:
        for name in (TOKENIZER, VLM):
            if (origin.folder / name).is_dir():
                shutil.copytree(origin.folder / name, folder / name, dirs_exist_ok=True)
        if (origin.folder / SIZES).exists():
            shutil.copy(origin.folder / SIZES, folder / SIZES)


def write(config: Any, weights: Mapping[str, Tensor], statistics: Mapping[str, Statistics], folder: Path) -> None:
    """LeRobot's configuration, its weights by its names, and its processors with the statistics. Raises OSError."""
    from lerobot.policies.factory import make_pre_post_processors
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config._save_pretrained(folder)
    shared: dict[tuple[int, torch.Size], str] = {}
    kept = {}
    for key, value in weights.items():
        if shared.setdefault((value.data_ptr(), value.shape), key) == key:  # safetensors has each memory once
            kept[key] = value.detach().cpu().contiguous()
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    for pipeline in make_pre_post_processors(config, dataset_stats=_as_lerobots(statistics)):
        for step in pipeline.steps:
            if hasattr(step, "input_tokenizer"):
                step.tokenizer = None  # so that its name is written
        pipeline.save_pretrained(folder)


def _as_lerobots(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
    """Statistics under all names that processors ask for; the ends of a span are where -1 and 1 are."""
    return {
        key: {"mean": one.mean, "std": one.std}
        | dict.fromkeys(("q01", "q10", "min"), one.mean - one.std)
        | dict.fromkeys(("q99", "q90", "max"), one.mean + one.std)
        for key, one in statistics.items()
    }


@contextmanager
def _tokenizer_at_hand(kind: str, tokenizer: Any) -> Iterator[None]:
    """LeRobot's processors ask the hub for their tokenizer when they are made: give them the one that is here."""
    module: Any = import_module(f"lerobot.policies.{kind}.processor_{kind}")
    step = module.TokenizerProcessorStep
    module.TokenizerProcessorStep = partial(step, tokenizer=tokenizer)
    try:
        yield
    finally:
        module.TokenizerProcessorStep = step
