"""Recorded demonstrations that a run can't be taught from are refused before a run's folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from envs import ArmEnv, EnvOptions, make_task
from envs.scene import build_scene
from hal import load_spec, make_robot
from robotlearn import cli
from robotlearn.cells import Cell
from robotlearn.config import load_config
from robotlearn.demonstrations_check import check_demonstrations
from robotlearn.errors import ConfigError
from robotlearn.people.recording import Recording, Shape
from tests.people.test_recording import show

RUN = ["robot=so101", "task=reach"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of the SO-101, one of them a success; in `failed` there is none."""
    spec = load_spec("so101")
    cell = Cell(spec, make_task("reach", spec))
    env = ArmEnv(make_robot(spec, scene=build_scene(spec, cell.task)), cell.task, EnvOptions())
    env.reset(seed=3)
    path = tmp_path_factory.mktemp("demonstrations")
    for name in ("good", "failed"):
        with Recording(path / name, cell, EnvOptions(), Shape(1, 1, 6)) as recording:
            show(recording, env, fail=name == "failed")
            recording.keep()
    env.close()
    return path


def test_what_a_run_can_be_taught_from(folder: Path) -> None:
    check_demonstrations(load_config("smoke", [*RUN, f"demonstrations.path={folder / 'good'}"]))
    check_demonstrations(load_config("smoke"))


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("none", RUN, "none is no folder of demonstrations"),
        ("good", ["robot=panda", "task=reach"], "holds demonstrations of so101, the run is for panda"),
        ("good", [*RUN, "observations.cameras=[front]"], "the run observes observation.images.front [64, 64, 3]"),
        ("failed", RUN, "failed holds no successful demonstration"),
    ],
    ids=["no_folder", "another_robot", "no_images", "no_success"],
)
def test_what_it_can_not_be_taught_from(folder: Path, name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_demonstrations(load_config("smoke", [*overrides, f"demonstrations.path={folder / name}"]))
    assert str(error.value).startswith("demonstrations.path: ") and said in str(error.value)


@pytest.mark.parametrize("command", ["train", "learner"])
def test_nothing_is_made(command: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        arguments = [command, "smoke", "--run", str(run), f"demonstrations.path={tmp_path / 'nowhere'}"]
        error = CliRunner().invoke(cli.app, arguments).exception
        assert isinstance(error, ConfigError) and "nowhere is no folder of demonstrations" in str(error)
        assert not run.exists()
