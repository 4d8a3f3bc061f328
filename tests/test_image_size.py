"""`observations.image_size: auto`: one size for edges and learner, by the checkpoint's config.json, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from robotlearn.cells import cells_of, env_options, observation_shapes
from robotlearn.config import Config, load_config
from robotlearn.contract import contract
from robotlearn.errors import ConfigError
from robotlearn.image_size import model_image_size

ROBOT = Path(__file__).parent.parent / "hardware_specs" / "panda.yaml"


def checkpoint(folder: Path, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def vla(folder: Path, kind: str, *more: str) -> Config:
    """A run of a panda whose front camera is 480 high and 640 wide."""
    spec = yaml.safe_load(ROBOT.read_text())
    spec["cameras"][0] |= {"height": 480, "width": 640}
    spec["mujoco"]["mjcf"] = str(ROBOT.parent / spec["mujoco"]["mjcf"])
    robot = folder / "panda.yaml"
    robot.write_text(yaml.safe_dump(spec))
    policy = f"policy={{kind: {kind}, pretrained: {folder}, horizon: 4}}"
    seen = "observations={cameras: [front, wrist], image_size: auto, instruction: true, environment_state: false}"
    return load_config("smoke", [f"robot={robot}", policy, seen, *more])


@pytest.mark.parametrize(
    ("kind", "settings", "front", "wrist"),
    [
        ("smolvla", {"resize_imgs_with_padding": [512, 512]}, (384, 512, 3), (128, 128, 3)),
        ("smolvla", {"resize_imgs_with_padding": [64, 96]}, (48, 64, 3), (64, 64, 3)),
        ("pi0", {"image_resolution": [224, 224]}, (168, 224, 3), (128, 128, 3)),
        ("pi05", {"image_resolution": [64, 96]}, (64, 85, 3), (64, 64, 3)),
    ],
)
def test_it_is_what_the_checkpoint_takes(
    tmp_path: Path, kind: str, settings: dict[str, object], front: tuple[int, ...], wrist: tuple[int, ...]
) -> None:
    checkpoint(tmp_path, type=kind, **settings)
    config = vla(tmp_path, kind)
    cell = cells_of(config)[0]
    shapes = observation_shapes(cell, env_options(config))
    assert (shapes["observation.images.front"], shapes["observation.images.wrist"]) == (front, wrist)
    assert contract(config)[f"{cell.name}.observation.images.front"] == list(front)


@pytest.mark.parametrize("settings", [{}, {"resize_imgs_with_padding": None}, {"resize_imgs_with_padding": [512]}])
def test_a_checkpoint_that_names_no_size_is_said(tmp_path: Path, settings: dict[str, object]) -> None:
    checkpoint(tmp_path, **settings)
    with pytest.raises(ConfigError, match=r"image_size=auto: .*config.json names no size .*; give height and width"):
        model_image_size("smolvla", str(tmp_path))


def test_what_is_neither_here_nor_on_a_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"image_size=auto: the config.json of nobody/nothing can't be had"):
        model_image_size("smolvla", "nobody/nothing")


def test_without_a_checkpoint_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"observations.image_size: 'auto' is not valid with policy flow_mlp"):
        load_config("smoke", ["observations={cameras: [front], image_size: auto}"])


def test_an_arm_process_asks_without_torch(tmp_path: Path) -> None:
    checkpoint(tmp_path, resize_imgs_with_padding=[512, 512])
    script = (
        "import sys; from robotlearn.image_size import model_image_size;"
        f"assert model_image_size('smolvla', {str(tmp_path)!r}) == (512, 512);"
        "import huggingface_hub; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
