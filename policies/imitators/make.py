"""ACT and diffusion policies as LeRobot makes them: from nothing, or from one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from policies.encoder import IMAGES
from policies.errors import PolicyConfigError
from policies.imitators.act import ACT
from policies.imitators.diffusion import Diffusion
from policies.imitators.imitator import NUMBERS, STATE, Imitator, check_features
from policies.normalizer import Features, Statistics
from policies.vla.checkpoint import (
    IMAGE,
    Checkpoint,
    load_weights,
    partners,
    scales,
    statistics_of,
    trained_with,
)

_IMAGENET = Statistics(np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
_PLAIN = Statistics(np.zeros(3), np.ones(3))


def make_imitator(
    kind: str,
    features: Features,
    horizon: int,
    action_dim: int,
    *,
    pretrained: str | None = None,
    weights: bool = True,
    cameras: Mapping[str, str] | None = None,
    statistics: Literal["data", "checkpoint"] = "data",
    **sizes: Any,
) -> Imitator:
    """A policy of kind "act" or "diffusion", with random weights or a checkpoint's; `sizes`: LeRobot's configuration.

    With `pretrained` the checkpoint's own sizes count, and `sizes` do not. weights False: random ones, where others are
    to come; neither the checkpoint's nor a backbone's are fetched. Images are normalised as the checkpoint's were, else
    by ImageNet's statistics, as LeRobot's trainer does. Raises PolicyConfigError.
    """
    check_features(features)
    checkpoint = None if pretrained is None else Checkpoint(pretrained, kind)
    chosen = {key: key for key in features if key.startswith(IMAGES)}
    if checkpoint is not None:
        chosen = partners(checkpoint, features, cameras or {}, dark=False)
    config = _configuration(kind, checkpoint, features, chosen, horizon, action_dim, sizes)
    if not weights:
        config.pretrained_backbone_weights = None
    lerobot = _architecture(config)
    if checkpoint is not None and weights:
        load_weights(lerobot, checkpoint)
    config.pretrained_backbone_weights = None  # what is loaded later, by LeRobot too, needs none
    known = trained_with(checkpoint) if checkpoint is not None else {}
    plain = scales(config)[IMAGE] == "identity"
    colours = {there: _PLAIN if plain else known.get(there, _IMAGENET) for there in chosen}
    for key, one in colours.items():
        if not (one.mean.size == one.std.size == 3 and np.isfinite([one.mean, one.std]).all()):
            raise PolicyConfigError(
                f"policy.pretrained: the statistics of {key} in {pretrained} are not a finite number for each of three "
                "colours: train it anew, or take another checkpoint."
            )
    policy = (ACT if kind == "act" else Diffusion)(lerobot, features, chosen, colours)
    if statistics == "checkpoint" and weights and checkpoint is not None:
        sizes_of = {key: len(one.mean) for key, one in policy.statistics().items()}
        policy.set_statistics(statistics_of(checkpoint, sizes_of))
    return policy


def _architecture(config: Any) -> Any:
    """LeRobot's policy, of the backbone's weights that the config names."""
    from lerobot.policies.factory import get_policy_class

    try:
        return get_policy_class(config.type)(config)
    except (OSError, ValueError, KeyError) as error:
        if (name := config.pretrained_backbone_weights) is None:
            raise PolicyConfigError(f"policy: {str(error).splitlines()[0]}") from error
        raise PolicyConfigError(
            f"policy.pretrained_backbone_weights: {name} can't be had ({error}): expected a name of torchvision's for "
            f"{config.vision_backbone}, as ResNet18_Weights.IMAGENET1K_V1, and a network; null starts from random ones."
        ) from error


def _configuration(
    kind: str,
    checkpoint: Checkpoint | None,
    features: Features,
    cameras: Mapping[str, str],
    horizon: int,
    action_dim: int,
    sizes: dict[str, Any],
) -> Any:
    """LeRobot's, its own where there is a checkpoint, for this robot. Raises PolicyConfigError for what can't be."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_policy_config

    inputs = {STATE: PolicyFeature(FeatureType.STATE, features[STATE])}
    if NUMBERS in features:
        inputs[NUMBERS] = PolicyFeature(FeatureType.ENV, features[NUMBERS])
    for there, here in cameras.items():
        height, width, colours = features[here]
        inputs[there] = PolicyFeature(FeatureType.VISUAL, (colours, height, width))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (action_dim,))}
    given: dict[str, Any] = {"input_features": inputs, "output_features": outputs, "n_action_steps": horizon}
    if kind == "act":
        given["chunk_size"] = horizon
    else:
        given |= {"horizon": horizon, "n_obs_steps": 1, "do_mask_loss_for_padding": True}
    try:
        if checkpoint is None:
            if kind == "diffusion":  # batch norm would have no statistics where none are pretrained
                given["use_group_norm"] = sizes.get("pretrained_backbone_weights") is None
            sizes = {"pretrained_backbone_weights": None} | sizes
            config = make_policy_config(kind, device="cpu", push_to_hub=False, **given, **sizes)
            config.normalization_mapping["ENV"] = config.normalization_mapping["STATE"]
            config.validate_features()
            return config
        config = checkpoint.configuration()
        if kind == "act" and config.chunk_size != horizon:
            raise PolicyConfigError(
                f"policy.horizon is {horizon}, but chunks of {checkpoint.source} have {config.chunk_size} actions: use "
                "that."
            )
        if (how := scales(config)[IMAGE]) not in ("mean_std", "identity"):
            raise PolicyConfigError(f"policy.pretrained: {checkpoint.source} normalises images by {how}: not known.")
        if config.n_obs_steps != 1:
            raise PolicyConfigError(
                f"policy.pretrained: {checkpoint.source} looks at {config.n_obs_steps} observations at once "
                "(n_obs_steps), and here a policy sees one: train one with n_obs_steps=1."
            )
        for key, value in given.items():
            setattr(config, key, value)
        config.pretrained_backbone_weights, config.push_to_hub = None, False
        config.__post_init__()
        config.validate_features()
        return config
    except ValueError as error:
        raise PolicyConfigError(f"policy: {str(error).splitlines()[0]}") from error
