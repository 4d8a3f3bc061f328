"""What serving adds to a VLA: pictures scaled beforehand, dark cameras, what is remembered, what is compiled."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.resize import fit, shrunk, within
from policies.base import Plan
from policies.errors import PolicyConfigError
from policies.vla.flow_vla import FlowVLA
from policies.vla.load import Checkpoint
from policies.vla.remembered import KnownImages, KnownWords
from policies.vla.save import save
from policies.vla.tiny import resized, write_tiny
from robotlearn.config import ExecutionConfig
from tests.policies.vla.conftest import FEATURES, KINDS, observations

Make = Callable[..., Any]
FRONT = "observation.images.front"
every_kind = pytest.mark.parametrize("kind", KINDS)


def lerobots(
    policy: FlowVLA, folder: Path, source: Path, obs: dict[str, Tensor], words: list[str], z: Tensor
) -> Tensor:
    """The chunk by LeRobot's own policy and pipeline."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    save(policy, folder, Checkpoint(str(source), policy.kind))
    with resized(policy.kind, folder):
        theirs = get_policy_class(policy.kind).from_pretrained(folder)
    before, after = make_pre_post_processors(
        theirs.config,
        pretrained_path=str(folder),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer": policy.prompts.tokenizer}},
    )
    images = {key: value.permute(0, 3, 1, 2).float() / 255 for key, value in obs.items() if "images" in key}
    shown = before({**images, "observation.state": obs["observation.state"], "task": words})
    chunk: Tensor = after(theirs.predict_action_chunk(shown, noise=z))
    return chunk


@every_kind
def test_from_a_picture_scaled_on_the_edge_comes_the_chunk_of_the_whole_one(
    make: Make, checkpoints: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    words = ["lift the red cube", "go"]
    whole = np.random.default_rng(0).integers(0, 256, (2, 480, 640, 3), np.uint8)
    size = within((480, 640), (64, 64))
    small = {FRONT: torch.from_numpy(np.stack([shrunk(one, size) for one in whole]))}
    policy: FlowVLA = make(kind, features=FEATURES | {FRONT: (*size, 3)})
    obs, noise = observations(words), policy.noise(2, np.random.default_rng(0))
    full = obs | {FRONT: torch.from_numpy(whole)}
    theirs = lerobots(policy, tmp_path, checkpoints[kind], full, words, noise[:, 0])
    smooth = {FRONT: torch.from_numpy(np.stack([fit(one, size) for one in whole]))}
    error, others = (
        float(((policy.act(obs | one, noise, False).actions - theirs) / policy.action.std).abs().mean())
        for one in (small, smooth)
    )
    # In standard deviations of actions. A pixel is off by half of 1/255 at most; a smoother filter takes the noise out.
    assert error < 2e-3 and others > 4 * error


@every_kind
def test_a_dark_camera_costs_nothing_and_changes_nothing(make: Make, tmp_path: Path, kind: str) -> None:
    source = write_tiny(kind, tmp_path / "two", cameras=("front", "wrist"))
    policy: FlowVLA = make(kind, pretrained=str(source), cameras={"wrist": None})
    obs, noise = observations(["lift", "go on"]), policy.noise(2, np.random.default_rng(0))
    theirs = lerobots(policy, tmp_path / "saved", source, obs, ["lift", "go on"], noise[:, 0])
    torch.testing.assert_close(policy.act(obs, noise, False).actions, theirs, rtol=0, atol=1e-5)
    assert len(policy._inputs(obs)[0]) == 1


@every_kind
def test_what_is_remembered_is_forgotten_with_the_weights(make: Make, kind: str) -> None:
    policy, plain = make(kind), make(kind)
    policy.serve(compiled=False, images_again=True)
    images = policy._field._both.embed_image
    one, other = observations(["go", "stop", "go"]), observations(["go", "stop", "go"], seed=1)
    again = other | {FRONT: torch.cat((one[FRONT][:2], other[FRONT][2:]))}
    noise = policy.noise(3, np.random.default_rng(0))
    for obs, computed in ((one, 3), (again, 4), (one, 4)):
        ours = policy.act(obs, noise, False).actions
        torch.testing.assert_close(ours, plain.act(obs, noise, False).actions, rtol=0, atol=1e-5)
        assert images.computed == computed
    with torch.no_grad():
        for parameter in (*policy.parameters(), *plain.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    stale, fresh = policy.act(one, noise, False).actions, plain.act(one, noise, False).actions
    assert (stale - fresh).abs().max() > 1e-3, "the test shows nothing: nothing was remembered"
    policy.renewed()
    torch.testing.assert_close(policy.act(one, noise, False).actions, fresh, rtol=0, atol=1e-5)


def test_words_are_embedded_once_for_the_same_words(make: Make) -> None:
    policy = make("smolvla")
    asked = []
    both = policy._field._both
    embed = both.embed_language_tokens
    both.embed_language_tokens = lambda tokens: asked.append(len(tokens)) or embed(tokens)
    policy.serve(compiled=False, images_again=False)
    for words in (["go", "stop"], ["go", "stop"], ["go"], ["go", "stop"]):
        policy.act(observations(words), policy.noise(len(words), np.random.default_rng(0)), False)
    assert asked == [2, 1]


def test_memory_is_bounded() -> None:
    images = KnownImages(lambda given: given.flatten(1))
    for start in range(0, 600, 50):
        given = torch.arange(start, start + 50)[:, None, None, None].expand(-1, 3, 2, 2).float()
        assert torch.equal(images(given), given.flatten(1))
    assert images.computed == 600 and len(images._known) == 256
    shown = [torch.full((1, 3, 2, 2), float(value)) for value in (345, 0, 346, 345)]
    for image in shown:  # 345 is shown again in time: 346 goes before it
        images(image)
    assert images.computed == 601
    images(torch.full((1, 3, 2, 2), -1.0))
    images(shown[0])
    assert images.computed == 602
    images(torch.full((1, 3, 2, 2), 347.0))
    assert images.computed == 603
    words = KnownWords(lambda given: given * 2)
    for value in range(200):  # the tensors go: an id comes again for another one
        assert words(torch.tensor([value])).item() == 2 * value
    assert len(words._known) <= 64


def test_other_policies_say_that_they_are_not_compiled() -> None:
    from policies.registry import make_policy

    policy = make_policy("flow_mlp", features={"observation.state": (6,)}, horizon=4, action_dim=6)
    policy.serve(compiled=False, images_again=True)
    policy.renewed()
    with pytest.raises(PolicyConfigError, match="set compile to never"):
        policy.serve(compiled=True, images_again=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "backend", "way"), [("smolvla", "inductor", "rtc"), ("pi0", "aot_eager", "prefix")]
)
def test_compiled_it_acts_alike_and_is_compiled_for_one_and_for_several(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
    backend: str,
    way: Literal["rtc", "prefix"],
) -> None:
    """Takes minutes. The compiler that edges use, and one that finds the same graphs but makes no C++ of them."""
    from torch._dynamo.utils import counters

    from robotlearn.warm_up import warm_up

    monkeypatch.setattr("policies.vla.fields._compile", partial(torch.compile, dynamic=True, backend=backend))
    request.addfinalizer(lambda: torch.compiler.set_stance("default"))
    torch.compiler.reset()
    policy, plain = make(kind, max_delay=3), make(kind, max_delay=3)
    policy.serve(compiled=True, images_again=False)
    counters.clear()
    warm_up(policy, ExecutionConfig(way=way, ahead=2))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    alike: list[tuple[Tensor, Tensor]] = []
    for batch in (1, 3, 5, 8, 2):
        obs = observations(["go", "lift the green cube, and then put it down again"][batch % 2 :] * batch, batch)
        obs = {key: value[:batch] for key, value in obs.items()}
        noise = policy.noise(batch, np.random.default_rng(batch))
        plan = Plan(torch.randn(batch, 8, 6), torch.full((batch,), 5), torch.full((batch,), 2))
        for each in (policy, plain):
            free = each.act(obs, noise, False)
            if way == "rtc":
                planned, without = each.act_guided(obs, noise, plan, 2.0)
                torch.testing.assert_close(without.actions, free.actions, rtol=0, atol=1e-4)
            else:
                planned = each.act_prefixed(obs, noise, plan)
            alike.append((free.actions, planned.actions))
        ours, theirs = alike[-2:]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        assert not torch.equal(*theirs), "the plan guides nothing"
    assert counters["stats"]["unique_graphs"] == graphs, "something was compiled while robots would have waited"
    with torch.no_grad():
        for parameter in (*policy.parameters(), *plain.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy.renewed()
    ours = policy.act(obs, noise, False).actions
    torch.testing.assert_close(ours, plain.act(obs, noise, False).actions, rtol=0, atol=1e-4)
