"""Flow VLAs of LeRobot's checkpoints: the architecture, its weights, and what of them is learnt."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

from policies.errors import PolicyConfigError
from policies.normalizer import Features
from policies.vla.checkpoint import IMAGE, Checkpoint, asked, load_weights, partners, scales, statistics_of
from policies.vla.flow_vla import FlowVLA
from policies.vla.prompts import Prompts
from policies.vla.tiny import resized
from policies.vla.trained import checkpoint_layers, choose


def architecture(
    checkpoint: Checkpoint,
    *,
    horizon: int,
    denoising_steps: int,
    state_dim: int,
    action_dim: int,
    missing_cameras: int,
) -> Any:
    """LeRobot's policy of the checkpoint's own config, with random weights, for chunks and a robot of these sizes."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class

    config = checkpoint.configuration()
    if (how := scales(config)[IMAGE]) != "identity":
        raise PolicyConfigError(
            f"policy.pretrained: {checkpoint.source} has images normalised by {how}, and {checkpoint.kind} of LeRobot "
            "takes them as they are (VISUAL: IDENTITY in its config.json)."
        )
    config.chunk_size = config.n_action_steps = horizon
    config.push_to_hub = config.compile_model = False
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (state_dim,))
    config.output_features["action"] = PolicyFeature(FeatureType.ACTION, (action_dim,))
    if checkpoint.kind == "smolvla":
        config.num_steps, config.load_vlm_weights = denoising_steps, False
        config.empty_cameras = missing_cameras
        config.vlm_model_name = checkpoint.language_model()
    else:
        config.num_inference_steps, config.dtype = denoising_steps, "float32"
        config.gradient_checkpointing = False  # as it was trained: then no keys and values are kept
        config.use_relative_actions = False  # the robot's actions are deltas already
    # SmolVLA's weights are all in the checkpoint, what its language model is like is not.
    source = config.vlm_model_name if checkpoint.kind == "smolvla" else checkpoint.source
    # LeRobot prints what it does, and the output of a command may be a program's input.
    with redirect_stdout(io.StringIO()), resized(checkpoint.kind, checkpoint.folder or Path()):
        made: Any = asked(source, lambda: get_policy_class(checkpoint.kind)(config))
    return made.float()  # what is published of SmolVLA's language model says bfloat16, in which small steps are lost


def make_vla(
    kind: str,
    features: Features,
    horizon: int,
    action_dim: int,
    *,
    pretrained: str,
    weights: bool = True,
    cameras: Mapping[str, str | None] | None = None,
    denoising_steps: int = 10,
    width: int = 32,
    train: Literal["full", "expert", "lora"] = "full",
    lora: Mapping[str, Any] | None = None,
    statistics: Literal["data", "checkpoint"] = "data",
    gradient_checkpointing: bool = False,
    **options: Any,
) -> FlowVLA:
    """A FlowVLA of a checkpoint; `weights` False: random ones, where others are to come. Raises PolicyConfigError."""
    checkpoint = Checkpoint(pretrained, kind)
    chosen = partners(checkpoint, features, cameras or {}, dark=True)
    lerobot = architecture(
        checkpoint,
        horizon=horizon,
        denoising_steps=denoising_steps,
        state_dim=features["observation.state"][0],
        action_dim=action_dim,
        missing_cameras=len(checkpoint.cameras) - len(chosen),
    )
    if weights:
        load_weights(lerobot, checkpoint)
    if width != lerobot.config.max_action_dim:
        raise PolicyConfigError(
            f"policy.width is {width}, but actions of {pretrained} have {lerobot.config.max_action_dim} entries: use "
            "that."
        )
    if gradient_checkpointing:
        checkpoint_layers(lerobot)
    choose(lerobot, train, lora or {"rank": 16, "alpha": 16.0, "targets": None})
    prompts = Prompts(checkpoint.tokenizer(), lerobot.config.tokenizer_max_length)
    policy = FlowVLA(
        lerobot, prompts, features, horizon, action_dim, cameras=chosen, denoising_steps=denoising_steps, **options
    )
    if statistics == "checkpoint" and weights:
        policy.set_statistics(
            statistics_of(checkpoint, {"observation.state": features["observation.state"][0], "action": action_dim})
        )
    return policy
