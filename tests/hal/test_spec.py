"""Specs: the Panda's, and every way in which one can be wrong."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import hal

Content = dict[str, Any]


@pytest.fixture
def panda_file(tmp_path: Path) -> Path:
    for name in ("panda.yaml", "panda/panda.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(hal.data_path("hardware_specs", name), tmp_path / name)
    return tmp_path / "panda.yaml"


def test_panda() -> None:
    spec = hal.load_spec("panda")
    assert spec.names == ("joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "joint7", "gripper")
    assert (spec.dim, spec.dt, spec.embodiment) == (8, 0.1, "panda")
    # Franka FCI documentation, "Limits for Panda".
    assert spec.upper.tolist() == [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, 0.08]
    assert spec.lower.tolist() == [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, 0.0]
    assert spec.velocity.tolist() == [2.175] * 4 + [2.61] * 3 + [0.1]
    assert spec.acceleration.tolist()[:7] == [15, 7.5, 10, 12.5, 15, 20, 20]
    assert [joint.effort for joint in spec.joints] == [87] * 4 + [12] * 3
    assert spec.mujoco is not None
    assert spec.mujoco.mjcf.is_absolute()


def test_vectors_are_read_only() -> None:
    spec = hal.load_spec("panda")
    with pytest.raises(ValueError, match="read-only"):
        spec.upper[0] = 100.0
    assert spec.upper.dtype == np.float64


def test_a_path_gives_the_same_spec_as_the_name(panda_file: Path) -> None:
    assert np.array_equal(hal.load_spec(panda_file).upper, hal.load_spec("panda").upper)


def test_page_has_its_headings() -> None:
    text = hal.data_path("hardware_specs", "panda.yaml").read_text()
    places = [
        text.index(f"\n# {heading}\n")
        for heading in (
            "Joints",
            "Actions",
            "Observations",
            "Cameras",
            "Rates",
            "Stop behaviour",
            "Sources",
            "History",
        )
    ]
    assert places == sorted(places)


def _set(*path: Any, to: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


FAULTS = {
    "wrong key": (_set("contrl_hz", to=5), "unknown key 'contrl_hz': did you mean 'control_hz'"),
    "wrong key inside": (
        _set("joints", 1, "veloctiy", to=5),
        "unknown key 'joints.1.veloctiy': did you mean 'velocity'",
    ),
    "missing key": (_drop("joints", 0, "effort"), "missing key 'joints.0.effort'"),
    "wrong type": (_set("joints", 2, "upper", to="far"), "joints.2.upper = 'far': input should be a valid number"),
    "yes for a number": (_set("watchdog_s", to=True), "watchdog_s = True: input should be a valid number"),
    "a number for a block": (_set("gripper", to=5), "gripper = 5: input should be an object"),
    "no joints": (_set("joints", to=[]), "joints = \\[\\]"),
    "lower above upper": (_set("joints", 0, "lower", to=3.0), "joints.0: lower \\(3.0\\) must be below upper"),
    "home outside": (_set("gripper", "home", to=0.5), "gripper: home \\(0.5\\) must lie within"),
    "negative velocity": (_set("joints", 0, "velocity", to=-1), "joints.0.velocity = -1: .* greater than 0"),
    "not a number": (_set("joints", 0, "velocity", to=float("nan")), "joints.0.velocity = nan"),
    "infinite": (_set("workspace", "upper", to=[float("inf"), 1, 1]), "workspace.upper.0 = inf"),
    "workspace inverted": (_set("workspace", "lower", to=[0.2, 0.7, 0.0]), "workspace: lower .* along y"),
    "workspace short": (_set("workspace", "lower", to=[0.2, 0.7]), "workspace.lower"),
    "name twice": (_set("joints", 1, "name", to="joint1"), "the name 'joint1' is used twice"),
    "gripper named as a joint": (_set("gripper", "name", to="joint1"), "'joint1' is also a joint's"),
    "no MJCF": (_set("mujoco", "mjcf", to="panda/pandas.xml"), "mujoco.mjcf = 'panda/pandas.xml': there is no file"),
    "no block mujoco": (_drop("mujoco"), "driver 'mujoco' needs the block 'mujoco'"),
    "too few names": (_set("mujoco", "joints", to=["joint1"]), "mujoco.joints must have one name per joint: 7, not 1"),
    "gripper without joints": (_drop("mujoco", "gripper_joints"), "mujoco.gripper_joints must be given exactly when"),
    "hasty watchdog": (_set("watchdog_s", to=0.01), "watchdog_s \\(0.01\\) must be at least one control period"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str, panda_file: Path) -> None:
    change, message = FAULTS[fault]
    content = yaml.safe_load(panda_file.read_text())
    good = copy.deepcopy(content)
    change(content)
    assert content != good
    panda_file.write_text(yaml.safe_dump(content))
    with pytest.raises(hal.SpecError, match=message) as caught:
        hal.load_spec(panda_file)
    assert str(panda_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_limit_that_stands_twice_is_refused_and_numbers_are_read_as_they_look(panda_file: Path) -> None:
    text = panda_file.read_text()
    panda_file.write_text(text.replace("watchdog_s: 0.5", "watchdog_s: 5e-1"))
    assert hal.load_spec(panda_file).watchdog_s == 0.5
    panda_file.write_text(text.replace("watchdog_s: 0.5", "watchdog_s: 0.5\nwatchdog_s: 50"))
    with pytest.raises(hal.SpecError, match=r"panda\.yaml:\d+: watchdog_s: stands twice"):
        hal.load_spec(panda_file)
    panda_file.write_text(text.replace("watchdog_s: 0.5", "watchdog_s: &a [*a]"))
    with pytest.raises(hal.SpecError, match="contains itself"):
        hal.load_spec(panda_file)


@pytest.mark.parametrize("text", ["- a list\n", "joints: [1, 2\n", "", "\x00"])
def test_what_is_no_mapping_is_refused_in_one_line(text: str, panda_file: Path) -> None:
    panda_file.write_text(text)
    with pytest.raises(hal.SpecError) as caught:
        hal.load_spec(panda_file)
    assert str(panda_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(hal.SpecError, match="unknown robot model 'pnada': did you mean 'panda'"):
        hal.load_spec("pnada")
    with pytest.raises(hal.SpecError, match="there is no such spec file"):
        hal.load_spec(tmp_path / "none.yaml")


def test_data_folders() -> None:
    assert hal.data_path("hardware_specs", "panda.yaml").is_file()
    with pytest.raises(hal.HalError, match="must be one of hardware_specs"):
        hal.data_path("secrets")


def test_equal_specs_are_equal_after_use_and_a_changed_copy_works_its_vectors_out_anew() -> None:
    one, other = hal.load_spec("so101"), hal.load_spec("so101")
    assert one.home.shape == (6,)
    assert one == other and hash(one) == hash(other) and one != hal.load_spec("panda")
    changed = one.model_copy(update={"control_hz": 20.0})
    assert changed != one and changed.dt == 0.05 and one.dt == 0.1
