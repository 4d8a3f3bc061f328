"""The ensemble of critics against networks of torch's own, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies import Critics, Statistics
from policies.errors import PolicyConfigError, StatisticsError

STATE = {"observation.state": (3,)}
IMAGE = {**STATE, "observation.images.wrist": (32, 32, 3)}


def make(features=STATE, count: int = 4, hidden: Sequence[int] = (16, 8), **options: object) -> Critics:
    torch.manual_seed(0)
    critics = Critics(features, 2, 3, count, hidden, **options)
    with torch.no_grad():
        for parameter in critics.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return critics


def inputs(batch: int = 5, features=STATE) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    obs = {"observation.state": torch.randn(batch, 3, generator=generator)}
    if features is IMAGE:
        obs["observation.images.wrist"] = torch.randint(
            0, 256, (batch, 32, 32, 3), generator=generator, dtype=torch.uint8
        )
    return obs, torch.randn(batch, 2, 3, generator=generator)


def alone(critics: Critics, index: int) -> nn.Sequential:
    """One of them, built of torch's layers."""
    parts: list[nn.Module] = []
    for number, layer in enumerate(critics.layers):
        _, ins, outs = layer.weight.shape
        linear = nn.Linear(ins, outs)
        linear.weight.data = layer.weight[index].T.clone()
        linear.bias.data = layer.bias[index, 0].clone()
        parts.append(linear)
        if number < len(critics.layers) - 1:
            if layer.norm:
                parts.append(nn.LayerNorm(outs))
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("hidden", [(16,), (16, 8), (8, 8, 1)], ids=str)
@pytest.mark.parametrize("which", [None, [2], [3, 0]], ids=str)
def test_an_ensemble_is_so_many_networks(layer_norm: bool, hidden: tuple[int, ...], which: list[int] | None) -> None:
    critics, (obs, chunk) = make(hidden=hidden, layer_norm=layer_norm), inputs()
    assert [layer.norm for layer in critics.layers] == [layer_norm] * len(hidden) + [False]
    q = critics(critics.encode(obs), chunk, None if which is None else torch.tensor(which))
    seen = torch.cat([critics.encode(obs), chunk.flatten(1)], 1)
    expected = torch.stack([alone(critics, e)(seen)[:, 0] for e in which or range(4)])
    assert q.shape == (len(expected), 5)
    torch.testing.assert_close(q, expected, rtol=1e-5, atol=1e-5)


def test_each_learns_by_itself_and_they_begin_unlike() -> None:
    critics, (obs, chunk) = Critics(STATE, 2, 3, 4, (16, 8)), inputs()
    for parameter in critics.layers.parameters():
        assert len({one.sum().item() for one in parameter}) == 4
    q = critics(critics.encode(obs), chunk)
    assert len({round(value, 6) for value in q[:, 0].tolist()}) == 4
    for gradient in torch.autograd.grad(q[1].sum(), list(critics.layers.parameters())):
        assert gradient[1].any() and not gradient[[0, 2, 3]].any()


@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradients_agree_with_finite_differences(layer_norm: bool) -> None:
    critics, (obs, chunk) = make(layer_norm=layer_norm).double(), inputs()
    obs, chunk = {key: value.double() for key, value in obs.items()}, chunk.double().requires_grad_()

    def value() -> Tensor:
        return critics(critics.encode(obs), chunk).square().sum()

    for tensor in (chunk, *critics.parameters()):
        (gradient,) = torch.autograd.grad(value(), tensor)
        flat = tensor.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 8)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                ends.append(value().item())
                flat[i] -= sign * 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient.flatten()[i].item(), rel=1e-5, abs=1e-6)


def test_images_go_through_one_encoder_that_all_share() -> None:
    critics, (obs, chunk) = make(IMAGE), inputs(features=IMAGE)
    q = critics(critics.encode(obs), chunk)
    other = critics(critics.encode({**obs, "observation.images.wrist": 255 - obs["observation.images.wrist"]}), chunk)
    assert not torch.isclose(q, other).any()
    (gradient, *_) = torch.autograd.grad(q[2].sum(), list(critics.observation.images.parameters()))
    assert gradient.any() and len(critics.observation.images) == 1


def test_statistics_are_its_own() -> None:
    critics, (obs, chunk) = make(), inputs()
    before = critics(critics.encode(obs), chunk)
    critics.set_statistics({"observation.state": Statistics(np.full(3, 2.0), np.full(3, 0.5))})
    moved = {"observation.state": obs["observation.state"] * 0.5 + 2.0}
    torch.testing.assert_close(critics(critics.encode(moved), chunk), before, rtol=1e-4, atol=1e-5)
    assert {"observation.normalizer.mean", "observation.normalizer.std"} <= critics.state_dict().keys()
    with pytest.raises(StatisticsError, match=r"observation\.state"):
        critics.set_statistics({})


@pytest.mark.parametrize("options", [{"count": 0}, {"hidden": ()}, {"hidden": (4, 0)}], ids=str)
def test_sizes_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(PolicyConfigError):
        make(**options)


def test_images_alone_have_no_statistics() -> None:
    critics = Critics({"observation.images.front": (32, 32, 3)}, horizon=1, action_dim=2)
    assert critics.observation.statistics() == {}
    critics.set_statistics({})
    seen = critics.encode({"observation.images.front": torch.zeros(3, 32, 32, 3, dtype=torch.uint8)})
    assert critics(seen, torch.zeros(3, 1, 2)).shape == (2, 3)
