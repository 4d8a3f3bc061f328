"""GRPO as a whole: advantages within a group, what says nothing has no influence, and a known optimum is found."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP
from robotlearn.algorithms.chunks import Episode, chunk_batch, join
from robotlearn.algorithms.errors import EpisodeError, StateError
from robotlearn.algorithms.grpo import GRPO, discounted, group_advantages
from robotlearn.algorithms.metrics import Metrics
from robotlearn.config.algorithms import GRPOConfig
from robotlearn.wire.segment import Group
from tests.algorithms.weights import same, watch, weights

G = 4


def config(**changes: object) -> GRPOConfig:
    return GRPOConfig(**{"name": "grpo", "group": G, "epochs": 2, "minibatch": 16, **changes})


def nothing() -> None:
    pass


@pytest.fixture
def episodes(record) -> list[Episode]:
    """Ten groups of four, of versions 0 to 4; their rewards are random."""
    return [grouped(record, i) for i in range(40)]


def grouped(record, i: int, **more: object) -> Episode:
    made = record(12, seed=i, episode=i, end=("truncated", "terminated")[i % 2], versions=[i // G % 5] * 3, **more)
    return join([replace(part, group=Group(i // G, i % G, G)) for part in made])


@pytest.mark.parametrize(
    ("returns", "advantage", "told"),
    [
        ([0, 0, 1, 1], [-1, -1, 1, 1], True),
        ([0, 0, 0, 1], [-1 / math.sqrt(3)] * 3 + [math.sqrt(3)], True),
        ([1, 2, 3, 6], np.array([-2, -1, 0, 3]) / math.sqrt(3.5), True),
        ([-5, -10, -15, -30], np.array([2, 1, 0, -3]) / math.sqrt(3.5), True),
        ([0, 0, 0, 0], [0, 0, 0, 0], False),
        ([1, 1, 1, 1], [0, 0, 0, 0], False),
        ([1, 1, 1 + 1e-7, 1], [0, 0, 0, 0], False),
        ([0, 1, 2, math.nan], [0, 0, 0, 0], False),
    ],
    ids=str,
)
def test_advantages_are_the_returns_normalised_within_their_group(returns, advantage, told: bool) -> None:
    other = [0.0, 1.0, 0.0, 1.0]
    found, signal = group_advantages(np.array([other, returns], np.float64))
    np.testing.assert_allclose(found[1], advantage, atol=1e-12)
    np.testing.assert_allclose(found[0], [-1, 1, -1, 1])
    assert signal.tolist() == [True, told]


def test_the_return_is_discounted_per_step_from_the_episodes_first(record) -> None:
    rewards = [1.0, 2.0, 0.0, 4.0, 0.0, 8.0, 1.0]
    one = join(record(7, reward=rewards))
    assert discounted(one, 1.0) == 16
    assert discounted(one, 0.5) == pytest.approx(1 + 1 + 0.5 + 0.25 + 1 / 64)
    # gamma^n: the same as over its chunks, of 4 and 3 steps.
    batch = chunk_batch([one], 0.5)
    assert batch.reward[0] + batch.discount[0] * batch.reward[1] == pytest.approx(discounted(one, 0.5))


def test_each_unit_of_an_episode_has_its_advantage(policy, episodes) -> None:
    """At ratio 1 the loss is minus the mean advantage over all units."""
    grpo = GRPO(policy, config(epochs=1, minibatch=1000, actor_lr=0.0), seed=0)
    metrics = grpo.update(episodes, 4, nothing)
    returns = np.array([e.reward.astype(float).sum() for e in episodes]).reshape(-1, G)
    advantage = (returns - returns.mean(1, keepdims=True)) / returns.std(1, keepdims=True)
    assert metrics["loss/policy"] == pytest.approx(-advantage.mean(), abs=1e-6)  # 0: all have as many units
    assert metrics["return/mean"] == pytest.approx(returns.mean())
    assert metrics["return/group_std"] == pytest.approx(returns.std(1).mean())
    assert (metrics["groups"], metrics["groups_without_signal"], metrics["chunks"]) == (10, 0, 120)

    # Where the best episode is longer than the others, its units weigh more.
    longer = [replace(e, **cut(e, 4)) if i % G else e for i, e in enumerate(episodes)]
    metrics = GRPO(policy, config(epochs=1, minibatch=1000, actor_lr=0.0), seed=0).update(longer, 4, nothing)
    returns = np.array([e.reward.astype(float).sum() for e in longer]).reshape(-1, G)
    advantage = (returns - returns.mean(1, keepdims=True)) / returns.std(1, keepdims=True)
    units = np.array([len(e) for e in longer])
    assert metrics["loss/policy"] == pytest.approx(-(advantage.ravel() * units).sum() / units.sum(), rel=1e-4)


def cut(episode: Episode, steps: int) -> dict[str, object]:
    """The first steps of an episode, those of its first chunk."""
    per_step = ("action_executed", "intervention", "held", "reward", "terminated", "truncated", "success")
    per_chunk = ("version", "start", "first", "executed", "lag", "path", "stochastic", "log_prob")
    return (
        {"observations": {key: value[: steps + 1] for key, value in episode.observations.items()}}
        | {name: getattr(episode, name)[:steps] for name in per_step}
        | {name: getattr(episode, name)[:1] for name in per_chunk}
    )


@pytest.mark.parametrize("prox", ["recompute", "interpolate"])
@pytest.mark.parametrize("ratio", ["unit", "chunk"])
def test_learning_rate_0_leaves_the_policy_and_every_ratio_1(policy, episodes, prox: str, ratio: str) -> None:
    before = weights(policy)
    grpo = GRPO(policy, config(actor_lr=0.0, prox=prox, ratio=ratio), seed=0)
    for version in (4, 1000):
        metrics = grpo.update(episodes, version, nothing)
        assert same(weights(policy), before)
        assert metrics["clip_fraction"] == 0 and metrics["w_masked_fraction"] == 0
        assert metrics["kl"] < 1e-8 and metrics["actor_trained"] == 1
        if prox == "recompute":
            assert metrics["ratio_max"] == 1 and metrics["kl_max"] == 0
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert grpo.updates == 2


def level(episode: Episode) -> Episode:
    return replace(episode, reward=np.ones_like(episode.reward))


def test_groups_of_equal_returns_have_no_influence_and_are_counted(policy, episodes) -> None:
    silent = [level(one) if i // G in (0, 7) else one for i, one in enumerate(episodes)]
    telling = [one for i, one in enumerate(episodes) if i // G not in (0, 7)]
    other = copy.deepcopy(policy)
    metrics = GRPO(policy, config(), seed=0).update(silent, 4, nothing)
    alone = GRPO(other, config(), seed=0).update(telling, 4, nothing)
    assert same(weights(policy), weights(other))
    assert (metrics["groups"], metrics["groups_without_signal"], metrics["chunks"]) == (10, 2, 96)
    assert (alone["groups"], alone["groups_without_signal"], alone["chunks"]) == (8, 0, 96)


def test_where_no_group_has_a_signal_the_policy_stays(policy, episodes) -> None:
    before, grpo = weights(policy), GRPO(policy, config(), seed=0)
    metrics = grpo.update([level(one) for one in episodes], 4, nothing)
    assert same(weights(policy), before) and grpo.updates == 1
    assert metrics["actor_trained"] == 0 and metrics["groups_without_signal"] == 10 == metrics["groups"]
    assert "loss/policy" not in metrics


def test_the_order_of_the_episodes_says_nothing_about_their_groups(policy, episodes) -> None:
    metrics = [
        GRPO(copy.deepcopy(policy), config(epochs=1, minibatch=1000, actor_lr=0.0), seed=0).update(some, 4, nothing)
        for some in (episodes, [*episodes[1::2], *episodes[::2]])
    ]
    assert metrics[0]["return/group_std"] == pytest.approx(metrics[1]["return/group_std"])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda all_: all_.pop(5), "3 episodes of a group, expected all 4"),
        (lambda all_: all_.append(replace(all_[9])), "5 episodes of a group, expected all 4"),
        (lambda all_: all_.append(replace(all_[9], group=None)), "an episode of no group"),
        (lambda all_: all_.append(replace(all_[9], lag=all_[9].lag + 50)), "without a chunk whose observation"),
    ],
    ids=["one short", "one more", "no group", "no observation"],
)
def test_what_is_no_whole_group_is_refused_and_changes_nothing(policy, episodes, harm, said: str) -> None:
    harm(episodes)
    before, grpo = weights(policy), GRPO(policy, config(), seed=0)
    with pytest.raises(EpisodeError, match=said):
        grpo.update(episodes, 4, nothing)
    assert same(weights(policy), before) and grpo.updates == 0


def test_the_policy_changes_only_after_it_was_said(policy, episodes) -> None:
    grpo = GRPO(policy, config(), seed=0)
    seen, say = watch(policy, grpo.actor.optimizer)
    grpo.update(episodes, 4, say)
    assert len(seen) > 5 and same(weights(policy), seen[-1])


def test_an_update_stops_before_it_goes_too_far(policy, episodes) -> None:
    metrics = GRPO(policy, config(target_kl=1e-12, epochs=8), seed=0).update(episodes, 4, nothing)
    assert metrics["stopped_early"] == 1 and metrics["epochs"] == 1


def learner(seed: int) -> GRPO:
    torch.manual_seed(seed)
    features = {"observation.state": (4,), "observation.environment_state": (2,)}
    return GRPO(FlowMLP(features, 4, 3, hidden=(32, 32)), config(epochs=1, actor_lr_halving=7), seed)


@pytest.mark.parametrize("midway", [0, 9])
def test_saved_and_loaded_it_goes_on_bit_by_bit(episodes, midway: int) -> None:
    grpo, other = learner(3), learner(8)
    for version in range(midway):
        grpo.update(episodes, version, nothing)
    other.policy.load_state_dict(grpo.policy.state_dict())
    other.load_state_dict(grpo.state_dict())
    for version in range(midway, midway + 10):
        assert grpo.update(episodes, version, nothing) == other.update(episodes, version, nothing)
    assert same(weights(grpo.policy), weights(other.policy)) and same(grpo.state_dict(), other.state_dict())


def test_the_state_of_another_algorithm_is_refused() -> None:
    state = learner(0).state_dict()
    del state["own.updates"]
    with pytest.raises(StateError, match="updates"):
        learner(0).load_state_dict(state)


def test_its_gradient_agrees_with_finite_differences(policy, episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """d/dtheta of -E_units[pi/pi_b A], the data being of weights a little off."""
    policy = policy.double()
    batch = chunk_batch(episodes[:20], 1.0)
    for name in ("path", "log_prob"):
        batch = replace(batch, **{name: getattr(batch, name).double()})
    batch = replace(batch, observations={key: value.double() for key, value in batch.observations.items()})
    returns = np.array([discounted(e, 1.0) for e in episodes[:20]]).reshape(-1, G)
    advantage = torch.from_numpy(group_advantages(returns)[0].reshape(-1))[batch.episode]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.002 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    units = batch.mask[:, None] & batch.stochastic[..., None]

    def objective() -> Tensor:
        ratio = (policy.log_prob(batch.observations, batch.path, batch.stochastic) - batch.log_prob).exp()
        assert ratio[units].max() < 2, "no unit is masked"
        return -(torch.where(units, ratio * advantage[:, None, None], 0.0)).sum() / units.sum()

    grpo = GRPO(policy, config(epochs=1, minibatch=1000, group=G), seed=0)
    parameters, found = list(policy.network[-1].parameters()), []

    def step(loss: Tensor, before_change: object) -> float:
        found.extend(torch.autograd.grad(loss, parameters))
        return 0.0

    monkeypatch.setattr(grpo.actor.optimizer, "step", step)
    assert grpo.learn(batch, advantage, 9, Metrics())
    assert len(found) == len(parameters) == 2
    with torch.no_grad():
        for parameter, gradient in zip(parameters, found, strict=True):
            flat = parameter.view(-1)
            for i in range(0, len(flat), max(1, len(flat) // 8)):
                ends = []
                for sign in (1, -1):
                    flat[i] += sign * 1e-6
                    ends.append(objective().item())
                    flat[i] -= sign * 1e-6
                assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.view(-1)[i].item(), rel=1e-4, abs=1e-8)


def optimum(s: Tensor) -> Tensor:
    return 0.8 * s - 0.3


def bandit(policy: FlowMLP, rng: np.random.Generator, version: int, groups: int = 64, size: int = 8) -> list[Episode]:
    """Groups of episodes of one step and one action a in one state s, with reward -(a - optimum(s))^2."""
    s = torch.from_numpy(rng.uniform(-1, 1, (groups, 1)).astype(np.float32)).repeat_interleave(size, 0)
    chunk = policy.act({"observation.state": s}, policy.noise(len(s), rng), explore=True)
    reward = -(chunk.actions[:, 0, 0] - optimum(s[:, 0])).square().numpy()
    no, one, zero = np.zeros(1, bool), np.ones(1, np.int32), np.zeros(1, np.int32)
    return [
        Episode(
            {"observation.state": s[i].numpy()[None].repeat(2, 0)},
            action_executed=chunk.actions[i].numpy(),
            intervention=no, held=no, reward=reward[i : i + 1], terminated=~no, truncated=no, success=no,
            version=np.array([version]), start=zero, first=zero, executed=one, lag=zero,
            path=chunk.path[i : i + 1].numpy(),
            stochastic=chunk.stochastic[i : i + 1].numpy(),
            log_prob=chunk.log_prob[i : i + 1].numpy(),
            group=Group(i // size, i % size, size),
        )
        for i in range(len(s))
    ]  # fmt: skip


@pytest.mark.parametrize("lag", [0, 3], ids=["fresh", "three updates old"])
def test_bandit_with_a_known_optimum(lag: int) -> None:
    """The mean of the exploring policy goes to the optimum, without a critic, with stale data as well."""
    torch.manual_seed(0)
    policy = FlowMLP({"observation.state": (1,)}, horizon=1, action_dim=1, hidden=(32, 32), denoising_steps=2)
    rng, waiting = np.random.default_rng(0), []
    grpo = GRPO(policy, config(group=8, epochs=4, minibatch=256, actor_lr=2e-3, actor_lr_halving=25), seed=0)
    for version in range(80):
        waiting.append(bandit(policy, rng, version))
        if len(waiting) > lag:
            grpo.update(waiting.pop(0), version, nothing)
    s = torch.linspace(-0.9, 0.9, 16)[:, None]
    actions = policy.act({"observation.state": s.repeat(1000, 1)}, policy.noise(16_000, rng), explore=True).actions
    error = (actions.view(1000, 16).mean(0) - optimum(s[:, 0])).abs()
    assert error.max() < 0.15 and error.mean() < 0.07
