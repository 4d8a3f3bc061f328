"""What one policy is shown of several robots and tasks, and what its actions are to each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hal import load_spec
from policies import FlowMLP, registry
from policies.language import embed
from robotlearn.cells import Cell, cells_of
from robotlearn.config import load_config
from robotlearn.config.policy import OtherPolicyConfig
from robotlearn.contract import contract
from robotlearn.errors import ConfigError
from robotlearn.inputs import Inputs
from robotlearn.learner.normalization import demonstrated, wandered
from robotlearn.learner.start import teach
from robotlearn.policy import ask, build_policy

BOTH = ["task=[reach, lift]", "observations.instruction=true", "policy.hidden=[16]", "edges.0.task=reach"]


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Panda that lacks its last joint: a robot model with fewer joints."""
    folder = tmp_path_factory.mktemp("spec")
    spec = load_spec("panda")
    content = spec.model_dump(mode="json")
    content["name"], content["joints"] = "stump", content["joints"][:6]
    content["mujoco"]["joints"], content["mujoco"]["actuators"] = (
        content["mujoco"]["joints"][:6],
        content["mujoco"]["actuators"][:6],
    )
    mjcf = Path(content["mujoco"]["mjcf"]).read_text()
    fixed = mjcf.replace('<joint name="joint7" range="-2.8973 2.8973" actuatorfrcrange="-12 12"/>', "")
    fixed = fixed.replace('<position name="joint7" joint="joint7" kp="600" kv="24" ctrlrange="-2.8973 2.8973"/>', "")
    (folder / "stump.xml").write_text(fixed)
    content["mujoco"]["mjcf"] = "stump.xml"
    path = folder / "stump.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_one_robot_and_one_task_are_shown_as_they_are() -> None:
    config = load_config("smoke")
    inputs = Inputs(config)
    seen = {
        "observation.state": np.ones((3, 8), np.float32),
        "observation.environment_state": np.ones((3, 6), np.float32),
    }
    shown = inputs.observations("panda", seen, "reach for the green ball")
    assert inputs.features == {key: value.shape[1:] for key, value in seen.items()}
    assert all(shown[key] is seen[key] for key in seen) and shown.keys() == seen.keys()
    actions = np.ones((3, 4, 8), np.float32)
    assert inputs.actions("panda", actions) is actions


def test_several_tasks_share_places_and_come_with_their_words() -> None:
    inputs = Inputs(load_config("smoke", BOTH))
    assert inputs.features == {
        "observation.state": (8,),
        "observation.environment_state": (15,),
        "instruction": embed("").shape,
    }
    seen = {
        "observation.state": np.ones((2, 8), np.float32),
        "observation.environment_state": np.ones((2, 6), np.float32),
    }
    shown = inputs.observations("panda", seen, ["reach for the green ball", "pick up the red cube"])
    assert shown["observation.environment_state"].tolist() == [[1] * 6 + [0] * 9] * 2
    assert np.array_equal(shown["instruction"][1], embed("pick up the red cube"))
    same = inputs.observations("panda", seen, "pick up the red cube")["instruction"]
    assert same.shape == shown["instruction"].shape and np.array_equal(same[0], shown["instruction"][1])


def test_several_robots_keep_the_gripper_in_one_place(shorter: Path) -> None:
    both = [f"robot=[panda, {shorter}]", "edges.0.robot=panda", "observations.tracking_error=true"]
    config = load_config("smoke", [*both, "policy.hidden=[16]"])
    inputs = Inputs(config)
    assert inputs.embodiments == ("panda", "stump") and inputs.action_dim == 8
    assert inputs.used_dims["stump"].tolist() == [0, 1, 2, 3, 4, 5, 7]
    state = np.arange(7, dtype=np.float32)[None]
    seen = {
        "observation.state": state,
        "observation.tracking_error": state + 1,
        "observation.environment_state": np.ones((1, 6), np.float32),
    }
    shown = inputs.observations("stump", seen, "")
    assert shown["observation.state"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 6]]
    assert shown["observation.tracking_error"].tolist() == [[1, 2, 3, 4, 5, 6, 0, 7]]
    assert shown["embodiment"].tolist() == [[0, 1]]
    wide = np.arange(8, dtype=np.float32)[None, None]
    assert inputs.actions("stump", wide).tolist() == [[[0, 1, 2, 3, 4, 5, 7]]]
    assert np.array_equal(inputs.actions("stump", inputs.padded("stump", state)), state)
    # The policy, asked by either robot, answers in that robot's own terms.
    policy = build_policy(config, inputs)
    noise = policy.noise(1, np.random.default_rng(0))
    actions, chunk = ask(policy, inputs, "stump", seen, "", noise, True)
    assert actions.shape == (1, policy.horizon, 7) and chunk.path.shape[-1] == 8
    assert not chunk.actions[..., 6].any()


def test_statistics_are_by_robot_and_leave_alone_what_a_robot_lacks(shorter: Path) -> None:
    config = load_config(
        "smoke",
        [
            *BOTH,
            f"robot=[panda, {shorter}]",
            "edges.0.robot=panda",
            "observations.tracking_error=true",
            "demonstrations.episodes=2",
            "start.success_band=null",
            "sft.steps=5",
        ],
    )
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    reaching = cells[:3]  # the stump does nothing else
    taught = teach(build_policy(config, inputs), config, reaching, inputs, lambda phase, share: None)
    stats = taught.policy.statistics()
    assert stats["action"].mean.shape == (2, 8)
    assert (stats["action"].mean[1, 6], stats["action"].std[1, 6]) == (0, 1)
    error = stats["observation.tracking_error"]
    assert (error.mean[1, 6], error.std[1, 6]) == (0, 1) and (error.std[0] != 1).all()
    environment = stats["observation.environment_state"]
    assert (environment.mean[1, 6:] == 0).all() and (environment.std[1, 6:] == 1).all()
    assert (environment.std[0, 6:] != 1).all(), "the Panda lifts too"
    assert not np.allclose(stats["observation.state"].mean[0, :6], stats["observation.state"].mean[1, :6])


def test_without_demonstrations_numbers_are_normalised_by_where_random_actions_lead() -> None:
    nothing = ["demonstrations.episodes=0", "start.success_band=null"]
    config = load_config("smoke", nothing)
    cells = cells_of(config)
    inputs = Inputs(config, cells)
    stats = wandered(config, cells, inputs)
    assert stats["action"].mean[:7].tolist() == [0] * 7 and np.allclose(stats["action"].std[:7], 0.1)
    assert stats["action"].mean[7] == pytest.approx(0.04) and stats["action"].std[7] == pytest.approx(0.04)
    assert (stats["observation.state"].std[:7] > 5 * cells[0].task.start_noise).all()
    by_sight = load_config("smoke", [*nothing, "observations={environment_state: false, cameras: [front]}"])
    assert set(wandered(by_sight, cells_of(by_sight), Inputs(by_sight))) == {"action", "observation.state"}
    taught = teach(build_policy(config, inputs), config, cells, inputs, lambda phase, share: None)
    assert (taught.demonstrations, taught.steps, taught.measured) == (0, 0, None)
    assert torch.equal(taught.policy.action.mean, torch.tensor(stats["action"].mean[None]).float())


def test_two_specs_of_one_name_and_a_robot_that_can_not_are_refused(shorter: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other.yaml"
    copy.write_text(shorter.read_text().replace("stump.xml", str(shorter.parent / "stump.xml")))
    with pytest.raises(ConfigError, match="two of the run's specs have the name stump"):
        cells_of(load_config("smoke", [f"robot=[{shorter}, {copy}]", f"edges.0.robot={shorter}"]))


def test_the_contract_holds_the_shapes_of_every_cell(shorter: Path) -> None:
    agreed = contract(load_config("smoke", [*BOTH, f"robot=[panda, {shorter}]", "edges.0.robot=panda"]))
    assert agreed["lift/panda.observation.environment_state"] == [15]
    assert agreed["reach/stump.observation.state"] == [7] and agreed["reach/stump.action_dim"] == 7


def test_a_cell_is_named_by_task_and_embodiment() -> None:
    cell = cells_of(load_config("smoke"))[0]
    assert cell.name == "reach/panda" and dataclasses.is_dataclass(Cell)


def test_demonstrations_of_all_cells_are_weighed_alike() -> None:
    config = load_config("smoke", [*BOTH, "demonstrations.episodes=1"])
    cells = cells_of(config)
    from robotlearn.demonstrations import collect

    shown = [(cell, collect(cell, 1, seed=0)) for cell in cells]
    stats = demonstrated(Inputs(config, cells), shown)
    rows = np.concatenate([each.actions for _, each in shown])
    assert np.allclose(stats["action"].mean, rows.mean(0))
    assert len(shown[1][1].step_instructions()) == len(shown[1][1].actions)
    assert set(shown[1][1].step_instructions()) <= set(cells[1].task.instructions)


def test_a_policy_of_other_sizes_than_the_config_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**options: object) -> FlowMLP:
        return FlowMLP(**options | {"denoising_steps": 2})

    monkeypatch.setattr(registry, "_factories", {"two_steps": make})
    config = load_config("reach").model_copy(update={"policy": OtherPolicyConfig(kind="two_steps")})
    with pytest.raises(ConfigError, match=r"policy.denoising_steps is 1, but a policy of kind 'two_steps' has 2"):
        build_policy(config, Inputs(config))
