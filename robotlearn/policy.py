"""A run's policy: built from its config, asked for chunks, and as the named arrays that go over the wire."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.base import Chunk, Policy
from policies.registry import make_policy
from robotlearn.config.config import Config
from robotlearn.config.policy import OtherPolicyConfig
from robotlearn.config.policy_kind import IMITATORS, VLAS
from robotlearn.errors import ConfigError, WireError
from robotlearn.inputs import Inputs
from robotlearn.wire.chunks import BF16, from_bf16


def build_policy(
    config: Config, inputs: Inputs, device: torch.device | str = "cpu", *, weights: bool = True
) -> Policy:
    """A policy of the config's kind for what it is shown, with random weights that follow from `config.seed`, or those
    of the checkpoint that the config names.

    weights: False where others are to be loaded: then what a checkpoint of LeRobot has is not read, nor fetched.

    Raises PolicyError as `make_policy`, and ConfigError where the policy's sizes are not those of the config.
    """
    options = config.policy.model_dump()
    kind = options.pop("kind")
    if isinstance(config.policy, OtherPolicyConfig):
        options |= options.pop("options")
    if kind in (*VLAS, *IMITATORS):
        options["weights"] = weights
    if len(inputs.embodiments) > 1:
        options["used_dims"] = [inputs.used_dims[name].tolist() for name in inputs.embodiments]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = make_policy(kind, features=inputs.features, action_dim=inputs.action_dim, **options)
    # Edges lay out their records by the config alone.
    for key, wanted in (("horizon", config.policy.horizon), ("denoising_steps", config.policy.path_steps)):
        if (found := getattr(policy, key)) != wanted:
            raise ConfigError(f"policy.{key} is {wanted}, but a policy of kind {kind!r} has {found}")
    return policy.to(device)


def ask(
    policy: Policy,
    inputs: Inputs,
    embodiment: str,
    seen: Mapping[str, np.ndarray],
    instructions: str | Sequence[str],
    noise: torch.Tensor,
    explore: bool,
) -> tuple[np.ndarray, Chunk]:
    """The chunks for n arms of one embodiment: actions (n, H, dim) as the arms take them, and the policy's own, both on
    the CPU.
    """
    device = policy.device
    shown = {
        key: torch.from_numpy(np.ascontiguousarray(value)).to(device)
        for key, value in inputs.observations(embodiment, seen, instructions).items()
    }
    chunk = policy.act(shown, noise.to(device), explore).to("cpu")
    return inputs.actions(embodiment, chunk.actions.numpy()), chunk


def to_arrays(policy: Policy) -> dict[str, NDArray[Any]]:
    """Views of the parameters and statistics of a policy on the CPU; publishing copies them."""
    return views(policy.state_dict())


def views(state: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """The tensors of a policy's state dict as arrays, none of them copied."""
    return {name: _view(tensor) for name, tensor in state.items()}


def constants(policy: Policy) -> dict[str, Hashable]:
    """What does not train, frozen parameters and buffers, each with a mark that another value of it changes.

    The mark is torch's own count of changes, which doesn't see those made through `tensor.data` or NumPy.
    """
    state = policy.state_dict(keep_vars=True)
    return {name: (t.data_ptr(), t._version) for name, t in state.items() if not t.requires_grad}


def parameters(policy: Policy) -> set[str]:
    """Names of all parameters: what is left are statistics and other buffers, which bear no rounding."""
    state = policy.state_dict(keep_vars=True)
    return {name for name, tensor in state.items() if isinstance(tensor, torch.nn.Parameter)}


def load_arrays(
    policy: Policy, arrays: Mapping[str, NDArray[Any]], loaded: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Copy arrays into a policy, all or nothing; bfloat16 goes into float32 exactly.

    `loaded` are those that it holds since the last call: what is the same memory is not copied again. Raises WireError
    naming the first one that does not fit.
    """
    state = {name: tensor.detach() for name, tensor in policy.state_dict().items()}
    for name in sorted(state.keys() | arrays.keys()):
        here = _kind_of(state[name]) if name in state else "missing"
        there = _kind(arrays[name]) if name in arrays else "missing"
        if here not in (there, there.replace("bfloat16", "float32")):
            raise WireError(f"weights do not fit this policy: {name} is {there} there and {here} here")
    for name, target in state.items():
        source = arrays[name]
        if loaded is not None and loaded[name].ctypes.data == source.ctypes.data:
            continue
        if target.device.type == "cpu":
            _copy(source, _view(target))
        else:
            target.copy_(_tensor(source))


def _copy(source: NDArray[Any], target: NDArray[Any]) -> None:
    if source.dtype == target.dtype:
        np.copyto(target, source)
    else:
        from_bf16(source, target)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # nobody writes to it
        if array.dtype == BF16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


def _view(tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(BF16)
    return tensor.detach().numpy()


def _kind(array: NDArray[Any]) -> str:
    return f"{'bfloat16' if array.dtype == BF16 else array.dtype.name} {array.shape}"


def _kind_of(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
