"""A run's policy: built from its config, asked for chunks, and as the named arrays that go over the wire."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.base import Chunk, Policy
from policies.registry import make_policy
from robotlearn.config.config import Config
from robotlearn.config.policy import OtherPolicyConfig
from robotlearn.errors import ConfigError, WireError
from robotlearn.inputs import Inputs


def build_policy(config: Config, inputs: Inputs) -> Policy:
    """A policy of the config's kind for what it is shown, with random weights that follow from `config.seed`.

    Raises PolicyError as `make_policy`, and ConfigError where the policy's sizes are not those of the config.
    """
    options = config.policy.model_dump()
    kind = options.pop("kind")
    if isinstance(config.policy, OtherPolicyConfig):
        options |= options.pop("options")
    if len(inputs.embodiments) > 1:
        options["used_dims"] = [inputs.used_dims[name].tolist() for name in inputs.embodiments]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = make_policy(kind, features=inputs.features, action_dim=inputs.action_dim, **options)
    # Edges lay out their records by the config alone.
    for key, wanted in (("horizon", config.policy.horizon), ("denoising_steps", config.policy.path_steps)):
        if (found := getattr(policy, key)) != wanted:
            raise ConfigError(f"policy.{key} is {wanted}, but a policy of kind {kind!r} has {found}")
    return policy


def ask(
    policy: Policy,
    inputs: Inputs,
    embodiment: str,
    seen: Mapping[str, np.ndarray],
    instructions: str | Sequence[str],
    noise: torch.Tensor,
    explore: bool,
) -> tuple[np.ndarray, Chunk]:
    """The chunks for n arms of one embodiment: actions (n, H, dim) as the arms take them, and the policy's own."""
    shown = {
        key: torch.from_numpy(np.ascontiguousarray(value))
        for key, value in inputs.observations(embodiment, seen, instructions).items()
    }
    chunk = policy.act(shown, noise, explore)
    return inputs.actions(embodiment, chunk.actions.numpy()), chunk


def to_arrays(policy: Policy) -> dict[str, NDArray[Any]]:
    """Views of the parameters and statistics of a policy on the CPU; publishing copies them."""
    return {name: tensor.detach().numpy() for name, tensor in policy.state_dict().items()}


def load_arrays(policy: Policy, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy arrays into a policy, all or nothing. Raises WireError naming the first one that does not fit."""
    state = policy.state_dict()
    for name in sorted(state.keys() | arrays.keys()):
        here = _kind(state[name].numpy()) if name in state else "missing"
        there = _kind(arrays[name]) if name in arrays else "missing"
        if here != there:
            raise WireError(f"weights do not fit this policy: {name} is {there} there and {here} here")
    for name, tensor in state.items():
        np.copyto(tensor.numpy(), arrays[name])


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.name} {array.shape}"
