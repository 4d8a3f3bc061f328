"""FlowMLP: acts, scores and imitates as its contract says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import FlowMLP, Statistics, ValueNet, check_policy, statistics
from policies.errors import ObservationError, PolicyConfigError, StatisticsError

FEATURES = {"observation.state": (8,), "observation.environment_state": (5,)}


def make(**options: object) -> FlowMLP:
    torch.manual_seed(0)
    policy = FlowMLP(FEATURES, **{"horizon": 4, "action_dim": 3, "hidden": (32, 32), **options})
    rng = np.random.default_rng(0)
    shapes = {**policy.features, "action": (3,)}
    policy.set_statistics({k: Statistics(rng.normal(size=s), rng.uniform(0.5, 2, s)) for k, s in shapes.items()})
    return policy


def observe(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(batch, *shape, generator=generator) for key, shape in FEATURES.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"denoising_steps": 1},
        {"denoising_steps": 4, "stochastic_steps": "one"},
        {"denoising_steps": 4, "deterministic_last": True},
        {"activation": "silu", "hidden": ()},
        {"horizon": 1, "activation": "tanh"},
    ],
    ids=str,
)
def test_it_keeps_the_contract_of_policies(options: dict) -> None:
    check_policy(make(**options))


@pytest.mark.parametrize("explore", [False, True], ids=["ode", "explore"])
def test_with_zero_parameters_chunks_are_the_unnormalised_seeded_noise(explore: bool) -> None:
    policy = make()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    noise = policy.noise(7, np.random.default_rng(3))
    chunk = policy.act(observe(7), noise, explore)
    z0 = np.random.default_rng(3).standard_normal((7, 3, 4, 3), dtype=np.float32)[:, 0]
    stats = policy.statistics()["action"]
    same = np.array_equal(chunk.actions.numpy(), z0 * stats.std.astype(np.float32) + stats.mean.astype(np.float32))
    assert same == (not explore)


@pytest.mark.parametrize("batch", [1, 3, 64, 300], ids=lambda n: f"batches of {n}")
def test_log_prob_equals_the_recorded_in_any_batch_size(batch: int) -> None:
    policy, obs = make(hidden=(256, 256, 256)), observe(300)
    chunk = policy.act(obs, policy.noise(300, np.random.default_rng(0)), explore=True)
    with torch.no_grad():
        again = torch.cat(
            [
                policy.log_prob({k: v[i : i + batch] for k, v in obs.items()}, path, stochastic)
                for i, path, stochastic in zip(
                    range(0, 300, batch), chunk.path.split(batch), chunk.stochastic.split(batch), strict=True
                )
            ]
        )
    assert (again - chunk.log_prob).abs().max() <= 1e-4
    ratio = (again - chunk.log_prob).double()
    assert (ratio.exp() - 1 - ratio).mean() < 1e-8


def test_log_prob_gradient_agrees_with_finite_differences() -> None:
    policy = make(hidden=(6,), activation="tanh").double()
    obs = {key: value.double() for key, value in observe(3).items()}
    chunk = policy.act(obs, policy.noise(3, np.random.default_rng(0)).double(), explore=True)
    advantage = torch.randn(3, 1, 1, dtype=torch.float64)

    def value() -> Tensor:
        return (policy.log_prob(obs, chunk.path, chunk.stochastic) * advantage).sum()

    for parameter in policy.parameters():
        (gradient,) = torch.autograd.grad(value(), parameter)
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 5)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                ends.append(value().item())
                flat[i] -= sign * 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.view(-1)[i].item(), rel=1e-5, abs=1e-5)


def test_seeded_noise_of_each_arm_gives_the_chunk_it_gives_alone() -> None:
    policy, obs = make(), observe(3)
    noise = [policy.noise(1, np.random.default_rng(seed)) for seed in range(3)]
    together = policy.act(obs, torch.cat(noise), explore=True)
    for i in range(3):
        alone = policy.act({k: v[i : i + 1] for k, v in obs.items()}, noise[i], explore=True)
        torch.testing.assert_close(together.actions[i : i + 1], alone.actions, rtol=1e-5, atol=1e-5)


def test_imitation_recovers_the_distribution_of_the_toy() -> None:
    torch.manual_seed(0)
    policy = FlowMLP({"observation.state": (1,)}, 1, 1, hidden=(64, 64), denoising_steps=10, noise_level=0.5)
    actions = 1.5 + 0.4 * torch.randn(4096, 1, 1)
    policy.set_statistics(statistics({"observation.state": np.zeros((4096, 1))}, actions[:, 0].numpy()))
    optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        rows = torch.randint(4096, (512,), generator=generator)
        loss = policy.loss(
            {"observation.state": torch.zeros(512, 1)}, actions[rows], torch.ones(512, 1).bool(), generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    obs = {"observation.state": torch.zeros(50_000, 1)}
    noise = policy.noise(50_000, np.random.default_rng(0))
    for explore in (False, True):
        drawn = policy.act(obs, noise, explore).actions
        assert drawn.mean().item() == pytest.approx(1.5, abs=0.03)
        # In normalised units the data are N(0, 1), for which the ODE of 10 steps ends at 0.92 and the SDE at 0.94.
        expected = _spread_of_a_unit_normal(10, explore)
        assert drawn.std().item() == pytest.approx(0.4 * expected, abs=0.02)


def _spread_of_a_unit_normal(steps: int, explore: bool) -> float:
    from policies.flow import Denoising

    denoising, variance = Denoising(steps), 1.0
    for k in range(steps):
        t = denoising.grid[k]
        slope = (2 * t - 1) / ((1 - t) ** 2 + t**2)  # v = slope z
        mean, std = denoising.transition(k, torch.tensor(1.0), torch.tensor(slope), explore)
        variance = mean.item() ** 2 * variance + std**2
    return float(variance**0.5)


def test_loss_prefers_times_near_noise() -> None:
    """t ~ Beta(1.5, 1): its mean is 0.6. Seen through a network that is 0, so that the times are all it is given."""
    policy, seen = make(), []
    policy.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    policy.loss(observe(4000), torch.zeros(4000, 4, 3), torch.ones(4000, 4).bool(), torch.Generator().manual_seed(0))
    # The slowest pair of the time embedding, sin and cos of (pi/2) t, gives t back.
    embedding = seen[0][..., -16:].reshape(4000, 16)
    t = torch.atan2(embedding[:, 0], embedding[:, 8]) / (np.pi / 2)
    assert t.mean().item() == pytest.approx(0.6, abs=0.015)
    assert (t < 0.25).float().mean().item() == pytest.approx(0.25**1.5, abs=0.015)


def test_loss_counts_valid_steps_only_and_each_alike() -> None:
    policy, obs, actions = make(), observe(6), torch.randn(6, 4, 3)
    valid = torch.zeros(6, 4, dtype=torch.bool)
    valid[:4] = True

    def loss(valid: Tensor) -> Tensor:
        return policy.loss(obs, actions, valid, torch.Generator().manual_seed(0))

    whole, half, rest = loss(torch.ones_like(valid)), loss(valid), loss(~valid)
    assert whole.item() == pytest.approx((4 * half.item() + 2 * rest.item()) / 6, rel=1e-5)
    assert loss(torch.zeros_like(valid)).item() == 0


def test_a_dimension_that_never_moved_does_not_explode() -> None:
    stats = statistics({key: np.ones((10, *shape)) for key, shape in FEATURES.items()}, np.full((10, 3), 0.04))
    policy = FlowMLP(FEATURES, 4, 3, hidden=(32,))
    policy.set_statistics(stats)
    encoded = policy.observation({key: torch.full((1, *shape), 5.0) for key, shape in FEATURES.items()})
    assert encoded[0].abs().max() == 10
    actions = policy.act(observe(5), policy.noise(5, np.random.default_rng(0)), explore=True).actions
    assert (actions - 0.04).abs().max() < 0.02


def test_statistics_travel_with_the_weights_and_come_back_as_set() -> None:
    policy, other = make(), FlowMLP(FEATURES, 4, 3, hidden=(32, 32))
    other.load_state_dict(policy.state_dict())
    for key, stats in policy.statistics().items():
        assert np.array_equal(other.statistics()[key].mean, stats.mean)
        assert np.array_equal(other.statistics()[key].std, stats.std)
    critic = ValueNet(FEATURES, (16,))
    critic.set_statistics(policy.statistics())
    assert torch.equal(critic.observation(observe(3))[0], policy.observation(observe(3))[0])


def test_value_net_starts_at_zero_and_can_learn() -> None:
    critic = ValueNet(FEATURES, (16,))
    assert critic(observe(5)).tolist() == [0.0] * 5
    critic(observe(5)).sum().backward()
    assert critic.network[-1].weight.grad.any()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s: s.pop("action"), StatisticsError, "'action'"),
        (lambda s: s.pop("observation.state"), StatisticsError, "'observation.state'"),
        (lambda s: s.update({"action": Statistics(np.zeros(4), np.ones(4))}), StatisticsError, r"\(4,\)"),
        (lambda s: s.update({"action": Statistics(np.zeros(3), -np.ones(3))}), StatisticsError, "negative"),
        (lambda s: s.update({"action": Statistics(np.full(3, np.nan), np.ones(3))}), StatisticsError, "not finite"),
        (lambda s: s.update({"observation.state": Statistics(np.zeros(3), np.ones(3))}), StatisticsError, r"\(8,\)"),
    ],
    ids=["no action", "no feature", "action size", "negative", "nan", "feature size"],
)
def test_statistics_that_do_not_fit_are_refused(change: object, error: type, words: str) -> None:
    policy = make()
    stats = policy.statistics()
    change(stats)  # type: ignore[operator]
    with pytest.raises(error, match=words):
        policy.set_statistics(stats)


def test_observations_that_do_not_fit_are_refused() -> None:
    policy, obs = make(), observe(2)
    noise = policy.noise(2, np.random.default_rng(0))
    with pytest.raises(ObservationError, match=r"lacks 'observation\.state'"):
        policy.act({"observation.environment_state": obs["observation.environment_state"]}, noise, True)
    with pytest.raises(ObservationError, match=r"\(2, 7\), expected \(batch, 8\)"):
        policy.act(obs | {"observation.state": torch.zeros(2, 7)}, noise, True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"horizon": 0}, PolicyConfigError),
        ({"action_dim": 0}, PolicyConfigError),
        ({"hidden": (32, 0)}, PolicyConfigError),
        ({"activation": "swish"}, PolicyConfigError),
        ({"features": {}}, ObservationError),
        ({"features": {"observation.images.wrist": (84, 84)}}, PolicyConfigError),
        ({"features": {"observation.state": (84, 84, 3)}}, ObservationError),
    ],
    ids=["horizon", "action dim", "hidden", "activation", "blind", "image", "no vector"],
)
def test_sizes_that_cannot_work_are_refused(options: dict, error: type) -> None:
    with pytest.raises(error):
        FlowMLP(**{"features": FEATURES, "horizon": 4, "action_dim": 3, **options})
