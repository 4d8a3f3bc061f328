"""PPO as a whole: it changes nothing when it must not, repeats itself bit by bit, and finds a known optimum."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP
from robotlearn.algorithms.chunks import ChunkBatch, chunk_batch, join
from robotlearn.algorithms.errors import DivergedError, StateError
from robotlearn.algorithms.gae import gae
from robotlearn.algorithms.minibatches import minibatches, split
from robotlearn.algorithms.ppo import PPO
from robotlearn.config.algorithms import PPOConfig
from tests.algorithms.weights import same, watch, weights


def config(**changes: object) -> PPOConfig:
    return PPOConfig(**{"critic_warmup": 0, "epochs": 2, "minibatch": 16, "value_hidden": (16,), **changes})


@pytest.fixture
def batch(record) -> ChunkBatch:
    """40 episodes, 120 chunks (no multiple of the minibatch), of versions 0 to 9."""
    ends = ("truncated", "terminated")
    return chunk_batch(
        [join(record(12, seed=i, end=ends[i % 2], versions=[i % 10] * 3, held=[i % 12])[0:1]) for i in range(40)], 0.99
    )


@pytest.mark.parametrize("prox", ["recompute", "interpolate"])
@pytest.mark.parametrize("ratio", ["unit", "chunk"])
@pytest.mark.parametrize("minibatch", [7, 16, 512])
def test_learning_rate_0_leaves_the_policy_and_every_ratio_1(policy, batch, prox, ratio, minibatch) -> None:
    """Whatever the staleness. Recomputed in equal batch shapes, the proximal policy equals the policy to the bit."""
    before = weights(policy)
    ppo = PPO(policy, config(actor_lr=0.0, prox=prox, ratio=ratio, minibatch=minibatch), seed=0)
    for version in (9, 10, 1000):
        metrics = ppo.learn(batch, version)
        assert same(weights(policy), before)
        assert metrics["clip_fraction"] == 0 and metrics["w_masked_fraction"] == 0
        assert metrics["kl"] < 1e-8 and metrics["actor_trained"] == 1
        assert metrics["w_mean"] == pytest.approx(1, abs=1e-4)
        if prox == "recompute":
            assert metrics["ratio_max"] == 1 and metrics["kl_max"] == 0
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert ppo.updates == 3


def test_the_policy_changes_only_after_it_was_said(policy, batch) -> None:
    """What was said last time covers one step: in between, its weights may have been published."""
    ppo = PPO(policy, config(), seed=0)
    seen, say = watch(policy, ppo.actor.optimizer)
    ppo.learn(batch, 9, say)
    assert len(seen) > 5 and same(weights(policy), seen[-1])


def test_other_batch_sizes_at_the_edge_change_no_log_prob(policy, batch) -> None:
    """The chunks were drawn three at a time, one episode each."""
    metrics = PPO(policy, config(), seed=0).learn(replace(batch, version=torch.full_like(batch.version, 5)), 5)
    assert 0 < metrics["log_prob_gap"] <= 1e-4 or metrics["log_prob_gap"] == 0


def test_log_prob_gap_tells_of_an_edge_with_other_weights(policy, batch) -> None:
    policy.network[0].weight.data.mul_(1.1)
    fresh = replace(batch, version=torch.full_like(batch.version, 5))
    assert PPO(copy.deepcopy(policy), config(), seed=0).learn(fresh, 5)["log_prob_gap"] > 1e-2
    assert PPO(policy, config(), seed=0).learn(fresh, 6)["log_prob_gap"] == 0


def test_statistics_never_change(policy, batch) -> None:
    ppo = PPO(policy, config(), seed=0)
    before = {k: v.clone() for k, v in (*policy.named_buffers(), *ppo.critic.named_buffers())}
    ppo.learn(batch, 9)
    assert all(torch.equal(v, before[k]) for k, v in (*policy.named_buffers(), *ppo.critic.named_buffers()))


def test_first_updates_are_the_critics_alone(policy, batch) -> None:
    before, ppo = weights(policy), PPO(policy, config(critic_warmup=2), seed=0)
    critic = weights(ppo.critic)
    for _ in range(2):
        metrics = ppo.learn(batch, 0)
        assert metrics["actor_trained"] == 0 and "loss/policy" not in metrics
    assert same(weights(policy), before) and not same(weights(ppo.critic), critic)
    assert ppo.learn(batch, 0)["actor_trained"] == 1
    assert not same(weights(policy), before)


def test_what_was_not_executed_has_no_influence(policy, batch) -> None:
    """Held and overridden units, and chunks none of whose units count: another path there, the same policy."""
    mask = batch.mask.clone()
    mask[5] = mask[77] = False
    one = replace(batch, mask=mask)
    junk = torch.where(mask[:, None].expand_as(batch.log_prob), batch.log_prob, 50.0)
    junk_path = batch.path.clone()
    junk_path[[5, 77]] += 3.0
    two = replace(one, log_prob=junk, path=junk_path)
    other = copy.deepcopy(policy)
    PPO(policy, config(), seed=0).learn(one, 9)
    PPO(other, config(), seed=0).learn(two, 9)
    assert same(weights(policy), weights(other))


def test_minibatches_have_one_shape_and_hold_each_chunk_once(policy) -> None:
    assert split(torch.arange(120), 16).shape == (8, 15)
    assert split(torch.arange(119), 50).flatten().tolist() == [*range(119), 0]
    ppo, seen = PPO(policy, config(minibatch=50), seed=0), []
    for rows, real in minibatches(119, 50, ppo.generator, ppo.device):
        assert rows.shape == real.shape == (40,)
        seen += rows[real].tolist()
    assert sorted(seen) == list(range(119))


def test_a_chunk_that_fills_up_the_last_minibatch_does_not_count_twice(policy, record) -> None:
    batch = chunk_batch([join(record(12, held=[1, 6, 7]))], 0.99)  # 3 chunks in minibatches of 2, of 3, 2 and 4 steps
    advantage, returns = gae(batch.reward, batch.discount, torch.zeros(3), batch.last, torch.zeros(1), 0.95)
    units = batch.mask.sum(1).numpy() * 2
    given = config(minibatch=2, epochs=1, actor_lr=0.0, critic_lr=1e-12, normalize_advantages=False)
    ppo, twin = PPO(policy, given, seed=0), PPO(policy, given, seed=0)
    metrics = ppo.learn(batch, 0)  # the critic is 0, so that returns are its errors
    value_losses, policy_losses = [], []
    for rows, real in minibatches(3, 2, twin.generator, twin.device):
        chosen = rows[real].numpy()
        value_losses.append(0.5 * (returns[chosen] ** 2).mean())
        policy_losses.append(-(advantage[chosen] * units[chosen]).sum() / units[chosen].sum())
    assert metrics["loss/value"] == pytest.approx(np.mean(value_losses), rel=1e-5)
    assert metrics["loss/policy"] == pytest.approx(np.mean(policy_losses), rel=1e-5)


def test_an_update_stops_before_it_goes_too_far(policy, batch) -> None:
    ppo = PPO(policy, config(actor_lr=0.1, target_kl=0.05, epochs=8), seed=0)
    metrics = ppo.learn(batch, 9)
    assert metrics["stopped_early"] == 1 and metrics["epochs"] < 8 and metrics["kl_max"] > 0.05
    free = PPO(policy, config(actor_lr=0.1, target_kl=None, epochs=8), seed=0).learn(batch, 9)
    assert free["stopped_early"] == 0 and free["epochs"] == 8


def test_the_step_that_would_go_on_too_far_is_not_taken(policy, batch) -> None:
    """The first step starts at ratio 1; after it the bound is passed, and neither network takes another."""
    ppo = PPO(policy, config(target_kl=1e-12, epochs=8), seed=0)
    assert ppo.learn(batch, 9)["epochs"] == 1
    state = ppo.state_dict()
    assert state["actor_optimizer.counts"].tolist() == state["critic_optimizer.counts"].tolist() == [1, 0, 0]


def test_too_heavy_units_are_masked_in_the_update(policy, batch) -> None:
    """Where every unit weighs more than the cap, the policy stays."""
    before = weights(policy)
    ppo = PPO(policy, config(), seed=0)
    metrics = ppo.learn(replace(batch, log_prob=batch.log_prob - 1.0), 9)
    assert metrics["w_masked_fraction"] == 1 and metrics["loss/policy"] == 0
    assert same(weights(policy), before)


def learner(batch: ChunkBatch, seed: int) -> PPO:
    torch.manual_seed(seed)
    features = {"observation.state": (4,), "observation.environment_state": (2,)}
    return PPO(FlowMLP(features, 4, 3, hidden=(32, 32)), config(critic_warmup=2, epochs=1, minibatch=64), seed)


def test_same_seed_same_data_same_bits_after_100_updates(batch) -> None:
    ends = []
    for seed in (3, 3, 4):
        ppo = learner(batch, seed)
        for version in range(100):
            ppo.learn(batch, version)
        ends.append((weights(ppo.policy), weights(ppo.critic)))
    assert same(ends[0][0], ends[1][0]) and same(ends[0][1], ends[1][1])
    assert not same(ends[0][0], ends[2][0])


@pytest.mark.parametrize("midway", [0, 1, 20], ids=["before the first", "in the warm-up", "midway"])
def test_saved_and_loaded_it_goes_on_bit_by_bit(batch, midway: int, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    ppo = learner(batch, 3)
    for version in range(midway):
        ppo.learn(batch, version)
    save_file(ppo.state_dict(), tmp_path / "algorithm.safetensors")
    save_file(ppo.policy.state_dict(), tmp_path / "policy.safetensors")
    other = learner(batch, 8)
    other.policy.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    other.load_state_dict(load_file(tmp_path / "algorithm.safetensors"))
    for version in range(midway, midway + 20):
        assert ppo.learn(batch, version) == other.learn(batch, version)
    assert same(weights(ppo.policy), weights(other.policy)) and same(ppo.state_dict(), other.state_dict())


def test_a_saved_state_is_a_copy(policy, batch) -> None:
    ppo = PPO(policy, config(), seed=0)
    ppo.learn(batch, 0)
    state = ppo.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    ppo.learn(batch, 1)
    assert same(state, before)
    other = PPO(policy, config(), seed=0)
    other.load_state_dict(state)
    other.learn(batch, 1)
    assert same(state, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("own.updates"), "updates"),
        (lambda s: s.pop("critic.network.0.weight"), "network.0.weight"),
        (lambda s: s.pop("actor_optimizer.network.0.weight.exp_avg"), r"network.0.weight.exp_avg is missing"),
        (lambda s: s.update({"actor_optimizer.network.0.weight.exp_avg": torch.zeros(3)}), "has shape"),
        (lambda s: s.update({"critic_optimizer.stranger": torch.zeros(3)}), "stranger"),
    ],
    ids=["no count", "no weight", "no moment", "other size", "unknown key"],
)
def test_a_state_that_does_not_fit_is_refused(policy, batch, change, words: str) -> None:
    ppo = PPO(policy, config(), seed=0)
    ppo.learn(batch, 0)
    state = ppo.state_dict()
    change(state)
    with pytest.raises(StateError, match=words):
        PPO(policy, config(), seed=0).load_state_dict(state)


def test_broken_rewards_change_nothing_and_are_reported(policy, batch) -> None:
    before, ppo = weights(policy), PPO(policy, config(epochs=1, minibatch=40), seed=0)
    critic = weights(ppo.critic)
    broken = replace(batch, reward=torch.full_like(batch.reward, math.nan))
    metrics = ppo.learn(broken, 0)
    assert metrics["skipped_steps"] == 6  # 3 minibatches, policy and critic
    assert same(weights(policy), before) and same(weights(ppo.critic), critic)
    with pytest.raises(DivergedError, match="5 optimiser steps"):
        ppo.learn(broken, 0)
    assert same(weights(policy), before) and same(weights(ppo.critic), critic)


def test_a_single_broken_step_is_skipped_and_training_goes_on(policy, batch) -> None:
    path = batch.path.clone()
    path[3] = math.nan
    ppo = PPO(policy, config(epochs=1, minibatch=40), seed=0)
    before = weights(policy)
    metrics = ppo.learn(replace(batch, path=path), 0)
    assert metrics["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in policy.state_dict().values())
    assert not same(weights(policy), before)


def optimum(s: Tensor) -> Tensor:
    return 0.8 * s - 0.3


def bandit(policy: FlowMLP, rng: np.random.Generator, version: int, n: int = 512) -> ChunkBatch:
    """n episodes of one step and one action a, with reward -(a - optimum(s))^2."""
    s = torch.from_numpy(rng.uniform(-1, 1, (n, 1)).astype(np.float32))
    obs, true = {"observation.state": s}, torch.ones(n, dtype=torch.bool)
    chunk = policy.act(obs, policy.noise(n, rng), explore=True)
    return ChunkBatch(
        observations=obs,
        states=obs,
        final=obs,
        path=chunk.path,
        stochastic=chunk.stochastic,
        log_prob=chunk.log_prob,
        mask=true[:, None],
        reward=-(chunk.actions[:, 0, 0] - optimum(s[:, 0])).square(),
        discount=torch.full((n,), 0.99),
        steps=torch.ones(n, dtype=torch.int64),
        version=torch.full((n,), version),
        episode=torch.arange(n),
        last=true,
        terminated=true,
    )


@pytest.mark.parametrize("prox", ["recompute", "interpolate"])
@pytest.mark.parametrize("lag", [0, 3], ids=["fresh", "three updates old"])
def test_bandit_with_a_known_optimum(prox: str, lag: int) -> None:
    """The mean of the exploring policy, which is what PPO optimises, goes to the optimum, with stale data as well."""
    torch.manual_seed(0)
    policy = FlowMLP({"observation.state": (1,)}, horizon=1, action_dim=1, hidden=(32, 32), denoising_steps=2)
    rng, waiting = np.random.default_rng(0), []
    ppo = PPO(
        policy, config(prox=prox, epochs=4, minibatch=256, actor_lr=2e-3, critic_lr=5e-3, actor_lr_halving=25), seed=0
    )
    for version in range(80):
        waiting.append(bandit(policy, rng, version))
        if len(waiting) > lag:
            ppo.learn(waiting.pop(0), version)
    s = torch.linspace(-0.9, 0.9, 16)[:, None]
    many = {"observation.state": s.repeat(1000, 1)}
    actions = policy.act(many, policy.noise(16_000, rng), explore=True).actions.view(1000, 16)
    assert (actions.mean(0) - optimum(s[:, 0])).abs().max() < 0.12
    assert (actions.mean(0) - optimum(s[:, 0])).abs().mean() < 0.05
    # Of the spread only what the last step adds is left, 0.5 sqrt(1/2); the statistics are 0 and 1 here.
    assert actions.std(0).mean().item() == pytest.approx(0.354, abs=0.02)


@pytest.mark.parametrize(
    ("end", "timeout", "v0", "v1"),
    [
        ("terminated", "bootstrap", 1 + 0.5 + 0.25 * 1.5, 1.5),
        ("truncated", "bootstrap", 2.0, 2.0),
        ("truncated", "failure", 1 + 0.5 + 0.25 * 1.5, 1.5),
    ],
    ids=str,
)
def test_critic_learns_the_values_of_a_two_state_chain(record, end: str, timeout: str, v0: float, v1: float) -> None:
    """s0 -> s1 -> s0 ..., chunks of two steps, reward 1 per step, gamma 0.5.

    Terminated after s1: V(s1) = 1 + g, V(s0) = 1 + g + g^2 V(s1). Truncated there: both are 1 / (1 - g), unless that is
    a failure.
    """
    episode = join(record(4, starts=[0, 2], executed=[2, 2], end=end, reward=[1.0] * 4))
    state = np.zeros((5, 4), np.float32)
    state[:, 0] = [1, 0, -1, 0, 1]
    other = np.zeros((5, 2), np.float32)
    episode = replace(episode, observations={"observation.state": state, "observation.environment_state": other})
    torch.manual_seed(0)
    policy = FlowMLP({"observation.state": (4,), "observation.environment_state": (2,)}, 4, 3, hidden=(8,))
    ppo = PPO(
        policy,
        config(gamma=0.5, timeout=timeout, critic_warmup=10_000, critic_lr=1e-2, epochs=4, minibatch=64),
        seed=0,
    )
    for version in range(150):
        metrics = ppo.update([episode], version, lambda: None)
    batch = chunk_batch([episode], 0.5)
    assert ppo.critic(batch.states).tolist() == pytest.approx([v0, v1], abs=0.02)
    assert metrics["loss/value"] < 1e-3


def test_chunks_older_than_the_policy_count_like_fresh_ones_where_nothing_changed(policy, batch) -> None:
    """Staleness alone, without other weights, has no effect."""
    one, two = copy.deepcopy(policy), copy.deepcopy(policy)
    old = replace(batch, version=torch.zeros_like(batch.version))
    fresh = replace(batch, version=torch.full_like(batch.version, 50))
    PPO(one, config(), seed=0).learn(old, 50)
    PPO(two, config(), seed=0).learn(fresh, 50)
    assert same(weights(one), weights(two))


def test_gradient_of_the_whole_update_agrees_with_finite_differences(policy, batch) -> None:
    from robotlearn.algorithms.objective import objective

    policy = policy.double()
    rows = torch.arange(20)
    obs = {k: v[rows].double() for k, v in batch.observations.items()}
    path, stochastic = batch.path[rows].double(), batch.stochastic[rows]
    units = batch.mask[rows, None] & stochastic[..., None]
    advantage = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        proximal = policy.log_prob(obs, path, stochastic) + 0.05
        behaviour = proximal - 0.3

    def loss() -> Tensor:
        log_prob = policy.log_prob(obs, path, stochastic)
        return objective(log_prob, proximal, behaviour, advantage, units, PPOConfig()).loss

    for parameter in policy.network[-1].parameters():
        (gradient,) = torch.autograd.grad(loss(), parameter)
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 8)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                ends.append(loss().item())
                flat[i] -= sign * 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.view(-1)[i].item(), rel=1e-4, abs=1e-7)


def test_the_policys_learning_rate_halves_as_the_config_says(policy, batch) -> None:
    used = []
    for updates in (0, 10):
        algorithm = PPO(copy.deepcopy(policy), config(actor_lr=1e-4, actor_lr_halving=10), seed=0)
        algorithm.updates = updates
        algorithm.learn(batch, version=0)
        used.append(algorithm.actor.optimizer.lr)
    assert used == pytest.approx([1e-4, 5e-5])
