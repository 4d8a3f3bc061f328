"""ACT and diffusion policies: the contract of every policy, LeRobot's own chunks, loss and normalisation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from policies.check import check_policy
from policies.errors import ImitationOnlyError, PolicyConfigError
from policies.imitators.diffusion import generators
from policies.imitators.save import save
from policies.normalizer import Statistics
from policies.registry import make_policy

FEATURES = {
    "observation.state": (6,), "observation.environment_state": (3,),
    "observation.images.front": (64, 32, 3), "observation.images.wrist": (64, 32, 3),  # the backbone leaves 2 x 1
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "act": {"dim_model": 32, "n_heads": 4, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1},
    "diffusion": {"down_dims": (16, 32), "kernel_size": 3, "n_groups": 4, "num_inference_steps": 4},
}
KINDS = [
    pytest.param("act", {}, id="act"),
    pytest.param("act", {"use_vae": False}, id="act-without-vae"),
    pytest.param("diffusion", {"noise_scheduler_type": "DDIM"}, id="ddim"),
    pytest.param("diffusion", {"noise_scheduler_type": "DDPM", "prediction_type": "sample"}, id="ddpm"),
]
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS)


def make(kind: str, features: dict[str, tuple[int, ...]] = FEATURES, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = options if "pretrained" in options else SMALL[kind] | options
        policy = make_policy(kind, features=features, **({"horizon": 8, "action_dim": 6} | options))
    if options.get("statistics") != "checkpoint":
        rng = np.random.default_rng(0)
        policy.set_statistics(
            {key: Statistics(rng.normal(size=n), rng.uniform(0.5, 2, n)) for key, n in _widths(features).items()}
        )
    return policy


def _widths(features: dict[str, tuple[int, ...]]) -> dict[str, int]:
    return {key: shape[0] for key, shape in features.items() if len(shape) == 1} | {"action": 6}


def observations(count: int = 3, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        key: torch.from_numpy(
            rng.normal(size=(count, *shape)).astype(np.float32)
            if len(shape) == 1
            else rng.integers(0, 256, (count, *shape), np.uint8)
        )
        for key, shape in FEATURES.items()
    }


def as_lerobots(obs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What LeRobot's processors are given."""
    return {key: one.permute(0, 3, 1, 2).float() / 255 if one.ndim == 4 else one for key, one in obs.items()}


@every_kind
def test_it_keeps_the_contract_of_every_policy(kind: str, options: dict[str, Any]) -> None:
    policy = make(kind, **options)
    check_policy(policy)
    obs, noise = observations(), policy.noise(3, np.random.default_rng(0))
    with pytest.raises(ImitationOnlyError, match=f"{kind} learns by imitation alone"):
        policy.log_prob(obs, policy.act(obs, noise, True).path, torch.zeros(3, 1, dtype=torch.bool))


@every_kind
def test_what_is_saved_acts_alike_in_lerobot(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy = make(kind, **options)
    save(policy, tmp_path)
    theirs = get_policy_class(kind).from_pretrained(tmp_path)
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(tmp_path))
    obs, noise = observations(), policy.noise(3, np.random.default_rng(0))
    shown = before(as_lerobots(obs))
    if kind == "act":
        chunk = theirs.predict_action_chunk(shown)
    else:
        for key in ("observation.state", "observation.environment_state"):
            shown[key] = shown[key][:, None]
        images = [shown[key][:, None] for key in theirs.config.image_features]
        seen = shown | {"observation.images": torch.stack(images, 2)}
        condition = theirs.diffusion._prepare_global_conditioning(seen)
        start = noise[:, 0]
        chunk = theirs.diffusion.conditional_sample(3, condition, generators(start), start)
    ours = policy.act(obs, noise, False).actions
    torch.testing.assert_close(ours, after(chunk), rtol=0, atol=1e-5)
    # And a checkpoint of it is what it was, statistics included.
    again = make(kind, pretrained=str(tmp_path), statistics="checkpoint")
    torch.testing.assert_close(again.act(obs, noise, False).actions, ours, rtol=0, atol=1e-5)
    assert not list(tmp_path.glob("**/*.pkl"))


@every_kind
def test_its_loss_is_lerobots(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy = make(kind, **options)
    save(policy, tmp_path)
    theirs = get_policy_class(kind).from_pretrained(tmp_path).train()
    before, _ = make_pre_post_processors(theirs.config, pretrained_path=str(tmp_path))
    obs, actions = observations(), torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[1, 5:] = False
    ours = policy.loss(obs, actions, valid, torch.Generator().manual_seed(5))
    batch = before(as_lerobots(obs) | {"action": actions})
    if kind == "diffusion":
        batch = {key: value[:, None] if key in FEATURES else value for key, value in batch.items()}
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    torch.manual_seed(seed)
    loss, _ = theirs.forward(batch | {"action_is_pad": ~valid})
    torch.testing.assert_close(ours, loss)
    ours.backward()
    loss.backward()
    for (name, one), (_, two) in zip(policy.lerobot.named_parameters(), theirs.named_parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_a_crop_is_at_random_while_it_learns_and_in_the_middle_else() -> None:
    policy, obs = make("diffusion", crop_shape=(48, 32)), observations(1)
    noise = policy.noise(1, np.random.default_rng(0))
    middle = torch.zeros_like(obs["observation.images.front"])
    middle[:, 8:56] = obs["observation.images.front"][:, 8:56]
    changed = obs | {"observation.images.front": middle}
    assert torch.equal(*(policy.act(one, noise, False).actions for one in (obs, changed)))
    valid, actions = torch.ones(1, 8, dtype=torch.bool), torch.zeros(1, 8, 6)
    one, two = (policy.loss(each, actions, valid, torch.Generator().manual_seed(2)) for each in (obs, changed))
    assert not torch.equal(one, two)


@pytest.mark.slow
@every_kind
def test_it_learns_a_chunk(kind: str, options: dict[str, Any]) -> None:
    blind = {key: shape for key, shape in FEATURES.items() if "images" not in key}
    # What is to be learnt of a chunk at once: with dropout, or of its noise, takes longer.
    options = options | ({"dropout": 0.0} if kind == "act" else {"prediction_type": "sample"})
    policy = make(kind, blind, **options)
    obs = {key: value for key, value in observations(1).items() if key in blind}
    target = policy.action.inverse(torch.linspace(-0.8, 0.8, 8)[None, :, None].expand(1, 8, 6))
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    many = {key: value.expand(32, *value.shape[1:]) for key, value in obs.items()}
    for _ in range(100):
        optimizer.zero_grad()
        policy.loss(many, target.expand(32, 8, 6), torch.ones(32, 8, dtype=torch.bool), generator).backward()
        optimizer.step()
    actions = policy.act(obs, policy.noise(1, np.random.default_rng(0)), False).actions
    untrained = make(kind, blind, **options).act(obs, policy.noise(1, np.random.default_rng(0)), False).actions
    error, before = ((policy.action(one) - policy.action(target)).abs().mean() for one in (actions, untrained))
    assert error < 0.3 * before


def test_batch_norm_of_a_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    save(make("diffusion"), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"use_group_norm": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(PolicyConfigError, match=r"lacks \d+ weights: .*running_mean"):
        make("diffusion", pretrained=str(tmp_path))
    policy = make("diffusion", pretrained=str(tmp_path), weights=False)
    kept = {name: buffer.clone() for name, buffer in policy.named_buffers() if "running" in name}
    assert kept
    policy.loss(observations(), torch.randn(3, 8, 6), torch.ones(3, 8, dtype=torch.bool)).backward()
    assert all(torch.equal(buffer, kept[name]) for name, buffer in policy.named_buffers() if name in kept)


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights where torchvision keeps those that it has fetched."""
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    there = resnet18(weights=None).state_dict()
    torch.save(there, tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    return there


@pytest.mark.parametrize("kind", SMALL)
def test_a_backbone_with_pretrained_weights(kind: str, backbone: dict[str, Tensor], tmp_path: Path) -> None:
    name = "ResNet18_Weights.IMAGENET1K_V1"
    policy = make(kind, pretrained_backbone_weights=name)
    begins = {
        "act": "lerobot.model.backbone.conv1.weight",
        "diffusion": "lerobot.diffusion.rgb_encoder.0.backbone.0.weight",
    }
    assert torch.equal(policy.state_dict()[begins[kind]], backbone["conv1.weight"])
    # An edge, which fetches none, has the same parts: those of batch norm too.
    (tmp_path / "hub").rename(tmp_path / "away")
    edge = make(kind, pretrained_backbone_weights=name, weights=False)
    edge.load_state_dict(policy.state_dict())
    # Nor does LeRobot for what is saved.
    save(policy, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_backbone_weights"] is None
    make(kind, pretrained=str(tmp_path / "out"))


def test_a_backbone_that_can_not_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    for name, said in (("ResNet18_Weights.IMAGENET1K_V1", "no network"), ("ResNet18_Weights.MINE", "MINE")):
        with pytest.raises(PolicyConfigError, match=f"pretrained_backbone_weights: {name} can't be had .*{said}"):
            make("act", pretrained_backbone_weights=name)


@every_kind
def test_the_start_alone_decides(kind: str, options: dict[str, Any]) -> None:
    policy, obs = make(kind, **options), observations(2)
    noise = policy.noise(2, np.random.default_rng(0))
    state = torch.random.get_rng_state()
    first = policy.act(obs, noise, True).actions
    torch.manual_seed(3)
    assert torch.equal(policy.act(obs, noise, False).actions, first)
    torch.random.set_rng_state(state)
    other = policy.act(obs, policy.noise(2, np.random.default_rng(1)), True).actions
    assert torch.equal(other, first) == (kind == "act")


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("act", {"features": FEATURES | {"instruction": (64,)}}, "'instruction'.*observations.instruction to false"),
        (
            "act",
            {"features": FEATURES | {"observation.tracking_error": (6,)}},
            "observations.tracking_error to false",
        ),
        ("act", {"features": {"observation.state": (6,)}}, "and images or observation.environment_state"),
        ("diffusion", {"horizon": 6}, "should be an integer multiple of the downsampling factor"),
        ("diffusion", {"crop_shape": (65, 32)}, "`crop_shape` should fit within the image shapes"),
        ("diffusion", {"prediction_type": "noise"}, "must be one of"),
        ("act", {"pretrained": "./nowhere"}, "there is no folder ./nowhere"),
        ("act", {"pretrained": "{act}", "horizon": 4}, "horizon is 4, but chunks of .* have 8 actions"),
        ("diffusion", {"pretrained": "{act}"}, "of type 'act', not 'diffusion'"),
        ("diffusion", {"pretrained": "{diffusion}", "n_obs_steps": 2}, "looks at 2 observations at once"),
        ("act", {"pretrained": "{act}", "cameras": {"front": None}}, "null is not valid with act, which needs every"),
        (
            "act",
            {"pretrained": "{act}", "features": {**FEATURES, "observation.state": (7,)}},
            r"has other sizes: .* is \(32, 6\), expected \(32, 7\)",
        ),
        (
            "act",
            {"pretrained": "{act}", "features": {k: v for k, v in FEATURES.items() if "wrist" not in k}},
            "looks through camera 'wrist', which the robot has not",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, kind: str, options: dict[str, Any], said: str) -> None:
    options = dict(options)
    if str(options.get("pretrained")).startswith("{"):
        saved = str(options["pretrained"]).strip("{}")
        save(make(saved), tmp_path)
        options["pretrained"] = str(tmp_path)
        if "n_obs_steps" in options:
            settings = json.loads((tmp_path / "config.json").read_text()) | {"n_obs_steps": options.pop("n_obs_steps")}
            (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(PolicyConfigError, match=said):
        make(kind, **options)


def test_cameras_by_other_names_keep_their_colours(tmp_path: Path) -> None:
    save(make("act"), tmp_path)
    (numbers,) = tmp_path.glob("policy_preprocessor_*.safetensors")
    changed = {key: value + 1 if "front" in key else value for key, value in load_file(numbers).items()}
    save_file(changed, numbers)
    features = {key.replace("front", "top"): shape for key, shape in FEATURES.items()}
    again = make("act", features=features, pretrained=str(tmp_path), cameras={"front": "top"})
    assert again.cameras["observation.images.front"] == "observation.images.top"
    shift = again.colours()["observation.images.front"].mean - again.colours()["observation.images.wrist"].mean
    np.testing.assert_allclose(shift.ravel(), 1, atol=1e-6)
    from lerobot.policies.factory import get_policy_class

    save(again, tmp_path / "again")
    theirs = get_policy_class("act").from_pretrained(tmp_path / "again")
    assert "observation.images.front" in theirs.config.image_features


def _rewritten(folder: Path, change: Callable[[str], str]) -> None:
    """The names of the cameras, in the configuration and the statistics."""
    for file in folder.glob("*.json"):
        file.write_text(change(file.read_text()))
    (numbers,) = folder.glob("policy_preprocessor_*.safetensors")
    save_file({change(key): value for key, value in load_file(numbers).items()}, numbers)


@pytest.mark.parametrize("kind", SMALL)
def test_one_camera_of_the_robot_as_several_of_the_checkpoints(tmp_path: Path, kind: str) -> None:
    """Shown as each of them, as if the robot had as many that see the same; and LeRobot is given all of them again."""
    save(make(kind), tmp_path)
    features = {key: shape for key, shape in FEATURES.items() if "wrist" not in key}
    one = make(kind, features, pretrained=str(tmp_path), cameras={"wrist": "front"})
    obs, both = observations(), make(kind, pretrained=str(tmp_path))
    alike = obs | {"observation.images.wrist": obs["observation.images.front"]}
    noise = one.noise(3, np.random.default_rng(0))
    torch.testing.assert_close(one.act(obs, noise, False).actions, both.act(alike, noise, False).actions)
    save(one, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())["input_features"]
    assert {"observation.images.front", "observation.images.wrist"} <= again.keys()


@pytest.mark.parametrize("kind", SMALL)
def test_a_camera_that_lerobot_names_otherwise(tmp_path: Path, kind: str) -> None:
    """As PushT's `observation.image`: its statistics count, and what is saved has its name again."""
    features = {key: shape for key, shape in FEATURES.items() if "wrist" not in key}
    whole = make(kind, features)
    save(whole, tmp_path)
    _rewritten(tmp_path, lambda text: text.replace("observation.images.front", "observation.image"))
    policy = make(kind, features, pretrained=str(tmp_path), cameras={"image": "front"})
    obs, noise = observations(), whole.noise(3, np.random.default_rng(0))
    torch.testing.assert_close(policy.act(obs, noise, False).actions, whole.act(obs, noise, False).actions)
    policy.loss(obs, torch.zeros(3, 8, 6), torch.ones(3, 8, dtype=torch.bool))
    assert list(policy.colours()) == ["observation.image"]
    save(policy, tmp_path / "again")
    assert list(make(kind, features, pretrained=str(tmp_path / "again"), cameras={"image": "front"}).colours()) == [
        "observation.image"
    ]


@pytest.mark.parametrize("colours", [torch.full((3, 1, 1), torch.nan), torch.zeros(1)], ids=["nan", "one colour"])
def test_colours_that_are_none_are_said(tmp_path: Path, colours: Tensor) -> None:
    save(make("act"), tmp_path)
    (numbers,) = tmp_path.glob("policy_preprocessor_*.safetensors")
    save_file(load_file(numbers) | {"observation.images.wrist.mean": colours}, numbers)
    with pytest.raises(
        PolicyConfigError, match=r"statistics of observation\.images\.wrist in .* are not a finite number"
    ):
        make("act", pretrained=str(tmp_path))


@pytest.mark.parametrize("scale", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"])
def test_statistics_of_data_are_what_lerobots_normalizer_makes_of_them(scale: str) -> None:
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.processor import NormalizerProcessorStep

    rows = np.random.default_rng(0).gamma(2.0, 3.0, (500, 4)).astype(np.float32)
    low, high = np.quantile(rows, [0.01, 0.99], axis=0)
    tenth, ninetieth = np.quantile(rows, [0.1, 0.9], axis=0)
    theirs = NormalizerProcessorStep(
        {"observation.state": PolicyFeature(FeatureType.STATE, (4,))},
        {FeatureType.STATE: NormalizationMode[scale]},
        {
            "observation.state": {
                "mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0),
                "q01": low, "q99": high, "q10": tenth, "q90": ninetieth,
            }
        },
    )  # fmt: skip
    one = Statistics.of(rows, scale.lower())  # type: ignore[arg-type]
    shown = theirs._normalize_observation({"observation.state": torch.from_numpy(rows)}, inverse=False)
    np.testing.assert_allclose((rows - one.mean) / one.std, shown["observation.state"].numpy(), rtol=1e-4, atol=1e-4)
