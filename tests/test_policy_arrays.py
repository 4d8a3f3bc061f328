"""A policy as named arrays and back: half precision, what does not train, what is the same memory."""


import numpy as np
import pytest
import torch

from policies.base import Policy
from policies.registry import make_policy
from robotlearn.errors import WireError
from robotlearn.policy import constants, load_arrays, parameters, to_arrays
from robotlearn.wire.chunks import BF16, to_bf16


@pytest.fixture
def policy() -> Policy:
    return make_policy("gaussian", features={"observation.state": (5,)}, action_dim=3, horizon=4)


def rounded(array: np.ndarray) -> np.ndarray:
    made = np.zeros(array.shape, BF16)
    to_bf16(array, made)
    return made


def test_bfloat16_goes_into_float32_exactly_and_statistics_are_no_parameters(policy: Policy) -> None:
    names = parameters(policy)
    arrays = {name: array.copy() for name, array in to_arrays(policy).items()}
    assert names and names < arrays.keys()
    half = {name: rounded(array) if name in names else array for name, array in arrays.items()}
    load_arrays(policy, half)
    for name, array in to_arrays(policy).items():
        expected = torch.from_numpy(arrays[name])
        expected = expected.to(torch.bfloat16).float() if name in names else expected
        assert np.array_equal(array, expected.numpy()), name


def test_a_policy_in_bfloat16_is_published_and_loaded_as_it_is(policy: Policy) -> None:
    policy.to(torch.bfloat16)
    arrays = {name: array.copy() for name, array in to_arrays(policy).items()}
    assert any(array.dtype == BF16 for array in arrays.values())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    load_arrays(policy, arrays)
    assert all(np.array_equal(array, arrays[name]) for name, array in to_arrays(policy).items())
    with pytest.raises(WireError, match=r"float32 .* there and bfloat16"):
        load_arrays(policy, {name: np.zeros(array.shape, np.float32) for name, array in arrays.items()})


def test_what_is_frozen_is_constant_until_it_is_changed(policy: Policy) -> None:
    name, parameter = next(iter(policy.named_parameters()))
    before = constants(policy)
    assert before and name not in before
    parameter.requires_grad_(False)
    frozen = constants(policy)
    assert frozen.keys() == before.keys() | {name} and constants(policy) == frozen
    with torch.no_grad():
        parameter.add_(1)
    assert constants(policy)[name] != frozen[name]
    policy.load_state_dict(policy.state_dict())
    assert all(mark != frozen[key] for key, mark in constants(policy).items())


def test_what_is_loaded_already_is_not_copied_again(policy: Policy) -> None:
    arrays = {name: array.copy() for name, array in to_arrays(policy).items()}
    load_arrays(policy, arrays)
    name, parameter = next(iter(policy.named_parameters()))
    with torch.no_grad():
        parameter.zero_()
    load_arrays(policy, arrays, arrays)
    assert not parameter.any(), "it was left alone"
    load_arrays(policy, arrays | {name: arrays[name].copy()}, arrays)
    assert np.array_equal(parameter.detach().numpy(), arrays[name])
