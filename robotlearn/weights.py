"""Between a policy's state dict and the named arrays that go over the wire."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.base import Policy
from robotlearn.errors import WireError


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
    with torch.no_grad():
        for name, tensor in state.items():
            # from_numpy warns of read-only memory; what arrives is read-only, and only copied from here.
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.name} {array.shape}"
