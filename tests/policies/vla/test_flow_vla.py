"""VLAs as policies: the contract of every policy, LeRobot's own chunks and LeRobot's own loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.base import Plan
from policies.check import check_policy
from policies.errors import PolicyConfigError
from policies.vla.checkpoint import Checkpoint
from policies.vla.flow_vla import FlowVLA
from policies.vla.save import save
from policies.vla.tiny import resized
from tests.policies.vla.conftest import FEATURES, KINDS, observations

Make = Callable[..., Any]
WORDS = ["lift the red cube", "put the green cube away, please", "go"]
every_kind = pytest.mark.parametrize("kind", KINDS)


@torch.no_grad()
def moved(policy: FlowVLA) -> FlowVLA:
    """With other weights: LeRobot's are 0 at first where pi0.5 takes in the time."""
    for parameter in policy.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return policy


@every_kind
@pytest.mark.parametrize("exploration", ["sde", "noise"])
def test_it_keeps_the_contract_of_every_policy(make: Make, kind: str, exploration: str) -> None:
    check_policy(make(kind, exploration=exploration))


@every_kind
@pytest.mark.parametrize("train", ["full", "lora"])
def test_what_is_saved_acts_alike_in_lerobot(
    make: Make, checkpoints: dict[str, Path], tmp_path: Path, kind: str, train: str
) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy = moved(make(kind, train=train))
    save(policy, tmp_path, Checkpoint(str(checkpoints[kind]), kind))
    with resized(kind, tmp_path):
        theirs = get_policy_class(kind).from_pretrained(tmp_path)
    before, after = make_pre_post_processors(
        theirs.config,
        pretrained_path=str(tmp_path),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer": policy.prompts.tokenizer}},
    )
    obs, noise = observations(WORDS), policy.noise(3, np.random.default_rng(0))
    images = obs["observation.images.front"].permute(0, 3, 1, 2).float() / 255
    shown = before({"observation.state": obs["observation.state"], "observation.images.front": images, "task": WORDS})
    chunk = after(theirs.predict_action_chunk(shown, noise=noise[:, 0]))
    ours = policy.act(obs, noise, False).actions
    torch.testing.assert_close(ours, chunk, rtol=0, atol=1e-5)
    # And a checkpoint of it is what it was, statistics included.
    again = make(kind, pretrained=str(tmp_path), statistics="checkpoint")
    torch.testing.assert_close(again.act(obs, noise, False).actions, ours, rtol=0, atol=1e-5)


@every_kind
def test_making_it_says_nothing(
    make: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    make(kind)
    assert capsys.readouterr().out == "", "a program reads what `eval --json` prints"
    assert not caplog.records


@every_kind
def test_a_critic_sees_images_words_and_the_state(make: Make, kind: str) -> None:
    policy: FlowVLA = make(kind)
    before = observations(WORDS)
    other = {
        "observation.state": before["observation.state"] + 1,
        "observation.images.front": 255 - before["observation.images.front"],
        "instruction": before["instruction"][[1, 2, 0]],
    }
    seen = policy.for_critic(before)
    assert {key: tuple(value.shape[1:]) for key, value in seen.items()} == policy.critic_features
    assert policy.critic_features.keys() <= policy.statistics().keys()
    for key, value in other.items():
        after = policy.for_critic({**before, key: value})
        assert any(not torch.allclose(after[name], seen[name], atol=1e-3) for name in seen), key


@every_kind
def test_its_loss_has_lerobots_gradient(make: Make, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    policy: FlowVLA = make(kind)
    obs, actions = observations(WORDS), torch.randn(3, 8, 6)
    ours = policy.loss(obs, actions, torch.ones(3, 8, dtype=torch.bool), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 8, 8, generator=generator)
    time = 0.001 + 0.999 * torch.rand(3, generator=generator) ** (1 / 1.5)
    _, _, tokens, words, _ = policy._inputs(obs)
    batch = {
        "observation.images.front": obs["observation.images.front"].permute(0, 3, 1, 2).float() / 255,
        "observation.state": policy.state(obs["observation.state"]),
        "observation.language.tokens": tokens,
        "observation.language.attention_mask": words,
        "action": policy.action(actions),
    }
    monkeypatch.setattr(policy.lerobot.model, "sample_noise", lambda shape, device: noise)
    monkeypatch.setattr(policy.lerobot.model, "sample_time", lambda count, device: time)
    theirs, _ = policy.lerobot.forward(batch)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    torch.testing.assert_close(ours, theirs)
    for one, two in zip(
        *(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs)), strict=True
    ):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two)


@every_kind
def test_one_time_for_each_action_is_lerobots_where_they_are_equal(make: Make, kind: str) -> None:
    policy, plain = moved(make(kind, max_delay=3)), moved(make(kind))
    obs, noise = observations(WORDS), policy.noise(3, np.random.default_rng(0))
    velocity, theirs = (each._velocity(each._look(obs)) for each in (policy, plain))
    points = noise[:, :2]
    times = torch.tensor([[1.0, 0.3], [0.7, 0.2], [0.5, 0.9]])
    expected = theirs(points, times)
    torch.testing.assert_close(velocity(points, times), expected)
    each = times[..., None].repeat(1, 1, 8)
    torch.testing.assert_close(velocity(points, each), expected)
    each[..., 5] = 0.1
    assert (velocity(points, each) - expected)[:, :, 5].abs().amax((1, 2)).gt(1e-4).all()


@every_kind
def test_with_delay_a_chunk_goes_on_from_what_is_executed(make: Make, kind: str) -> None:
    policy = moved(make(kind, max_delay=3))
    obs, noise = observations(WORDS), policy.noise(3, np.random.default_rng(0))
    plan = Plan(torch.randn(3, 8, 6), torch.tensor([8, 8, 1]), torch.tensor([0, 2, 3]))
    chunk = policy.act_prefixed(obs, noise, plan)
    free = policy.act(obs, noise, False)
    assert not chunk.stochastic.any()
    torch.testing.assert_close(chunk.actions[0], free.actions[0])
    for row, kept in ((1, 2), (2, 1)):  # of a plan of one action no more than that is known
        torch.testing.assert_close(chunk.actions[row, :kept], plan.actions[row, :kept])
        assert not torch.allclose(chunk.actions[row, kept], plan.actions[row, kept])
        assert (chunk.actions - free.actions)[row, kept:].abs().max() > 1e-4, "the rest doesn't follow from it"
    with pytest.raises(PolicyConfigError, match=f"a {kind} with max_delay 0 was never shown"):
        make(kind).act_prefixed(obs, noise, plan)


@every_kind
def test_imitation_with_a_delay_of_nothing_is_that_without(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    obs, actions, valid = observations(WORDS), torch.randn(3, 8, 6), torch.ones(3, 8, dtype=torch.bool)
    found = []
    for delay in (0, 3):
        policy = moved(make(kind, max_delay=delay))
        monkeypatch.setattr(torch, "randint", lambda high, size, **options: torch.zeros(size, dtype=torch.int64))
        loss = policy.loss(obs, actions, valid, torch.Generator().manual_seed(0))
        parameters = [p for p in policy.parameters() if p.requires_grad]
        found.append((loss, torch.autograd.grad(loss, parameters, allow_unused=True)))
    (plain, of_plain), (delayed, of_delayed) = found
    torch.testing.assert_close(delayed, plain)
    for one, two in zip(of_delayed, of_plain, strict=True):
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
        else:  # what the last layer of the language model gives reaches no expert
            assert (one is None or not one.any()) and (two is None or not two.any())


@every_kind
def test_imitation_shows_the_first_actions_and_learns_the_others(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    policy: FlowVLA = make(kind, max_delay=3)
    asked: list[tuple[Tensor, Tensor]] = []
    velocity = policy._field.velocity
    monkeypatch.setattr(
        policy._field, "velocity", lambda prefix, x, t: asked.append((x, t)) or velocity(prefix, x, t)
    )
    obs = observations([WORDS[0]] * 32)
    actions, valid = torch.randn(32, 8, 6), torch.zeros(32, 8, dtype=torch.bool)

    def loss() -> float:
        return float(policy.loss(obs, actions, valid, torch.Generator().manual_seed(0)))

    loss()
    ((x, t),) = asked
    shown = t == 0
    delay = shown.sum(1)
    assert set(delay.tolist()) == {0, 1, 2, 3} and all(row[:d].all() for row, d in zip(shown, delay, strict=True))
    assert ((t == t[:, -1:]) | shown).all() and (t[:, -1] > 0).all()
    target = policy._wide(actions)
    assert torch.equal(x[shown], target[shown]) and not (x == target)[~shown].any(-1).any()
    valid[shown] = True
    assert loss() == 0
    valid[:, 3] = True
    assert loss() > 0


@every_kind
def test_layers_computed_anew_give_the_same_gradient_with_less_memory(make: Make, kind: str) -> None:
    found = []
    for anew in (False, True):
        policy: FlowVLA = make(kind, gradient_checkpointing=anew)
        obs, noise = observations(WORDS), policy.noise(3, np.random.default_rng(0))
        chunk, kept = policy.act(obs, noise, True), 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = policy.log_prob(obs, chunk.path, chunk.stochastic).sum()
        parameters = [p for p in policy.parameters() if p.requires_grad]
        found.append((kept, total, torch.autograd.grad(total, parameters, allow_unused=True)))
    (plain, one, of_one), (anew_kept, two, of_two) = found
    assert torch.equal(one, two) and anew_kept < 0.9 * plain
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(of_one, of_two, strict=True))


@every_kind
def test_bfloat16_is_near_float32(make: Make, kind: str) -> None:
    obs = observations(WORDS)
    exact, rough = make(kind), make(kind, precision="bfloat16")
    noise = exact.noise(3, np.random.default_rng(0))
    chunk = rough.act(obs, noise, True)
    assert chunk.actions.dtype == torch.float32
    error = (chunk.actions - exact.act(obs, noise, True).actions).abs().max()
    assert 0 < error < 0.3
    rough.log_prob(obs, chunk.path, chunk.stochastic).sum().backward()


@every_kind
def test_words_decide(make: Make, kind: str) -> None:
    policy: FlowVLA = make(kind)
    one, two = observations(["red"]), observations(["blue"])
    noise = policy.noise(1, np.random.default_rng(0))
    assert not torch.equal(policy.act(one, noise, False).actions, policy.act(two, noise, False).actions)


@every_kind
@pytest.mark.parametrize(("train", "frozen"), [("expert", True), ("lora", True), ("full", False)])
def test_what_is_learnt(make: Make, kind: str, train: str, frozen: bool) -> None:
    policy: FlowVLA = make(kind, train=train)
    vlm = {"smolvla": "vlm_with_expert.vlm"}.get(kind, "paligemma_with_expert.paligemma")
    learnt = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert learnt and any(vlm in name and "lora" not in name for name in learnt) != frozen
    assert train != "lora" or all("lora" in name for name in learnt)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"features": FEATURES | {"observation.environment_state": (3,)}},
            "environment_state and tracking_error to false",
        ),
        ({"features": {key: shape for key, shape in FEATURES.items() if key != "instruction"}}, "instruction to true"),
        (
            {"features": {key: shape for key, shape in FEATURES.items() if "images" not in key}},
            "which the robot has not",
        ),
        ({"features": FEATURES | {"observation.state": (9,)}}, "has 9 entries, this checkpoint takes 8"),
        ({"action_dim": 9}, "have 9 entries, this checkpoint gives 8"),
        ({"max_delay": 8}, "max_delay is 8: expected 0 to 7"),
        ({"width": 32}, "policy.width is 32, but actions of .* have 8 entries"),
        (
            {"train": "lora", "lora": {"rank": 4, "alpha": 8.0, "targets": "nothing"}},
            "no linear layer is called like 'nothing'",
        ),
        ({"statistics": "checkpoint"}, "names none of observation.state; use statistics=data"),
    ],
)
def test_what_does_not_fit_is_said(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyConfigError, match=said):
        make("smolvla", **options)
