"""Imitation: windows of demonstrations, and a policy that learns them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import FlowMLP, statistics
from robotlearn.algorithms.errors import EpisodeError, StateError
from robotlearn.algorithms.sft import SFT, Windows, windows
from robotlearn.config.algorithms import SFTConfig


def demonstrations(episodes: int = 6, steps: int = 20) -> Windows:
    """From s, the next actions are s, s + 0.1, s + 0.2, ..."""
    rng = np.random.default_rng(0)
    state = (rng.uniform(-1, 1, (episodes, 1)) + 0.1 * np.arange(steps)).reshape(-1, 1).astype(np.float32)
    return windows({"observation.state": state}, state.copy(), np.arange(1, episodes + 1) * steps, horizon=3)


def student(seed: int = 0) -> FlowMLP:
    torch.manual_seed(seed)
    policy, data = FlowMLP({"observation.state": (1,)}, 3, 1, hidden=(64, 64)), demonstrations()
    policy.set_statistics(statistics(data.observations, data.actions[:, 0]))
    return policy


def test_windows_of_two_episodes() -> None:
    actions = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]], np.float32)
    data = windows({"observation.state": actions * 2}, actions, np.array([3, 5]), horizon=3)
    assert data.actions[..., 0].tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [10, 11, 11], [11, 11, 11]]
    assert data.valid.int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert data.observations["observation.state"][:, 0].tolist() == [0, 2, 4, 20, 22]


def test_images_are_not_copied() -> None:
    images = np.zeros((5, 4, 4, 3), np.uint8)
    data = Windows.joined([windows({"image": images}, np.zeros((5, 1)), np.array([5]), 2)])
    assert np.shares_memory(data.observations["image"].numpy(), images)
    images.flags.writeable = False
    data = windows({"image": images, "mirrored": images[:, :, ::-1]}, np.zeros((5, 1)), np.array([5]), 2)
    assert not np.shares_memory(data.observations["image"].numpy(), images)


@pytest.mark.parametrize("ends", [[], [4], [6], [0, 5], [3, 3, 5], [5, 3]], ids=str)
def test_ends_that_do_not_fit_are_refused(ends: list[int]) -> None:
    with pytest.raises(EpisodeError, match="episode ends"):
        windows({"observation.state": np.zeros((5, 1))}, np.zeros((5, 1)), np.array(ends, np.int64), 2)


def test_observations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EpisodeError, match="6 rows for 5 actions"):
        windows({"observation.state": np.zeros((6, 1))}, np.zeros((5, 1)), np.array([5]), 2)


def test_it_learns_what_was_shown() -> None:
    policy, seen = student(), []
    metrics = SFT(policy, SFTConfig(steps=600, batch_size=128, lr=3e-3), seed=0).fit(
        demonstrations(), lambda step, loss: seen.append((step, loss))
    )
    assert [step for step, _ in seen] == list(range(1, 601))
    assert metrics["loss/sft"] == pytest.approx(np.mean([loss for _, loss in seen[-100:]]))
    state = torch.linspace(-0.5, 1.5, 50)[:, None]
    chunk = policy.act({"observation.state": state}, policy.noise(50, np.random.default_rng(0)), explore=False)
    error = chunk.actions[..., 0] - (state + 0.1 * torch.arange(3))
    assert error.abs().mean() < 0.1


def test_same_seed_same_bits_and_saved_midway_too() -> None:
    config, data = SFTConfig(steps=200, batch_size=64), demonstrations()
    whole, again, other, halved, resumed = student(), student(), student(), student(), student(seed=5)
    SFT(whole, config, seed=1).fit(data)
    SFT(again, config, seed=1).fit(data)
    SFT(other, config, seed=2).fit(data)
    first = SFT(halved, config, seed=1)

    class Interrupted(Exception):
        pass

    def stop(step: int, loss: float) -> None:
        if step == 77:
            raise Interrupted

    with pytest.raises(Interrupted):
        first.fit(data, stop)
    second = SFT(resumed, config, seed=9)
    resumed.load_state_dict(halved.state_dict())
    second.load_state_dict(first.state_dict())
    second.fit(data)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]) and torch.equal(value, resumed.state_dict()[key]), key
    assert not torch.equal(whole.network[0].weight, other.network[0].weight)


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(StateError, match="steps"):
        SFT(student(), SFTConfig(), 0).load_state_dict({"generator": torch.Generator().get_state()})


def test_windows_without_a_valid_step_teach_nothing() -> None:
    data = demonstrations()
    assert not data.valid.all()
    invalid = Windows(data.observations, data.actions, torch.zeros_like(data.valid))
    assert SFT(student(), SFTConfig(), 0).step(invalid)["loss/sft"] == 0
