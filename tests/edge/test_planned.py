"""Requests with plans as a policy takes them: for several robots at once, in the entries of the one that asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import GaussianPolicy
from robotlearn.cells import cells_of
from robotlearn.config import ExecutionConfig, load_config
from robotlearn.edge import local
from robotlearn.edge.planned import Planned, check_way
from robotlearn.errors import ConfigError
from robotlearn.inputs import Inputs
from robotlearn.policy import ask, build_policy

POLICY = "policy={kind: flow_transformer, horizon: 4, width: 8, depth: 1, heads: 2, max_delay: 2}"


@pytest.mark.parametrize("robot", ["panda", "so101"])
def test_chunks_begin_with_what_each_robot_executes_meanwhile(robot: str) -> None:
    robots = ["panda", "so101"]  # of eight and of six entries: one policy, laid out for the larger
    config = load_config("smoke", [f"robot=[{', '.join(robots)}]", POLICY, "edges=[]", "learner.updates=0"])
    inputs, spec = Inputs(config), cells_of(config)[robots.index(robot)].spec
    policy, rng = build_policy(config, inputs), np.random.default_rng(0)
    seen = {
        key: rng.normal(size=(3, *shape)).astype(np.float32)
        for key, shape in {"observation.state": (spec.dim,), "observation.environment_state": (6,)}.items()
    }
    plans = [rng.normal(size=(count, spec.dim)).astype(np.float32) for count in (3, 1)]
    requests = [
        local.ChunkRequest("a", 1, "", {}, plan=local.Tensor.of(plans[0]), delay=2),
        local.ChunkRequest("b", 1, "", {}),
        local.ChunkRequest("c", 1, "", {}, plan=local.Tensor.of(plans[1]), delay=1),
    ]
    noise = policy.noise(3, rng)
    execution = ExecutionConfig(way="prefix", ahead=2)
    planned = Planned(policy, execution, inputs, spec.embodiment, requests, len(spec.joints))
    actions, chunk = ask(planned, inputs, spec.embodiment, seen, "", noise, False)
    free, _ = ask(policy, inputs, spec.embodiment, seen, "", noise, False)
    np.testing.assert_allclose(actions[0, :2], plans[0][:2], atol=1e-5)
    np.testing.assert_allclose(actions[2, :1], plans[1], atol=1e-5)
    np.testing.assert_allclose(actions[1], free[1], atol=1e-5)
    assert not chunk.stochastic.any()
    other = Planned(policy, ExecutionConfig(), inputs, spec.embodiment, requests, len(spec.joints))
    torch.testing.assert_close(ask(other, inputs, spec.embodiment, seen, "", noise, False)[0], free)


def test_a_guided_chunk_keeps_its_plan_and_leads_where_its_own_would() -> None:
    config = load_config("smoke", ["edges=[]", "learner.updates=0"])
    inputs, spec = Inputs(config), cells_of(config)[0].spec
    policy, rng = build_policy(config, inputs), np.random.default_rng(0)
    seen = {key: rng.normal(size=(2, *shape)).astype(np.float32) for key, shape in policy.features.items()}
    plan = np.full((3, spec.dim), 0.5, np.float32)
    requests = [
        local.ChunkRequest("a", 1, "", {}, plan=local.Tensor.of(plan), delay=2),
        local.ChunkRequest("b", 1, "", {}),
    ]
    noise, joints = policy.noise(2, rng), len(spec.joints)
    planned = Planned(policy, ExecutionConfig(way="rtc", ahead=3), inputs, spec.embodiment, requests, joints)
    actions, chunk = ask(planned, inputs, spec.embodiment, seen, "", noise, False)
    free, _ = ask(policy, inputs, spec.embodiment, seen, "", noise, False)
    guided = chunk.path[:, -1].numpy()  # of neutral statistics: as the robot takes them
    np.testing.assert_array_equal(actions[0, :2], guided[0, :2])
    np.testing.assert_array_equal(actions[0, :, joints:], guided[0, :, joints:])
    np.testing.assert_allclose(actions[0, :, :joints].sum(0), free[0, :, :joints].sum(0), atol=1e-4)
    assert np.abs(guided[0, :, :joints].sum(0) - free[0, :, :joints].sum(0)).max() > 0.1
    led = (actions - guided)[0, 2:, :joints]
    assert (np.abs(led[0]) < np.abs(led[1])).all(), "less where it is kept in part"
    np.testing.assert_allclose(actions[1], free[1], atol=1e-5)


def test_a_policy_that_lacks_what_a_way_needs_is_refused() -> None:
    policy = GaussianPolicy({"observation.state": (3,)}, 4, 2, hidden=(8,))
    check_way(policy, "mine", "left", ExecutionConfig(way="vlash"))
    with pytest.raises(ConfigError, match=r"edge left: execution\.way 'rtc' is not valid with policy\.kind mine"):
        check_way(policy, "mine", "left", ExecutionConfig(way="rtc"))
