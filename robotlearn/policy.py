"""A run's policy: built from its config, and as the named arrays that go over the wire."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs import make_task
from envs.control import JointDeltaControl
from envs.spaces import observation_space
from hal.spec import RobotSpec
from policies.base import Policy
from policies.registry import make_policy
from robotlearn.config.config import Config
from robotlearn.errors import WireError


def build_policy(config: Config, spec: RobotSpec) -> Policy:
    """A policy of the config's kind for this robot and task, with random weights that follow from `config.seed`."""
    task = make_task(config.task, spec)
    features = {key: space.shape for key, space in observation_space(spec, task).spaces.items()}
    options = config.policy.model_dump()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return make_policy(
            options.pop("kind"), features=features, action_dim=len(JointDeltaControl(spec, 1).low), **options
        )


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
