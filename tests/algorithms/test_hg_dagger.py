"""HG-DAgger is the policy's own loss on what persons did, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP, GaussianPolicy, Policy, SquashedGaussianPolicy
from robotlearn.algorithms.errors import DivergedError, StateError
from robotlearn.algorithms.hg_dagger import HGDagger
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.algorithms.transitions import Transitions
from robotlearn.config.algorithms import HGDaggerConfig
from tests.algorithms.weights import same, weights

KINDS = pytest.mark.parametrize("kind", [FlowMLP, GaussianPolicy, SquashedGaussianPolicy], ids=lambda kind: kind.kind)


class Given:
    def __init__(self, *batches: Transitions) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Transitions]:
        return iter(self.batches)

    def prioritize(self, batch: Transitions, error: Tensor) -> None:
        raise AssertionError("there is no critic to err")


def quietly() -> None:
    """Nothing waits for the weights."""


def config(**changes: object) -> HGDaggerConfig:
    return HGDaggerConfig(**{"name": "hgdagger", "lr": 1e-2, **changes})


def make(kind: type = GaussianPolicy, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return kind({"observation.state": (3,)}, 2, 3, hidden=(16,))


def draw(seed: int = 0, batch: int = 16) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(batch, 3, generator=generator)
    valid = torch.ones(batch, 2, dtype=torch.bool)
    valid[:4, 1] = False
    empty = torch.zeros(batch)
    return Transitions(
        observations={"observation.state": state},
        next_observations={},
        actions=torch.stack([0.5 * state, -0.3 * state], 1),
        valid=valid,
        intervention=valid & (torch.arange(batch) < batch // 2)[:, None],
        reward=empty,
        discount=empty,
        weight=empty + 1,
        version=empty.long(),
        rows=torch.arange(batch),
    )


@KINDS
def test_its_steps_are_down_the_policys_own_loss(kind: type) -> None:
    policy, twin = make(kind), make(kind)
    algorithm = HGDagger(policy, config(weight_decay=0.1, grad_clip=0.2), seed=7)
    metrics = algorithm.learn(Given(*map(draw, range(5))), quietly)
    optimizer, generator = Optimizer("twin", twin, 1e-2, 0.2, 0.1), torch.Generator().manual_seed(7)
    losses, norms = [], []
    for batch in map(draw, range(5)):
        loss = twin.loss(batch.observations, batch.actions, batch.valid, generator)
        losses.append(loss.item())
        norms.append(optimizer.step(loss))
    assert same(weights(policy), weights(twin)) and not same(weights(policy), weights(make(kind)))
    assert metrics["loss/imitation"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["grad_norm/policy"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert metrics["intervention"] == pytest.approx(12 / 28) and metrics["skipped_steps"] == 0


@pytest.mark.parametrize("kind", [GaussianPolicy, SquashedGaussianPolicy], ids=lambda kind: kind.kind)
def test_it_comes_to_do_what_the_person_did(kind: type) -> None:
    policy = make(kind)
    algorithm = HGDagger(policy, config(), seed=0)
    for update in range(60):
        algorithm.learn(Given(*(draw(10 * update + i, batch=64) for i in range(10))), quietly)
    test = draw(9999, batch=64)
    inside = test.actions.abs() < 0.8  # what a bound of 1 leaves room for
    chunk = policy.act(test.observations, policy.noise(64, np.random.default_rng(0)), False)
    assert (chunk.actions - test.actions)[inside].abs().mean() < 0.06


def test_steps_after_an_episodes_end_have_no_influence() -> None:
    batch, ends = draw(), []
    for shift in (0.0, 5.0):
        policy = make()
        junk = batch.actions + shift * ~batch.valid[..., None]
        HGDagger(policy, config(), seed=0).learn(Given(replace(batch, actions=junk)), quietly)
        ends.append(weights(policy))
    assert same(*ends)


def test_the_policy_changes_only_after_it_was_said() -> None:
    policy, seen = make(), []
    algorithm = HGDagger(policy, config(), seed=0)

    def say() -> None:
        if seen:
            assert not same(weights(policy), seen[-1])
        seen.append(weights(policy))

    before = weights(policy)
    algorithm.learn(Given(*map(draw, range(3))), say)
    assert len(seen) == 3 and same(seen[0], before)


@KINDS
def test_saved_and_loaded_it_goes_on_bit_by_bit(kind: type, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    algorithm, other = HGDagger(make(kind), config(), seed=3), HGDagger(make(kind, seed=1), config(), seed=8)
    algorithm.learn(Given(*map(draw, range(10))), quietly)
    save_file(algorithm.state_dict(), tmp_path / "algorithm.safetensors")
    save_file(algorithm.policy.state_dict(), tmp_path / "policy.safetensors")
    other.policy.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    other.load_state_dict(load_file(tmp_path / "algorithm.safetensors"))
    rest = Given(*map(draw, range(10, 30)))
    assert algorithm.learn(rest, quietly) == other.learn(rest, quietly)
    assert same(weights(algorithm.policy), weights(other.policy))
    assert same(algorithm.state_dict(), other.state_dict())


def test_same_seed_same_data_same_bits_after_100_updates() -> None:
    ends = []
    for seed in (3, 3, 4):
        algorithm = HGDagger(make(FlowMLP), config(), seed)
        torch.manual_seed(len(ends))
        for update in range(100):
            algorithm.learn(Given(draw(update)), quietly)
        ends.append(weights(algorithm.policy))
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


@pytest.mark.parametrize("key", ["generator", "optimizer.counts", "optimizer.log_std.exp_avg"])
def test_a_state_that_does_not_fit_is_refused(key: str) -> None:
    state = HGDagger(make(), config(), seed=0).state_dict()
    state.pop(key)
    with pytest.raises(StateError, match=key.removeprefix("optimizer.")):
        HGDagger(make(), config(), seed=0).load_state_dict(state)


def test_broken_actions_change_nothing_and_are_reported() -> None:
    policy, broken = make(), replace(draw(), actions=torch.full((16, 2, 3), math.nan))
    algorithm, before = HGDagger(policy, config(), seed=0), weights(make())
    assert algorithm.learn(Given(broken), quietly)["skipped_steps"] == 1
    with pytest.raises(DivergedError, match="5 optimiser steps"):
        algorithm.learn(Given(*[broken] * 4), quietly)
    assert same(weights(policy), before)


def test_what_it_asks_of_a_replay() -> None:
    algorithm = make_algorithm("hgdagger", make(), config(), seed=0)
    window = algorithm.window
    assert (window.horizon, window.steps, window.gamma, window.bootstraps) == (2, 2, 1.0, False)
    assert [(part.source, part.share) for part in algorithm.sampling] == [
        ("interventions", 0.5),
        ("demonstrations", 0.5),
    ]
    assert algorithm.learn(Given(), quietly) == {"skipped_steps": 0.0}
