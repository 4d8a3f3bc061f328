"""A run's policy as a checkpoint of LeRobot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from robotlearn.config.lerobot_policies import ACTConfig, DiffusionConfig, VLAConfig
from robotlearn.config.policy_kind import IMITATORS, VLAS
from robotlearn.errors import CheckpointError, ConfigError
from robotlearn.saved_policy import SavedPolicy


def write(saved: SavedPolicy, folder: Path) -> None:
    """Write it as `folder`, whole or not at all, so that LeRobot's `from_pretrained` takes it; LoRA is merged.

    Raises ConfigError for a kind that LeRobot has no format for, CheckpointError where there is something already or
    nothing can be written, and what `SavedPolicy.load` raises.
    """
    chosen = saved.config.policy
    if not isinstance(chosen, VLAConfig | ACTConfig | DiffusionConfig):
        raise ConfigError(
            f"{saved.checkpoint}: LeRobot has no format for a policy of kind {chosen.kind}, only for "
            f"{', '.join((*VLAS, *IMITATORS))}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is there already and not empty: name another folder")
    policy = saved.load()
    folder = folder.resolve()
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        if isinstance(chosen, VLAConfig):
            from policies.vla import save as vla
            from policies.vla.checkpoint import Checkpoint

            vla.save(policy, new, Checkpoint(chosen.pretrained, chosen.kind))  # type: ignore[arg-type]
        else:
            from policies.imitators import save as imitators

            imitators.save(policy, new)  # type: ignore[arg-type]
        os.replace(new, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
