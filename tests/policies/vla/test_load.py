"""Checkpoints: from a folder and a hub (a server here that answers as one does), and what is said of each fault."""

import json
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from policies.errors import PolicyConfigError
from policies.vla import checkpoint as checkpoint_module
from policies.vla.checkpoint import Checkpoint
from policies.vla.tiny import write_tiny
from tests.policies.vla.conftest import FEATURES, observations

Make = Callable[..., Any]


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: `gated/model` is gated, `there/model` has the files of `folder`, others aren't there."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        owner, _, _, _, *path = self.path.strip("/").split("/")
        headers, data, status = {"X-Repo-Commit": "0" * 40}, b"", 200
        if owner == "gated":
            headers, status = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, 403
        elif owner != "there":
            headers, status = {"X-Error-Code": "RepoNotFound"}, 401
        elif not (file := self.folder.joinpath(*path)).is_file():
            headers, status = {**headers, "X-Error-Code": "EntryNotFound"}, 404
        else:
            data = file.read_bytes()
            headers |= {"ETag": f'"{len(data)}"'}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": checkpoints["pi0"]}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("ENDPOINT", address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_of_a_hub(hub: None) -> None:
    checkpoint = Checkpoint("there/model", "pi0")
    assert list(checkpoint.cameras) == ["observation.images.front"]
    assert checkpoint.file("model.safetensors").stat().st_size > 1e6
    with pytest.raises(PolicyConfigError, match=r"there/model has no nothing\.json"):
        checkpoint.file("nothing.json")
    assert checkpoint.optional("nothing.json") is None


@pytest.mark.parametrize(
    ("source", "said"),
    [("gated/model", "is gated: accept its terms"), ("nobody/model", "no hub has a repository nobody/model")],
)
def test_what_a_hub_refuses(hub: None, source: str, said: str) -> None:
    with pytest.raises(PolicyConfigError, match=said) as caught:
        Checkpoint(source, "pi0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("lerobot/never-fetched", "pi0", "no network, or HF_HUB_OFFLINE is set.*hf download lerobot/never-fetched"),
        ("./nowhere", "pi0", "there is no folder ./nowhere"),
        ("{pi0}", "smolvla", "of type 'pi0', not 'smolvla': set policy.kind=pi0"),
        ("{empty}", "pi0", "has no config.json"),
    ],
)
def test_what_is_no_checkpoint(checkpoints: dict[str, Path], tmp_path: Path, source: str, kind: str, said: str) -> None:
    with pytest.raises(PolicyConfigError, match=said):
        Checkpoint(source.format(pi0=checkpoints["pi0"], empty=tmp_path), kind)


@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_every_weight_must_be_there(make: Make, checkpoints: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    shutil.copytree(checkpoints[kind], folder)
    whole = load_file(folder / "model.safetensors")
    name = next(key for key in whole if "action_out_proj.weight" in key)
    for change, said in (
        ({name: None}, f"lacks 1 weights: {name}"),
        ({"model.more": torch.zeros(2)}, "nothing here takes, 1 weights: model.more"),
        ({name: torch.zeros(3, 3)}, rf"other sizes: 1 weights: {name} is \(3, 3\)"),
        ({name: torch.full_like(whole[name], torch.nan)}, f"{name} of .* holds NaN or infinity"),
        ({name: torch.full_like(whole[name], -torch.inf)}, f"{name} of .* holds NaN or infinity"),
    ):
        changed = {key: value for key, value in {**whole, **change}.items() if value is not None}
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(PolicyConfigError, match=said):
            make(kind, pretrained=str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(PolicyConfigError, match=r"has no model\.safetensors"):
        make(kind, pretrained=str(folder))
    make(kind, pretrained=str(folder), weights=False)  # they are to come


def _image(*names: str) -> dict[str, tuple[int, ...]]:
    return {f"observation.images.{name}": (48, 64, 3) for name in names}


@pytest.mark.parametrize(
    ("robots", "given", "said"),
    [
        (
            ["wrist"],
            {},
            r"camera 'front', which the robot has not \(it has wrist\).*policy.cameras.front=wrist.*front=null",
        ),
        (["front", "wrist"], {}, r"nothing of .* looks through the robot's camera 'wrist'"),
        (["wrist"], {"top": "wrist"}, "the checkpoint has no camera 'top'; it has front"),
        (["wrist"], {"front": "top"}, "the robot has no camera 'top'; it has wrist"),
    ],
)
def test_cameras_without_a_partner(make: Make, robots: list[str], given: dict[str, str | None], said: str) -> None:
    features = {key: FEATURES[key] for key in ("observation.state", "instruction")} | _image(*robots)
    with pytest.raises(PolicyConfigError, match=said):
        make("smolvla", features=features, cameras=given)


def test_cameras_by_other_names_and_dark_ones(tmp_path: Path, make: Make) -> None:
    for kind in ("smolvla", "pi0"):
        two = write_tiny(kind, tmp_path / kind, cameras=("up", "side"))
        features = {key: FEATURES[key] for key in ("observation.state", "instruction")} | _image("wrist")
        policy = make(kind, pretrained=str(two), features=features, cameras={"up": "wrist", "side": None})
        assert policy.cameras == {"observation.images.up": "observation.images.wrist"}
        shown, seen = policy._field.images({"observation.images.up": torch.zeros(2, 3, 48, 64)})
        assert [bool(one.all()) for one in seen] == [True] and len(shown) == 1


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_how_a_checkpoint_was_trained_is_not_how_it_acts(
    make: Make, checkpoints: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """LeRobot keeps `gradient_checkpointing` and `compile_model` in config.json; with the first no prefix is kept."""
    folder = shutil.copytree(checkpoints[kind], tmp_path / kind)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"gradient_checkpointing": True, "compile_model": True, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(settings))
    plain, other = make(kind), make(kind, pretrained=str(folder))
    obs, noise = observations(["go"]), plain.noise(1, np.random.default_rng(0))
    assert torch.equal(other.act(obs, noise, False).actions, plain.act(obs, noise, False).actions)


def test_weights_are_float32_whatever_the_language_model_is_published_in(
    make: Make, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Adam's steps of 1e-5 are lost in bfloat16's eight bits."""
    folder = shutil.copytree(checkpoints["smolvla"], tmp_path / "bf16")
    described = folder / "vlm" / "config.json"
    settings = json.loads(described.read_text())
    settings["text_config"]["dtype"] = "bfloat16"
    described.write_text(json.dumps(settings))
    policy = make("smolvla", pretrained=str(folder), train="lora")
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_one_camera_of_the_robot_as_several_of_the_checkpoints(tmp_path: Path, make: Make, kind: str) -> None:
    """Shown as each of them, as if the robot had as many that see the same."""
    three = write_tiny(kind, tmp_path / kind, cameras=("camera1", "camera2", "camera3"))
    one = make(kind, pretrained=str(three), cameras=dict.fromkeys(("camera1", "camera2", "camera3"), "front"))
    features = FEATURES | _image("camera1", "camera2", "camera3")
    del features["observation.images.front"]
    many, obs = make(kind, pretrained=str(three), features=features), observations(["touch the cube"])
    alike = obs | {f"observation.images.camera{n}": obs["observation.images.front"] for n in (1, 2, 3)}
    start = one.noise(1, np.random.default_rng(0))
    shown, seen = one._inputs(obs)[:2]
    assert len(shown) == 3 and all(torch.equal(image, shown[0]) for image in shown) and all(map(torch.all, seen))
    torch.testing.assert_close(one.act(obs, start, False).actions, many.act(alike, start, False).actions)
    cameras = {f"camera:observation.images.camera{n}": "observation.images.front" for n in (1, 2, 3)}
    assert cameras.items() <= one.contract().items()


def _renamed(folder: Path, names: dict[str, str]) -> None:
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    inputs = settings["input_features"]
    settings["input_features"] = {names.get(key, key): one for key, one in inputs.items()}
    config.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("key", "name"), [("observation.image", "image"), ("observation.images.rgb.head", "rgb_head"), ("rgb", "rgb")]
)
@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_a_camera_that_lerobot_names_otherwise(
    checkpoints: dict[str, Path], tmp_path: Path, make: Make, kind: str, key: str, name: str
) -> None:
    """As datasets like PushT's do: the error's own advice is one that an override can say, and it helps."""
    folder = shutil.copytree(checkpoints[kind], tmp_path / kind)
    _renamed(folder, {"observation.images.front": key})
    with pytest.raises(PolicyConfigError, match=rf"camera '{name}', .*policy\.cameras\.{name}=front"):
        make(kind, pretrained=str(folder))
    policy, like = make(kind, pretrained=str(folder), cameras={name: "front"}), make(kind)
    assert policy.cameras == {key: "observation.images.front"}
    obs, start = observations(["touch the cube"]), like.noise(1, np.random.default_rng(0))
    assert torch.equal(policy.act(obs, start, False).actions, like.act(obs, start, False).actions)


def test_two_cameras_of_one_name_are_said(tmp_path: Path, make: Make) -> None:
    folder = write_tiny("smolvla", tmp_path, cameras=("front", "up"))
    _renamed(folder, {"observation.images.up": "observation.front"})
    with pytest.raises(PolicyConfigError, match=r"observation\.images\.front, observation\.front, two have one name"):
        make("smolvla", pretrained=str(folder))


def test_a_folder_is_whole_by_itself(checkpoints: dict[str, Path], tmp_path: Path, make: Make) -> None:
    shutil.move(shutil.copytree(checkpoints["smolvla"], tmp_path / "a"), tmp_path / "b")
    named = json.loads((tmp_path / "b" / "config.json").read_text())["vlm_model_name"]
    settings = (tmp_path / "b" / "config.json").read_text().replace(named, "somebody/elses-vlm")
    (tmp_path / "b" / "config.json").write_text(settings)
    make("smolvla", pretrained=str(tmp_path / "b"))


def test_a_gated_tokenizer_is_said_to_be_gated(
    hub: None, checkpoints: dict[str, Path], tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which transformers hides behind an error of its own."""
    shutil.rmtree(shutil.copytree(checkpoints["pi0"], tmp_path / "pi0") / "tokenizer")
    monkeypatch.setitem(checkpoint_module._TOKENIZERS, "pi0", "gated/tokenizer")
    with pytest.raises(PolicyConfigError, match=r"^gated/tokenizer is gated: accept its terms on its page"):
        make("pi0", pretrained=str(tmp_path / "pi0"))
    monkeypatch.setitem(checkpoint_module._TOKENIZERS, "pi0", "nobody/tokenizer")
    with pytest.raises(PolicyConfigError, match=r"^no hub has a repository nobody/tokenizer"):
        make("pi0", pretrained=str(tmp_path / "pi0"))


@pytest.mark.parametrize("kept", [b"version https://git-lfs.github.com/spec/v1\n", None], ids=["git-lfs", "half of it"])
def test_weights_that_are_not_whole_are_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, make: Make, kept: bytes | None
) -> None:
    file = shutil.copytree(checkpoints["smolvla"], tmp_path / "it") / "model.safetensors"
    file.write_bytes(kept or file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(PolicyConfigError, match=r"the model.safetensors of .*it can't be read .*Fetch it again\.$"):
        make("smolvla", pretrained=str(tmp_path / "it"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "\xe9" * 1000,
        "[]",
        '{"type": "smolvla"}',
        '{"type": "smolvla", "input_features": null}',
        '{"type": "smolvla", "input_features": ["observation.state"]}',
        '{"type": "smolvla", "input_features": {"observation.image": [3, 64, 64]}}',
        '{"type": "smolvla", "input_features": {"observation.image": {"type": "VISUAL"}}}',
        '{"type": "smolvla", "input_features": {"observation.image": {"type": "VISUAL", "shape": 3}}}',
        '{"type": "smolvla", "input_features": {"observation.image": {"type": "VISUAL", "shape": ["x"]}}}',
    ],
)
def test_a_config_that_is_none_is_one_line(tmp_path: Path, make: Make, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(PolicyConfigError, match=r"the config.json of .* is not one of LeRobot's") as caught:
        make("smolvla", pretrained=str(tmp_path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


NORMALIZER = '{"steps": [{"registry_name": "normalizer_processor", "config": {}, "state_file": "state.safetensors"}]}'


@pytest.mark.parametrize(
    ("processor", "state", "file"),
    [
        ("{", None, "policy_preprocessor.json"),
        ("[]", None, "policy_preprocessor.json"),
        ("{}", None, "policy_preprocessor.json"),
        ('{"steps": ["normalizer_processor"]}', None, "policy_preprocessor.json"),
        (NORMALIZER.replace('"config": {}, ', ""), None, "policy_preprocessor.json"),
        (NORMALIZER.replace("{},", '{"norm_map": ["MEAN_STD"]},'), None, "policy_preprocessor.json"),
        (NORMALIZER, b"version https://git-lfs.github.com/spec/v1\n", "state.safetensors"),
        (
            NORMALIZER.replace("{},", '{"norm_map": {"STATE": "MIN_MAX"}},'),
            {"observation.state.min": torch.zeros(6), "observation.state.max": torch.zeros(7)},
            "state.safetensors",
        ),
    ],
)
def test_statistics_that_are_none_are_one_line(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    make: Make,
    processor: str,
    state: bytes | dict[str, torch.Tensor] | None,
    file: str,
) -> None:
    folder = shutil.copytree(checkpoints["smolvla"], tmp_path / "it")
    (folder / "policy_preprocessor.json").write_text(processor)
    if isinstance(state, bytes):
        (folder / "state.safetensors").write_bytes(state)
    elif state is not None:
        save_file(state, folder / "state.safetensors")
    with pytest.raises(PolicyConfigError, match=rf"the {file} of .*it is not one of LeRobot's") as caught:
        make("smolvla", pretrained=str(folder), statistics="checkpoint")
    assert "\n" not in str(caught.value)


def test_targets_that_are_no_regular_expression_are_one_line(make: Make) -> None:
    with pytest.raises(
        PolicyConfigError, match=r"policy\.lora\.targets: '\*q_proj' is no regular expression .*"
    ) as caught:
        make("smolvla", train="lora", lora={"rank": 4, "alpha": 8.0, "targets": "*q_proj"})
    assert "\n" not in str(caught.value)


def test_what_was_saved_with_a_dark_camera_is_loaded_with_the_same_one_dark(tmp_path: Path, make: Make) -> None:
    from policies.vla.save import save

    source = write_tiny("smolvla", tmp_path / "two", cameras=("up", "side"))
    for number in range(2):
        features = {key: FEATURES[key] for key in ("observation.state", "instruction")} | _image("wrist")
        policy = make("smolvla", pretrained=str(source), features=features, cameras={"up": "wrist", "side": None})
        before, source = source, tmp_path / f"saved{number}"
        save(policy, source, Checkpoint(str(before), "smolvla"))
        assert Checkpoint(str(source), "smolvla").cameras.keys() == Checkpoint(str(before), "smolvla").cameras.keys()
