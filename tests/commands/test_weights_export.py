"""`robotlearn weights export`: a run's policy becomes a checkpoint that LeRobot itself loads, and acts alike."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from policies.base import Policy
from policies.language import as_bytes
from robotlearn.cli import app
from robotlearn.config import dump, load_config
from robotlearn.display import Display
from robotlearn.errors import CheckpointError, ConfigError
from robotlearn.learner.learner import Learner
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy

IMITATION = [
    "edges=[]", "learner.updates=0", "learner.eval_episodes=1", "start.success_band=null", "demonstrations.episodes=1",
    "episode_steps=12", "sft.steps=3", "sft.batch_size=4", "sft.lr=1e-2",
]  # fmt: skip
SMALL = {
    "act": "policy={kind: act, horizon: 8, dim_model: 32, n_heads: 4, dim_feedforward: 32, n_encoder_layers: 1, "
    "n_vae_encoder_layers: 1}",
    "diffusion": "policy={kind: diffusion, horizon: 8, down_dims: [16, 32], n_groups: 4, num_inference_steps: 2}",
}
SEEN = ["observations={environment_state: false, cameras: [front], instruction: true}"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def imitated(path: Path, overrides: Sequence[str]) -> RunFolder:
    """A run that is over: imitation alone."""
    config = load_config("smoke", [*IMITATION, *overrides])
    folder = RunFolder.create(path, dump(config), "id")
    learner = Learner(config, folder, resume=False)
    with Display(learner.view, Console(file=io.StringIO())) as display:
        learner.run(Event(), display)
    return folder


def observations(policy: Policy, count: int = 2) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    obs = {
        key: torch.from_numpy(
            rng.normal(size=(count, *shape)).astype(np.float32)
            if len(shape) == 1
            else rng.integers(0, 256, (count, *shape), np.uint8)
        )
        for key, shape in policy.features.items()
    }
    if "instruction" in obs:
        obs["instruction"] = torch.from_numpy(np.stack([as_bytes("reach for the green ball")] * count))
    return obs


@pytest.mark.slow
def test_a_vla_with_lora(tmp_path: Path) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from policies.vla.tiny import write_tiny

    tiny = write_tiny("smolvla", tmp_path / "tiny", action=8)
    vla = f"{{kind: smolvla, pretrained: {tiny}, horizon: 8, denoising_steps: 2, width: 8, train: lora}}"
    folder = imitated(tmp_path / "run", [*SEEN, f"policy={vla}"])
    out = tmp_path / "out"
    (tiny / "model.safetensors").unlink()  # what it was fine-tuned from is not read any more
    told = CliRunner().invoke(app, ["weights", "export", str(folder.path), str(out)], catch_exceptions=False)
    assert told.exit_code == 0 and f"{out}: version 0 as a checkpoint of LeRobot, smolvla" in told.output
    ours = find_policy(folder.path).load()
    assert any(one.abs().max() > 0 for name, one in ours.named_parameters() if "lora_B" in name)
    theirs = get_policy_class("smolvla").from_pretrained(out)
    assert not [name for name in theirs.state_dict() if "lora" in name]
    words = {"tokenizer_processor": {"tokenizer": ours.prompts.tokenizer}}
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(out), preprocessor_overrides=words)
    obs, noise = observations(ours), ours.noise(2, np.random.default_rng(0))
    image = obs["observation.images.front"].permute(0, 3, 1, 2).float() / 255
    given = {"observation.state": obs["observation.state"], "observation.images.front": image}
    shown = before(given | {"task": ["reach for the green ball"] * 2})
    chunk = after(theirs.predict_action_chunk(shown, noise=noise[:, 0]))
    torch.testing.assert_close(ours.act(obs, noise, False).actions, chunk, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_policies_for_imitation(tmp_path: Path, kind: str) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    folder = imitated(tmp_path / "run", [SMALL[kind]])
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is as good as none
    version = ["--version", "0"]
    told = CliRunner().invoke(app, ["weights", "export", str(folder.path), str(out), *version], catch_exceptions=False)
    assert told.exit_code == 0
    ours = find_policy(folder.path).load()
    theirs = get_policy_class(kind).from_pretrained(out)
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(out))
    obs, noise = observations(ours), ours.noise(2, np.random.default_rng(0))
    shown = before(obs)
    if kind == "act":
        chunk = theirs.predict_action_chunk(shown)
    else:
        for key in obs:
            shown[key] = shown[key][:, None]
        chunk = theirs.predict_action_chunk(shown, noise=noise[:, 0])
    torch.testing.assert_close(ours.act(obs, noise, False).actions, after(chunk), rtol=0, atol=1e-5)
    # What was demonstrated spans from -1 to 1 for a diffusion policy, as LeRobot has it.
    if kind == "diffusion":
        assert ours.scales["action"] == "min_max"
    again = load_config("smoke", [*IMITATION, f"policy={{kind: {kind}, horizon: 8, pretrained: {out}}}"])
    assert again.policy.kind == kind


def test_what_can_not_be_exported_is_said(tmp_path: Path) -> None:
    folder = imitated(tmp_path / "run", [SMALL["act"], "sft.steps=1"])

    def export(*arguments: object) -> None:
        CliRunner().invoke(app, ["weights", "export", *map(str, arguments)], catch_exceptions=False)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(CheckpointError, match="full is there already and not empty: name another"):
        export(folder.path, tmp_path / "full")
    with pytest.raises(CheckpointError, match="has no checkpoint of version 7; it has 0"):
        export(folder.path, tmp_path / "out", "--version", 7)
    with pytest.raises(CheckpointError, match="can't be written"):
        export(folder.path, tmp_path / "full" / "mine" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "run"]
    other = imitated(tmp_path / "other", ["policy.hidden=[8]"])
    with pytest.raises(ConfigError, match="LeRobot has no format for a policy of kind flow_mlp, only for smolvla"):
        export(other.path, tmp_path / "out")
