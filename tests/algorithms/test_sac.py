"""SAC and RLPD: closed forms, known optima, and the same bits again."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies import FlowMLP, SquashedGaussianPolicy, Statistics
from robotlearn.algorithms.errors import AlgorithmError, DivergedError, StateError
from robotlearn.algorithms.registry import make_algorithm
from robotlearn.algorithms.sac import SAC
from robotlearn.algorithms.transitions import Transitions
from robotlearn.config.algorithms import RLPDConfig, SACConfig
from tests.algorithms.weights import same, watch, weights

STATE = {"observation.state": (3,)}
SEVERAL = {**STATE, "embodiment": (2,)}
IMAGE = {**STATE, "observation.images.wrist": (32, 32, 3)}
HORIZON, DIMS = 2, 3


class Given:
    """Batches that were drawn before; keeps what it was told of them."""

    def __init__(self, *batches: Transitions) -> None:
        self.batches, self.errors = batches, []

    def __iter__(self) -> Iterator[Transitions]:
        return iter(self.batches)

    def prioritize(self, batch: Transitions, error: Tensor) -> None:
        self.errors.append((batch, error.clone()))


def quietly() -> None:
    """Nothing waits for the weights."""


def config(name: str = "sac", **changes: object) -> SACConfig | RLPDConfig:
    kind = SACConfig if name == "sac" else RLPDConfig
    return kind(**{"name": name, "critic_hidden": (16, 16), "gamma": 0.9, **changes})


def make(features=STATE, *, horizon: int = HORIZON, dims: int = DIMS, bound: float = 1.0, used=None, seed: int = 0):
    torch.manual_seed(seed)
    return SquashedGaussianPolicy(features, horizon, dims, hidden=(16,), bound=bound, used_dims=used)


def draw(seed: int = 0, batch: int = 16, features=STATE, horizon: int = HORIZON, dims: int = DIMS) -> Transitions:
    generator = torch.Generator().manual_seed(seed)

    def observations() -> dict[str, Tensor]:
        seen = {"observation.state": torch.randn(batch, 3, generator=generator)}
        if "embodiment" in features:
            seen["embodiment"] = nn.functional.one_hot(torch.arange(batch) % 2, 2).float()
        if features is IMAGE:
            shape = (batch, 32, 32, 3)
            seen["observation.images.wrist"] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return seen

    valid = torch.ones(batch, horizon, dtype=torch.bool)
    return Transitions(
        observations=observations(),
        next_observations=observations(),
        actions=torch.rand(batch, horizon, dims, generator=generator) * 2 - 1,
        valid=valid,
        intervention=torch.zeros_like(valid),
        reward=torch.randn(batch, generator=generator),
        discount=torch.where(torch.rand(batch, generator=generator) < 0.2, 0.0, 0.81),
        weight=torch.rand(batch, generator=generator) + 0.5,
        version=torch.zeros(batch, dtype=torch.int64),
        rows=torch.arange(batch),
    )


def many(updates: int, features=STATE) -> list[Given]:
    return [Given(draw(2 * i, features=features), draw(2 * i + 1, features=features)) for i in range(updates)]


def as_double(algorithm: SAC) -> None:
    for module in (algorithm.policy, algorithm.critics, algorithm.target, algorithm.temperature):
        module.double()


def doubled(batch: Transitions) -> Transitions:
    def double(value: object) -> object:
        if isinstance(value, dict):
            return {key: double(part) for key, part in value.items()}
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return Transitions(**{name: double(value) for name, value in vars(batch).items()})


# What an update does and does not change


@pytest.mark.parametrize("name", ["sac", "rlpd"])
def test_learning_rate_0_leaves_the_policy_and_its_log_probabilities(name: str) -> None:
    policy, batch = make(), draw()
    noise = policy.noise(16, np.random.default_rng(0))
    chunk = policy.act(batch.observations, noise, True)
    algorithm = SAC(policy, config(name, actor_lr=0.0, temperature_lr=0.0), seed=0)
    before, critics = weights(policy), weights(algorithm.critics)
    for given in many(5):
        algorithm.learn(given, quietly)
    assert same(weights(policy), before) and not same(weights(algorithm.critics), critics)
    again = policy.log_prob(batch.observations, chunk.path, chunk.stochastic)
    assert (again - chunk.log_prob).abs().max() <= 1e-4
    assert algorithm.temperature().item() == 1.0


def test_statistics_never_change_and_are_the_critics_as_well() -> None:
    policy, rng = make(), np.random.default_rng(0)
    policy.set_statistics({k: Statistics(rng.normal(size=3), rng.uniform(1, 2, 3)) for k in policy.statistics()})
    algorithm = SAC(policy, config(), seed=0)
    modules = (policy, algorithm.critics, algorithm.target)
    before = [weights(m.observation.normalizer) for m in modules]
    assert same(before[0], before[1]) and same(before[0], before[2])
    algorithm.learn(many(1)[0], quietly)
    assert all(same(weights(m.observation.normalizer), old) for m, old in zip(modules, before, strict=True))


def test_the_policy_changes_only_after_it_was_said() -> None:
    """What was said last time covers one step: in between, its weights may have been published."""
    policy = make()
    algorithm = SAC(policy, config(), seed=0)
    seen, say = watch(policy, algorithm.actor_optimizer)
    for given in many(3):
        algorithm.learn(given, say)
    assert len(seen) == 7 and same(weights(policy), seen[-1])


def test_the_policy_is_trained_as_often_as_the_config_says() -> None:
    algorithm = SAC(make(), config(actor_every=3), seed=0)
    metrics = [algorithm.learn(given, quietly) for given in many(4)]  # 8 steps: the first, the fourth, the seventh
    counts = {key: value[0].item() for key, value in algorithm.state_dict().items() if key.endswith("counts")}
    assert counts == {
        "critic_optimizer.counts": 8,
        "actor_optimizer.counts": 3,
        "temperature_optimizer.counts": 3,
    }
    assert ["loss/policy" in each for each in metrics] == [True, True, False, True]


def test_targets_follow_the_critics_by_tau() -> None:
    algorithm = SAC(make(), config(tau=0.3, critic_lr=0.1), seed=0)
    before = dict(algorithm.target.named_parameters())
    before = {key: value.clone() for key, value in before.items()}
    assert same(weights(algorithm.target), weights(algorithm.critics))
    algorithm.learn(Given(draw()), quietly)
    for (key, target), critic in zip(algorithm.target.named_parameters(), algorithm.critics.parameters(), strict=True):
        torch.testing.assert_close(target, 0.7 * before[key] + 0.3 * critic)
        assert not torch.equal(target, before[key]) and not target.requires_grad


# The formulas


def others(algorithm: SAC, batch: Transitions) -> tuple[Tensor, Tensor]:
    """Q'(s', a') of all target critics, (E, B), for the chunks that `targets` will draw next, and ln pi of those."""
    shape = (len(batch), algorithm.policy.horizon, algorithm.policy.action_dim)
    noise = torch.randn(shape, generator=copy_of(algorithm.noise))
    chunk, log_prob = algorithm.policy.sample(batch.next_observations, noise)
    return algorithm.target(algorithm.target.encode(batch.next_observations), chunk).detach(), log_prob.detach()


def copy_of(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return twin


@pytest.mark.parametrize("entropy_backup", [False, True])
@pytest.mark.parametrize("critics", [1, 2, 5])
def test_the_target_is_reward_and_discounted_minimum_of_all_where_the_subset_is_all(critics, entropy_backup) -> None:
    changes = {"critics": critics, "subset": critics, "entropy_backup": entropy_backup, "initial_temperature": 0.3}
    algorithm, batch = SAC(make(), config("rlpd", **changes), seed=0), draw()
    q, log_prob = others(algorithm, batch)
    worth = q.min(0).values - (0.3 * log_prob if entropy_backup else 0.0)
    torch.testing.assert_close(algorithm.targets(batch), batch.reward + batch.discount * worth)
    assert (batch.discount == 0).any() and (batch.discount > 0).any()


def test_the_reward_scale_is_of_rewards_alone() -> None:
    algorithm, batch = SAC(make(), config("rlpd", critics=2, reward_scale=10.0), seed=0), draw()
    q, _ = others(algorithm, batch)
    torch.testing.assert_close(algorithm.targets(batch), 10 * batch.reward + batch.discount * q.min(0).values)


def test_a_random_subset_makes_the_minimum_and_not_always_the_same(monkeypatch) -> None:
    algorithm, batch = SAC(make(), config("rlpd", critics=5, subset=2), seed=0), draw(batch=64)
    said = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(algorithm.target, "forward", lambda encoded, chunk, which: said[which])
    used = set()
    for _ in range(200):
        y = algorithm.targets(batch)
        pairs = [(i, j) for i in range(5) for j in range(i)]
        fits = [pair for pair in pairs if torch.allclose(y, batch.reward + batch.discount * said[list(pair)].amin(0))]
        assert len(fits) == 1
        used.update(fits)
    assert len(used) == 10


@pytest.mark.parametrize("end", [None, 2], ids=["goes on", "ends early"])
def test_the_target_of_a_chunk_is_that_of_its_steps_one_by_one(end: int | None) -> None:
    """gamma^n: folded from the back with single steps' targets, each worth what the one before it came to."""
    gamma, horizon, value = 0.9, 4, 1.7
    reward = torch.tensor([1.0, -0.5, 2.0, 0.3])[:end]
    chunked = SAC(make(horizon=horizon), config(gamma=gamma), seed=0)
    single = SAC(make(horizon=1), config(gamma=gamma), seed=0)

    def worth(algorithm: SAC, what: float) -> None:
        """Every target critic says this of all."""
        last = algorithm.target.layers[-1]
        last.weight.data.zero_()
        last.bias.data.fill_(what)

    assert chunked.window.gamma == gamma and (chunked.window.horizon, chunked.window.steps) == (4, 4)
    over = end is not None
    one = replace(
        draw(horizon=horizon, batch=1),
        reward=(gamma ** torch.arange(len(reward)) * reward).sum()[None],
        discount=torch.tensor([0.0 if over else gamma**horizon]),
    )
    worth(chunked, value)
    y = value
    for step in reversed(range(len(reward))):
        last = over and step == len(reward) - 1
        worth(single, y)
        given = replace(
            draw(horizon=1, batch=1), reward=reward[step][None], discount=torch.tensor([0.0 if last else gamma])
        )
        y = single.targets(given).item()
    assert chunked.targets(one).item() == pytest.approx(y, rel=1e-6)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("which", ["critics", "policy", "temperature"])
def test_gradients_agree_with_finite_differences(which: str, layer_norm: bool) -> None:
    used = [[0, 1, 2], [0, 2]]
    policy = make(SEVERAL, bound=2.0, used=used)
    algorithm = SAC(policy, config(critic_layer_norm=layer_norm, initial_temperature=0.7), seed=0)
    as_double(algorithm)
    batch, y = doubled(draw(features=SEVERAL)), torch.randn(16, dtype=torch.float64)
    state = algorithm.noise.get_state()

    def loss() -> Tensor:
        algorithm.noise.set_state(state)
        if which == "critics":
            return algorithm.critic_loss(batch, y)[0]
        value, log_prob = algorithm.policy_loss(batch.observations)
        return value if which == "policy" else algorithm.temperature_loss(log_prob, batch.observations)

    module = {"critics": algorithm.critics, "policy": policy, "temperature": algorithm.temperature}[which]
    for parameter in module.parameters():
        (gradient,) = torch.autograd.grad(loss(), parameter)
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 6)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                ends.append(loss().item())
                flat[i] -= sign * 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.flatten()[i].item(), rel=1e-4, abs=1e-8)


def test_losses_are_those_of_the_paper() -> None:
    policy = make(bound=2.0)
    algorithm, batch = SAC(policy, config("rlpd", critics=3, initial_temperature=0.7), seed=0), draw()
    y = torch.randn(16, generator=torch.Generator().manual_seed(5))
    loss, q = algorithm.critic_loss(batch, y)
    torch.testing.assert_close(loss, sum(0.5 * (batch.weight * (q[e] - y) ** 2).mean() for e in range(3)))
    noise = torch.randn(16, 2, 3, generator=copy_of(algorithm.noise))
    loss, log_prob = algorithm.policy_loss(batch.observations)
    chunk, expected = policy.sample(batch.observations, noise)
    said = algorithm.critics(algorithm.critics.encode(batch.observations), chunk)
    torch.testing.assert_close(loss, (0.7 * expected - (said[0] + said[1] + said[2]) / 3).mean())
    torch.testing.assert_close(log_prob, expected)


@pytest.mark.parametrize(
    ("used", "given", "expected"),
    [
        (None, None, 2 * 3 * (math.log(3.0) - 0.5)),
        (None, -4.0, 2 * -4.0),
        ([[0, 1, 2], [0]], None, 2 * 2 * (math.log(3.0) - 0.5)),
    ],
    ids=["default", "given", "two embodiments"],
)
def test_target_entropy_is_of_a_chunk_and_of_real_entries(used, given, expected: float) -> None:
    features = STATE if used is None else SEVERAL
    algorithm = SAC(make(features, bound=3.0, used=used), config(target_entropy=given), seed=0)
    assert float(algorithm.target_entropy(draw(features=features).observations)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("target", "sign"), [(100.0, 1), (-100.0, -1)], ids=["below", "above"])
def test_temperature_rises_while_the_entropy_is_below_its_target_and_falls_above(target: float, sign: int) -> None:
    algorithm, before = SAC(make(), config(target_entropy=target, initial_temperature=0.5), seed=0), 0.5
    for given in many(3):
        metrics = algorithm.learn(given, quietly)
        now = algorithm.temperature().item()
        assert (now - before) * sign > 0 and (metrics["target_entropy"] - metrics["entropy"]) * sign > 0
        before = now


# What is learnt


def test_bandit_with_a_known_optimum() -> None:
    """One step, reward -(a - optimum(s))^2, actions at random: the policy's mean goes to the optimum."""

    def optimum(s: Tensor) -> Tensor:
        return 0.6 * s - 0.2

    torch.manual_seed(0)
    policy = SquashedGaussianPolicy({"observation.state": (1,)}, 1, 1, hidden=(32, 32))
    changes = {"actor_lr": 2e-3, "critic_lr": 2e-3, "target_entropy": -2.0, "initial_temperature": 0.1}
    algorithm = SAC(policy, config(**changes, critic_hidden=(32, 32), temperature_lr=3e-3), seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(700):
        s, a = (torch.rand(128, 1, generator=generator) * 2 - 1 for _ in range(2))
        batch = replace(
            draw(batch=128, horizon=1, dims=1),
            observations={"observation.state": s},
            next_observations={"observation.state": s},
            actions=a[:, None],
            reward=-10 * (a - optimum(s)).square()[:, 0],
            discount=torch.zeros(128),
        )
        algorithm.learn(Given(batch), quietly)
    s = torch.linspace(-0.9, 0.9, 31)[:, None]
    mean = policy.act({"observation.state": s}, policy.noise(31, np.random.default_rng(0)), False).actions[:, 0]
    assert (mean - optimum(s)).abs().max() < 0.1 and (mean - optimum(s)).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("over", "q0", "q1"), [(True, 1 + 0.5, 1.0), (False, 2.0, 2.0)], ids=["terminated", "truncated"]
)
def test_critics_learn_the_values_of_a_two_state_chain(over: bool, q0: float, q1: float) -> None:
    """s0 -> s1, there it ends or is cut off before s0; reward 1 per step, gamma 0.5.

    Terminated: Q(s1) = 1, Q(s0) = 1 + g. Cut off, it would have gone on: both are 1 / (1 - g).
    """
    states = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).repeat(16, 1)
    batch = replace(
        draw(batch=32),
        observations={"observation.state": states},
        next_observations={"observation.state": states.roll(1, 0)},
        reward=torch.ones(32),
        discount=torch.tensor([0.5, 0.0 if over else 0.5]).repeat(16),
    )
    algorithm = SAC(make(), config("rlpd", critics=3, critic_lr=3e-3, tau=0.05, actor_lr=0.0), seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        actions = torch.rand(32, HORIZON, DIMS, generator=generator) * 2 - 1
        metrics = algorithm.learn(Given(replace(batch, actions=actions)), quietly)
    chunk = torch.rand(32, HORIZON, DIMS, generator=generator) * 1.6 - 0.8
    q = algorithm.critics(algorithm.critics.encode(batch.observations), chunk).view(3, 16, 2).mean((0, 1))
    assert q.tolist() == pytest.approx([q0, q1], abs=0.05)
    assert metrics["td_error"] < 0.1


# Batches


def test_weights_of_a_batch_count_in_the_critics_loss() -> None:
    """Rows of weight 0 might as well not be there."""
    batch = draw()
    half = replace(batch, weight=torch.cat([torch.full((8,), 2.0), torch.zeros(8)]))
    ends = []
    for other in (half, replace(half, reward=half.reward + 100 * (half.weight == 0))):
        algorithm = SAC(make(), config(), seed=0)
        algorithm.learn(Given(other), quietly)
        ends.append(weights(algorithm.critics))
    assert same(*ends)
    algorithm = SAC(make(), config(), seed=0)
    algorithm.learn(Given(replace(half, weight=torch.ones(16))), quietly)
    assert not same(weights(algorithm.critics), ends[0])


def test_every_batch_is_told_how_far_off_its_estimates_were() -> None:
    algorithm, given = SAC(make(), config("rlpd", critics=3, subset=3), seed=0), Given(draw(0), draw(1))
    q, _ = others(algorithm, given.batches[0])
    y = given.batches[0].reward + given.batches[0].discount * q.min(0).values
    said = algorithm.critic_loss(given.batches[0], y)[1].mean(0)
    metrics = algorithm.learn(given, quietly)
    assert [batch is told for batch, (told, _) in zip(given.batches, given.errors, strict=True)] == [True, True]
    torch.testing.assert_close(given.errors[0][1], (said - y).abs().detach())
    assert metrics["td_error"] == pytest.approx(torch.cat([error for _, error in given.errors]).mean().item())


def test_metrics_are_of_the_batches_as_they_were() -> None:
    """A replay uses the memory of a batch again."""
    algorithm, one, two = SAC(make(), config(), seed=0), draw(0), draw(1)
    expected = torch.cat([one.reward, two.reward]).mean().item()

    class Reused(Given):
        def __iter__(self) -> Iterator[Transitions]:
            yield one
            yield two
            one.reward.fill_(1e6)

    metrics = algorithm.learn(Reused(), quietly)
    assert metrics["reward"] == pytest.approx(expected)
    assert all(math.isfinite(value) for value in metrics.values())


def test_actions_beyond_the_bound_count_as_the_nearest_that_the_policy_can_do() -> None:
    ends = []
    for scale in (1.0, 7.0):
        algorithm, batch = SAC(make(bound=0.5), config(), seed=0), draw()
        algorithm.learn(Given(replace(batch, actions=batch.actions.sign() * scale)), quietly)
        ends.append(weights(algorithm.critics))
    assert same(*ends)


def test_entries_that_an_embodiment_lacks_have_no_influence() -> None:
    ends = []
    batch = draw(features=SEVERAL)
    lacking = torch.zeros_like(batch.actions)
    lacking[1::2, :, 1] = 1
    for shift in (0.0, 0.3):
        algorithm = SAC(make(SEVERAL, used=[[0, 1, 2], [0, 2]]), config(), seed=0)
        for _ in range(3):
            algorithm.learn(Given(replace(batch, actions=batch.actions + shift * lacking)), quietly)
        ends.append((weights(algorithm.policy), weights(algorithm.critics)))
    assert same(ends[0][0], ends[1][0]) and same(ends[0][1], ends[1][1])


def test_images_train_the_encoders_of_policy_and_critics() -> None:
    algorithm = SAC(make(IMAGE), config(), seed=0)
    modules = (algorithm.policy, algorithm.critics, algorithm.target)
    before = [weights(module.observation.images) for module in modules]
    for given in many(2, IMAGE):
        metrics = algorithm.learn(given, quietly)
    assert metrics["skipped_steps"] == 0
    for module, old in zip(modules, before, strict=True):
        new = weights(module.observation.images)
        assert all(not torch.equal(new[key], old[key]) for key in new if key.endswith("weight"))


def test_broken_rewards_change_nothing_and_are_reported() -> None:
    policy = make()
    algorithm, broken = SAC(policy, config(), seed=0), replace(draw(), reward=torch.full((16,), math.nan))
    before, critics = weights(policy), weights(algorithm.critics)
    assert algorithm.learn(Given(broken, broken), quietly)["skipped_steps"] == 2
    assert same(weights(algorithm.critics), critics) and same(weights(algorithm.target), critics)
    assert not same(weights(policy), before), "it learns from critics that are whole"
    with pytest.raises(DivergedError, match="5 optimiser steps of the critics"):
        algorithm.learn(Given(*[broken] * 3), quietly)
    assert same(weights(algorithm.critics), critics)


def test_an_update_without_a_batch_changes_nothing() -> None:
    algorithm = SAC(make(), config(), seed=0)
    before = algorithm.state_dict()
    assert algorithm.learn(Given(), quietly) == {"skipped_steps": 0.0}
    assert same(algorithm.state_dict(), before)


# The same again


def learner(seed: int, name: str = "rlpd") -> SAC:
    return SAC(make(seed=seed), config(name, actor_every=2), seed)


def run(algorithm: SAC, updates: Iterable[Given]) -> list[dict[str, float]]:
    return [algorithm.learn(given, quietly) for given in updates]


def test_same_seed_same_data_same_bits_after_100_updates() -> None:
    ends = []
    for seed in (3, 3, 4):
        algorithm = learner(seed)
        torch.manual_seed(len(ends))
        run(algorithm, many(100))
        ends.append(weights(algorithm.policy) | algorithm.state_dict())
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


@pytest.mark.parametrize("name", ["sac", "rlpd"])
@pytest.mark.parametrize("midway", [0, 15], ids=["before the first", "midway"])
def test_saved_and_loaded_it_goes_on_bit_by_bit(name: str, midway: int, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    updates, algorithm, other = many(midway + 20), learner(3, name), learner(8, name)
    run(algorithm, updates[:midway])
    algorithm.learn(Given(draw(99)), quietly)  # an odd count of steps: the next one does not train the policy
    save_file(algorithm.state_dict(), tmp_path / "algorithm.safetensors")
    save_file(algorithm.policy.state_dict(), tmp_path / "policy.safetensors")
    other.policy.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    other.load_state_dict(load_file(tmp_path / "algorithm.safetensors"))
    assert run(algorithm, updates[midway:]) == run(other, updates[midway:])
    assert same(weights(algorithm.policy), weights(other.policy))
    assert same(algorithm.state_dict(), other.state_dict())


def test_a_saved_state_is_a_copy() -> None:
    algorithm = learner(0)
    run(algorithm, many(1))
    state = algorithm.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    run(algorithm, many(2))
    assert same(state, before)
    other = learner(1)
    other.load_state_dict(state)
    run(other, many(1))
    assert same(state, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("own.steps"), "steps"),
        (lambda s: s.pop("target.layers.0.weight"), r"layers\.0\.weight"),
        (lambda s: s.pop("temperature.log"), "log"),
        (lambda s: s.update({"critics.layers.0.weight": torch.zeros(3)}), "size mismatch"),
        (lambda s: s.pop("critic_optimizer.layers.0.bias.exp_avg"), r"layers\.0\.bias\.exp_avg is missing"),
        (lambda s: s.update({"critic.weight": torch.zeros(3)}), r"nothing here uses: \['critic'\]"),
    ],
    ids=["no count", "no weight", "no temperature", "other size", "no moment", "unknown part"],
)
def test_a_state_that_does_not_fit_is_refused(change, words: str) -> None:
    state = learner(0).state_dict()
    change(state)
    with pytest.raises(StateError, match=words):
        learner(0).load_state_dict(state)


# What it asks for


@pytest.mark.parametrize(
    ("name", "parts"),
    [("sac", [("all", 1.0)]), ("rlpd", [("online", 0.5), ("demonstrations", 0.5)])],
)
def test_each_name_has_its_critics_window_and_sampling(name: str, parts: list[tuple[str, float]]) -> None:
    given = {"sac": SACConfig, "rlpd": RLPDConfig}[name](name=name, gamma=0.7, timeout="failure")
    algorithm = make_algorithm(name, make(), given, seed=0)
    assert isinstance(algorithm, SAC) and algorithm.critics.count == {"sac": 2, "rlpd": 10}[name]
    assert [(part.source, part.share) for part in algorithm.sampling] == parts
    window = algorithm.window
    assert (window.horizon, window.steps, window.gamma, window.bootstraps) == (HORIZON, HORIZON, 0.7, True)
    assert window.timeout == "failure"


def test_a_policy_without_bounds_is_refused() -> None:
    with pytest.raises(AlgorithmError, match=r"kind flow_mlp: .*policy\.kind=squashed_gaussian"):
        make_algorithm("sac", FlowMLP(STATE, 1, 1, hidden=(4,)), config(), seed=0)


def test_making_one_leaves_the_random_state_and_critics_follow_from_the_seed() -> None:
    state, policy = torch.get_rng_state(), make()
    torch.set_rng_state(state)
    one, two, three = (SAC(copy.deepcopy(policy), config(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(one.critics), weights(two.critics)) and not same(weights(one.critics), weights(three.critics))
