"""LeRobot's policies in a run: what they are normalised by, who reads their weights, and imitation with a person."""

from __future__ import annotations

import io
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from rich.console import Console

from hal import load_spec
from hal.drivers.ros_options import ros_options
from policies.errors import PolicyConfigError
from policies.vla.tiny import write_tiny
from robotlearn.cells import cells_of
from robotlearn.config import dump, load_config
from robotlearn.display import Display
from robotlearn.edge.batch import BatchEdge
from robotlearn.errors import RunFolderError
from robotlearn.inputs import Inputs
from robotlearn.learner import start
from robotlearn.learner.learner import Learner
from robotlearn.metrics import read_metrics
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from tests.learner.running import Running, served

SEEN = ["observations={environment_state: false, cameras: [front], instruction: true}"]
TAUGHT = ["start.success_band=null", "demonstrations.episodes=2", "episode_steps=30", "sft.steps=1", "sft.batch_size=4"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def vla(kind: str, folder: Path) -> list[str]:
    chosen = f"{{kind: {kind}, pretrained: {folder}, horizon: 8, denoising_steps: 2, width: 8, train: expert}}"
    return [*SEEN, *TAUGHT, f"policy={chosen}"]


@pytest.mark.parametrize(("kind", "span"), [("pi05", (0.01, 0.99)), ("pi0", None)])
def test_demonstrations_normalise_as_the_checkpoint_asks(
    tmp_path: Path, kind: str, span: tuple[float, float] | None
) -> None:
    config = load_config("smoke", vla(kind, write_tiny(kind, tmp_path / kind)))
    cells, inputs = cells_of(config), Inputs(config)
    policy = build_policy(config, inputs)
    taught = start.teach(policy, config, cells, inputs, lambda *_: None)
    ((_, shown),) = taught.shown
    for key, rows in (("observation.state", shown.observations["observation.state"]), ("action", shown.actions)):
        one = policy.statistics()[key]
        scaled = (rows - one.mean) / one.std
        scaled = scaled[:, rows.std(0) > 1e-5]  # of those that moved
        if span is None:
            np.testing.assert_allclose(scaled.std(0), 1, atol=1e-3)
        else:
            low, high = np.quantile(scaled, span, axis=0)
            np.testing.assert_allclose([-low, high], 1, atol=1e-3)


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05"])
def test_the_shipped_configs_fit_their_checkpoints_and_robots(tmp_path: Path, kind: str) -> None:
    """With a tiny checkpoint that has the published one's cameras."""
    cameras = tuple(load_config(kind).policy.cameras)  # type: ignore[union-attr]
    tiny = write_tiny(kind, tmp_path / kind, cameras=cameras)
    for name in (kind, f"{kind}-so101", f"{kind}-panda-ros2"):
        config = load_config(name, [f"policy.pretrained={tiny}", "policy.width=8"])
        policy = build_policy(config, Inputs(config), weights=False)
        assert list(policy.cameras.values()) == ["observation.images.front", "observation.images.wrist"], name
        assert any(parameter.requires_grad for parameter in policy.parameters()), name
    (edge,) = config.edges
    ros_options(load_spec("panda"), edge.options)  # type: ignore[union-attr]


@pytest.mark.slow
def test_edges_and_resumed_learners_read_no_pretrained_weights(tmp_path: Path) -> None:
    tiny = write_tiny("smolvla", tmp_path / "tiny")
    config = load_config("smoke", [*vla("smolvla", tiny), "learner.updates=0", "learner.eval_episodes=1"])
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    learner = Learner(config, folder, resume=False)
    with Display(learner.view, Console(file=io.StringIO())) as display:
        learner.run(Event(), display)
    (tiny / "model.safetensors").unlink()
    edge = BatchEdge(config, config.edges[1], "tcp://127.0.0.1:9", tmp_path / "edge")  # type: ignore[arg-type]
    assert edge.version == -1  # it waits for those of the learner
    edge.close()
    with pytest.raises(RunFolderError, match="is complete"):  # found after the policy was built
        Learner(config, folder, resume=True)
    with pytest.raises(PolicyConfigError, match=r"has no model\.safetensors"):
        Learner(config, RunFolder.create(tmp_path / "new", dump(config), "id"), resume=False)


def test_a_person_corrects_act(tmp_path: Path) -> None:
    act = "{kind: act, horizon: 8, dim_model: 32, n_heads: 4, dim_feedforward: 32, n_encoder_layers: 1, "
    chosen = f"policy={act}n_vae_encoder_layers: 1}}"
    config = load_config(
        "lift-hgdagger",
        [
            chosen, "start={success_band: null}", "demonstrations.episodes=1", "sft.steps=5", "learner.updates=2",
            "learner.eval_every=null", "learner.eval_episodes=1", "replay={steps_per_update: 16, starts_after: 8}",
            "edges=[{name: station, kind: paced, segment_steps: 16}, "
            "{name: sim, kind: batch, arms: 4, segment_steps: 16, person: {kind: scripted}}]",
        ],
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", dump(config), "id")
    running = Running(config, folder)
    edge = served(running, config, folder)
    running.end()
    assert edge.version >= 1
    rows = [row for row in read_metrics(folder.metrics) if "loss/imitation" in row]
    assert [row["updates"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["loss/imitation"]) for row in rows)
