"""Every kind of policy: keeps the contract with numbers, images, an instruction and several embodiments alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies import (
    ChunkPolicy,
    FlowMLP,
    FlowTransformer,
    GaussianPolicy,
    SquashedGaussianPolicy,
    Statistics,
    check_policy,
)
from policies.errors import ObservationError, PolicyConfigError, StatisticsError
from policies.language import INSTRUCTION_DIM

NUMBERS = {"observation.state": (4,), "observation.environment_state": (3,)}
IMAGE = {"observation.state": (4,), "observation.images.wrist": (32, 40, 3)}
WORDS = {**NUMBERS, "instruction": (INSTRUCTION_DIM,)}
SEVERAL = {**WORDS, "embodiment": (3,)}
USED = [[0, 1, 2, 3], [0, 1, 3], [0, 3]]
FEATURES = {
    "numbers": (NUMBERS, {}),
    "image": (IMAGE, {}),
    "words": (WORDS, {}),
    "several": (SEVERAL, {"used_dims": USED}),
}
KINDS = {
    "flow_mlp": (FlowMLP, {"hidden": (32,)}),
    "flow_transformer": (FlowTransformer, {"width": 16, "depth": 2, "heads": 2}),
    "flow_noise": (FlowMLP, {"hidden": (32,), "exploration": "noise"}),
    "gaussian": (GaussianPolicy, {"hidden": (32,)}),
    "squashed_gaussian": (SquashedGaussianPolicy, {"hidden": (32,), "bound": 2.0}),
}


def make(kind: str, features: str, **more: object) -> ChunkPolicy:
    torch.manual_seed(0)
    factory, options = KINDS[kind]
    seen, extra = FEATURES[features]
    policy = factory(seen, **{"horizon": 3, "action_dim": 4, **options, **extra, **more})
    # Some networks begin at zero: any trained one is not there any more.
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def observe(policy: ChunkPolicy, batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for key, shape in policy.features.items():
        if key.startswith("observation.images."):
            made[key] = torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)
        elif key == "embodiment":
            made[key] = nn.functional.one_hot(torch.arange(batch) % shape[0], shape[0]).float()
        else:
            made[key] = torch.randn(batch, *shape, generator=generator)
    return made


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract_of_policies(kind: str, features: str) -> None:
    check_policy(make(kind, features))


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_embodiment_lacks_neither_moves_nor_counts(kind: str) -> None:
    policy, rng = make(kind, "several"), np.random.default_rng(0)
    obs, noise = observe(policy), policy.noise(6, rng)
    chunk = policy.act(obs, noise, True)
    real = torch.zeros(3, 4)
    for row, dims in enumerate(USED):
        real[row, dims] = 1
    lacking = (real[torch.arange(6) % 3] == 0)[:, None].expand_as(chunk.actions)
    assert lacking.any() and not chunk.actions[lacking].any() and chunk.actions[~lacking].all()
    # Other padding in the path: the same log-probability, the same loss, no gradient to it.
    path = chunk.path.clone()
    path[lacking[:, None].expand_as(path)] += 3.0
    path.requires_grad_()
    scored = policy.log_prob(obs, path, chunk.stochastic)
    assert (scored - chunk.log_prob).abs().max() <= 1e-4
    (gradient,) = torch.autograd.grad(scored.sum(), path)
    assert not gradient[lacking[:, None].expand_as(path)].any() and gradient.any()
    valid = torch.ones(6, 3, dtype=torch.bool)
    losses = [
        policy.loss(obs, a, valid, torch.Generator().manual_seed(1))
        for a in (chunk.actions, chunk.actions + 5 * lacking)
    ]
    assert torch.equal(*losses)


def test_statistics_are_those_of_the_samples_embodiment() -> None:
    policy = make("flow_mlp", "several")
    stats = policy.statistics()
    assert stats["action"].mean.shape == (3, 4) and stats["observation.state"].std.shape == (3, 4)
    rng = np.random.default_rng(0)
    policy.set_statistics(
        {
            k: Statistics(rng.normal(size=np.shape(s.mean)), rng.uniform(1, 2, np.shape(s.mean)))
            for k, s in stats.items()
        }
    )
    obs = observe(policy)
    chunk = policy.act(obs, policy.noise(6, rng), False)
    action = policy.statistics()["action"]
    for i in range(6):
        row, dims = i % 3, USED[i % 3]
        expected = chunk.path[i, -1].numpy() * action.std[row] + action.mean[row]
        np.testing.assert_allclose(chunk.actions[i].numpy()[:, dims], expected[:, dims], rtol=1e-5)
    with pytest.raises(StatisticsError, match=r"shape \(4,\), expected \(3, 4\)"):
        policy.set_statistics({k: Statistics(s.mean[0], s.std[0]) for k, s in stats.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_decides_what_is_done(kind: str) -> None:
    """Image, instruction and embodiment: each changes the chunk, so each is looked at."""
    for features, keys in (("image", ["observation.images.wrist"]), ("several", ["instruction", "embodiment"])):
        policy = make(kind, features)
        obs, noise = observe(policy), policy.noise(6, np.random.default_rng(0))
        before = policy.act(obs, noise, False).path[:, -1]
        for key in keys:
            after = policy.act({**obs, key: obs[key].roll(1, 0)}, noise, False).path[:, -1]
            assert not torch.allclose(before, after), key


@pytest.mark.parametrize("kind", ["flow_noise", "gaussian", "squashed_gaussian"])
def test_entropy_is_that_of_the_noise_that_is_added(kind: str) -> None:
    policy = make(kind, "several")
    obs = observe(policy)
    chunk = policy.act(obs, policy.noise(6, np.random.default_rng(0)), True)
    # E[-log p] over fresh draws from the same points: only the last step, whose start is given by the path so far.
    entropy = policy.entropy(obs, chunk.path, chunk.stochastic)
    assert entropy.shape == chunk.log_prob.shape and entropy.requires_grad
    rng, draws = np.random.default_rng(1), []
    for _ in range(400):
        noise = policy.noise(6, rng)
        again = policy.act(obs, torch.cat([chunk.path[:, :1], noise[:, 1:]], 1), True)
        draws.append(-again.log_prob[:, 0])  # of the first step, which always starts at the same z_0
    torch.testing.assert_close(torch.stack(draws).mean(0), entropy[:, 0].detach(), rtol=0, atol=0.35)


def test_the_spread_of_flow_noise_stays_in_its_range() -> None:
    policy = make("flow_noise", "numbers", noise_range=(0.1, 0.3))
    with torch.no_grad():
        for parameter in policy.spread_head.parameters():  # type: ignore[union-attr]
            parameter.mul_(100)
    obs = observe(policy, 64)
    noise = policy.noise(64, np.random.default_rng(0))
    still = noise.clone()
    still[:, 2:] = 0
    moved = policy.act(obs, still, True)
    spread = (moved.path[:, 1] - policy.act(obs, noise, False).path[:, 1]) / noise[:, 1]
    assert spread.min() > 0.1 - 1e-3 and spread.max() < 0.3 + 1e-3
    assert spread.max() - spread.min() > 0.05, "it depends on where it is"


def test_flow_noise_explores_like_its_formula_on_the_toy() -> None:
    """Scalar a ~ N(1.5, 0.4^2) with its exact velocity: mean kept, variance that of the ODE walk plus the noise's."""
    from policies.flow import Denoising

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        t = t.view(1, -1, 1, 1).expand(z.shape)
        variance = (1 - t) ** 2 * 0.16 + t**2
        gap = z - (1 - t) * 1.5
        return t / variance * gap - (1.5 + (1 - t) * 0.16 / variance * gap)

    denoising = Denoising(4)
    noise = denoising.noise(200_000, 1, 1, np.random.default_rng(0))
    plain = denoising.sample(velocity, noise, False).path[:, -1]
    noisy = denoising.sample(velocity, noise, True, spread=lambda z, t: torch.full_like(z, 0.1)).path[:, -1]
    assert plain.std() == pytest.approx(0.260, abs=0.002)
    assert noisy.mean() == pytest.approx(1.5, abs=0.003)
    assert plain.std() + 0.003 < noisy.std() < (plain.var() + 4 * 0.01 * 1.5) ** 0.5


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("flow_transformer", {"width": 15}, PolicyConfigError),
        ("flow_noise", {"noise_range": (0.2, 0.1)}, PolicyConfigError),
        ("flow_mlp", {"exploration": "none"}, PolicyConfigError),
        ("gaussian", {"initial_std": 0.0}, PolicyConfigError),
        ("gaussian", {"horizon": 0}, PolicyConfigError),
        ("squashed_gaussian", {"bound": 0.0}, PolicyConfigError),
        ("squashed_gaussian", {"initial_std": 0.005}, PolicyConfigError),
        ("squashed_gaussian", {"initial_std": 8.0}, PolicyConfigError),
        ("squashed_gaussian", {"denoising_steps": 2}, PolicyConfigError),
    ],
)
def test_what_can_not_work_is_refused(kind: str, options: dict, error: type) -> None:
    with pytest.raises(error):
        make(kind, "numbers", **options)


@pytest.mark.parametrize(
    ("features", "used", "error"),
    [
        ({**NUMBERS, "embodiment": (2,)}, None, PolicyConfigError),
        ({**NUMBERS, "embodiment": (2,)}, [[0]], PolicyConfigError),
        (NUMBERS, [[0, 0]], PolicyConfigError),
        (NUMBERS, [[4]], PolicyConfigError),
        ({**NUMBERS, "instruction": (3,)}, None, ObservationError),
        ({"observation.images.wrist": (16, 16, 3)}, None, PolicyConfigError),
    ],
)
def test_features_and_dims_that_do_not_fit_are_refused(features: dict, used: object, error: type) -> None:
    with pytest.raises(error):
        FlowMLP(features, 3, 4, used_dims=used)  # type: ignore[arg-type]


def test_resnet18_reads_images_and_does_not_mix_rows() -> None:
    check_policy(make("gaussian", "image", image_encoder="resnet18"))


def test_a_gaussian_policy_is_nearly_still_at_the_start() -> None:
    policy = GaussianPolicy(NUMBERS, 3, 4)
    assert policy.act(observe(policy), policy.noise(6, np.random.default_rng(0)), False).actions.abs().max() < 0.05
