"""Which weights of a VLA are learnt: all, the action expert's, or low-rank additions."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from policies.errors import PolicyConfigError

_MODELS = {"smolvla": "model.vlm_with_expert.vlm", "pi0": "model.paligemma_with_expert.paligemma"}
_MODELS["pi05"] = _MODELS["pi0"]


def choose(lerobot: Any, train: Literal["full", "expert", "lora"], lora: Mapping[str, Any]) -> None:
    """Mark what is learnt, in place; for LoRA, add it. Raises PolicyConfigError for targets that name no layer."""
    lerobot.requires_grad_(train != "lora")
    if train == "expert":
        lerobot.get_submodule(_MODELS[lerobot.name]).requires_grad_(False)
    if train != "lora":
        return
    from peft import LoraConfig, inject_adapter_in_model

    targets = lora["targets"] or lerobot._get_default_peft_targets()["target_modules"]
    linear = [name for name, module in lerobot.named_modules() if isinstance(module, nn.Linear)]
    try:
        named = [name for name in linear if re.fullmatch(targets, name)]
    except re.error as error:
        raise PolicyConfigError(
            f"policy.lora.targets: {targets!r} is no regular expression ({error}): layers whose names end in q_proj "
            "are '.*q_proj'."
        ) from error
    if not named:
        raise PolicyConfigError(
            f"policy.lora.targets: no linear layer is called like {targets!r}; there are {', '.join(linear[:4])}, ..."
        )
    inject_adapter_in_model(
        LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets, lora_dropout=0.0), lerobot
    )


@torch.no_grad()
def merged(lerobot: nn.Module) -> dict[str, Tensor]:
    """The weights as LeRobot names them, with the additions in their places; those that have none aren't copied."""
    from peft.tuners.lora import LoraLayer

    state: dict[str, Tensor] = {}
    added = {name: module for name, module in lerobot.named_modules() if isinstance(module, LoraLayer)}
    for key, value in lerobot.state_dict().items():
        owner = next((name for name in added if key.startswith(f"{name}.")), None)
        if owner is None:
            state[key] = value
        elif (part := key.removeprefix(f"{owner}.")).startswith("base_layer."):
            name = part.removeprefix("base_layer.")
            delta = added[owner].get_delta_weight("default") if name == "weight" else 0
            state[f"{owner}.{name}"] = value + delta
    return state


def checkpoint_layers(lerobot: nn.Module) -> None:
    """Compute the inside of each layer's MLP, and of each layer of the vision tower, anew for its gradient.

    Not whole layers of the language model: their keys and values are what the expert looks at.
    """
    inside: set[nn.Module] = set()
    for module in list(lerobot.modules()):
        if module in inside or not type(module).__name__.endswith(("EncoderLayer", "MLP")):
            continue
        inside.update(module.modules())
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
