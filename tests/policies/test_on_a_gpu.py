"""Everything that a policy computes stays where its weights are."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from policies.registry import make_policy
from tests.policies.on_a_gpu import pretend, run

FEATURES = {"observation.state": (8,), "observation.images.wrist": (64, 64, 3), "embodiment": (2,)}
CASES = {
    "flow_mlp": {},
    "flow_mlp noise": {"exploration": "noise"},
    "flow_transformer": {},
    "gaussian": {},
    "squashed_gaussian": {},
}


@pytest.mark.parametrize("case", CASES)
def test_a_policy_on_a_gpu_touches_nothing_beside_it(case: str) -> None:
    used = [list(range(6)), list(range(4))]
    kind = case.split()[0]
    policy = make_policy(kind, features=FEATURES, horizon=4, action_dim=6, used_dims=used, **CASES[case])
    with FakeTensorMode():
        pretend(policy)
        obs = {key: torch.empty(3, *shape, device="cuda") for key, shape in FEATURES.items()}
        assert {tensor.device.type for tensor in run(policy, obs)} == {"cuda"}
