"""From a run folder or a checkpoint to a policy, and to no robot that it is not for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hal import load_spec
from robotlearn import checkpoint
from robotlearn.checkpoint import Checkpoint
from robotlearn.config import dump, load_config
from robotlearn.config.edge import PacedEdgeConfig
from robotlearn.contract import contract
from robotlearn.errors import ConfigError
from robotlearn.inputs import Inputs
from robotlearn.policy import build_policy
from robotlearn.run_folder import RunFolder
from robotlearn.saved_policy import find_policy, find_policy_for
from tests.fakes import write_spec


def write_panda(path: Path, **changes: Any) -> Path:
    return write_spec(path, load_spec("panda"), **changes)


def make_run(
    path: Path, robot: str = "panda", versions: tuple[int, ...] = (3, 12), overrides: Sequence[str] = ()
) -> RunFolder:
    config = load_config("smoke", ["policy.hidden=[8]", f"robot={robot}", *overrides])
    folder = RunFolder.create(path, dump(config), "id")
    for version in versions:
        state = build_policy(config.model_copy(update={"seed": version}), Inputs(config)).state_dict()
        checkpoint.save(Checkpoint(version, state, contract=dict(contract(config))), folder.checkpoints)
    return folder


def test_a_run_is_its_newest_checkpoint_and_a_checkpoint_is_itself(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for path, version in ((folder.path, 12), (folder.checkpoints / "000003", 3)):
        saved = find_policy(path)
        assert saved.version == version and saved.checkpoint.name == f"{version:06d}"
        expected = build_policy(saved.config.model_copy(update={"seed": version}), Inputs(saved.config))
        for key, value in saved.load().state_dict().items():
            assert torch.equal(value, expected.state_dict()[key]), key


def test_the_robot_may_be_another_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")
    write_panda(tmp_path / "mine.yaml", maker="somebody", watchdog_s=0.3)
    monkeypatch.chdir(tmp_path)
    saved = find_policy_for(folder.path, "mine.yaml", None)
    assert saved.arm.spec.watchdog_s == 0.3 and saved.config.robot == (str(tmp_path / "mine.yaml"),)
    assert saved.load().action_dim == 8


PANDA = load_spec("panda").model_dump(mode="json")
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "another embodiment": ({"name": "other"}, "it is for panda"),
    "no gripper": (
        {"gripper": None, "mujoco": PANDA["mujoco"] | {"gripper_joints": [], "gripper_actuators": []}},
        "joints is ('joint1'",
    ),
    "joints of other names": (
        {"joints": [joint | {"name": f"axis{i}"} for i, joint in enumerate(PANDA["joints"])]},
        "joints is ('joint1', 'joint2'",
    ),
    "another rate": ({"control_hz": 20.0, "driver_hz": None}, "control_hz is 10.0 there and 20.0 here"),
}


@pytest.mark.parametrize("misfit", MISFITS, ids=lambda name: name.replace(" ", "_"))
def test_a_robot_that_does_not_fit_is_refused_by_name(tmp_path: Path, misfit: str) -> None:
    changes, expected = MISFITS[misfit]
    folder = make_run(tmp_path / "run")
    path = write_panda(tmp_path / "robot.yaml", **changes)
    with pytest.raises(ConfigError) as error:
        find_policy_for(folder.path, str(path), None)
    assert f"robot {path} does not fit the policy" in str(error.value) and expected in str(error.value)


def test_a_run_from_elsewhere_drives_a_robot_that_is_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = write_panda(tmp_path / "theirs.yaml")
    folder = make_run(tmp_path / "run", robot=str(theirs))
    theirs.unlink()
    assert find_policy_for(folder.path, "panda", None).version == 12
    assert "theirs.yaml is not on this machine" in caplog.text
    with pytest.raises(ConfigError, match="it is for panda"):
        find_policy_for(folder.path, str(write_panda(tmp_path / "robot.yaml", name="other")), None)


def test_it_is_found_without_torch(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    code = (
        "import sys, pathlib; from robotlearn.saved_policy import find_policy; "
        f"print(find_policy(pathlib.Path({str(folder.path)!r})).version, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12", "False"]


def test_of_several_tasks_one_is_chosen(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", overrides=["task=[reach, lift]", "observations.instruction=true", "edges.0.task=reach"]
    )
    with pytest.raises(ConfigError, match="several tasks; choose with --task one of reach, lift"):
        find_policy_for(folder.path, None, None)
    with pytest.raises(ConfigError, match="not taught the task 'stack', but reach, lift"):
        find_policy_for(folder.path, None, "stack")
    saved = find_policy_for(folder.path, None, "lift")
    assert saved.arm.name == "lift/panda" and saved.config.task == ("reach", "lift")
    assert find_policy(folder.path).load().features == saved.load().features


def test_the_next_chunk_is_asked_for_as_early_as_in_training_or_as_told(tmp_path: Path) -> None:
    lockstep = make_run(tmp_path / "lockstep", overrides=['edges=[{"name": "arms", "kind": "batch"}]'])
    arm = '[{"name": "arm", "kind": "paced", "execution": {"ahead": 1}}]'
    paced = make_run(tmp_path / "paced", overrides=[f"edges={arm}"])

    def ahead(folder: RunFolder, *asked: int) -> int:
        (edge,) = find_policy_for(folder.path, None, None, *asked).config.edges
        assert isinstance(edge, PacedEdgeConfig)
        return edge.execution.ahead

    assert (ahead(lockstep), ahead(lockstep, 2), ahead(paced), ahead(paced, 0)) == (0, 2, 1, 0)
    with pytest.raises(ConfigError, match=r"^--ahead 4: expected less than the policy's horizon \(4\)"):
        ahead(lockstep, 4)


def test_what_the_arm_does_meanwhile_is_that_of_training_or_as_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "lockstep", overrides=['edges=[{"name": "arms", "kind": "batch"}]'])

    def execution(way: str | None, ahead: int | None = None) -> tuple[str, int]:
        (edge,) = find_policy_for(folder.path, None, None, ahead, way).config.edges
        assert isinstance(edge, PacedEdgeConfig) and not edge.explore
        return edge.execution.way, edge.execution.ahead

    assert execution(None) == ("hold", 0)
    assert execution("rtc") == ("rtc", 2), "half of a chunk of four"
    assert execution("vlash", 3) == ("vlash", 3)
    assert execution("wait")[0] == "wait"
    with pytest.raises(ConfigError, match=r"^edges\.0\.execution\.way: 'prefix' is not valid with this policy"):
        execution("prefix")
    with pytest.raises(ConfigError, match="--way jump: expected one of wait, hold, overlap"):
        execution("jump")
