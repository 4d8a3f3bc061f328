"""Algorithms by name."""

from __future__ import annotations

import pytest

from robotlearn.algorithms import registry
from robotlearn.algorithms.errors import AlgorithmError, UnknownAlgorithmError
from robotlearn.algorithms.ppo import PPO
from robotlearn.algorithms.registry import algorithms, make_algorithm, register_algorithm
from robotlearn.config.algorithms import PPOConfig


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_the_name_in_the_config_chooses(policy) -> None:
    config = PPOConfig()
    made = make_algorithm(config.name, policy, config, seed=0)
    assert isinstance(made, PPO) and made.policy is policy and made.config is config


def test_unknown_name_names_the_nearest(policy) -> None:
    with pytest.raises(UnknownAlgorithmError, match="Did you mean 'ppo'"):
        make_algorithm("pppo", policy, PPOConfig(), seed=0)


def test_a_name_can_be_registered_once() -> None:
    class Mine(PPO):
        pass

    register_algorithm("mine", Mine)
    register_algorithm("mine", Mine)
    assert algorithms() == ["grpo", "hgdagger", "mine", "ppo", "rlpd", "sac"]
    with pytest.raises(AlgorithmError, match="taken"):
        register_algorithm("mine", PPO)
