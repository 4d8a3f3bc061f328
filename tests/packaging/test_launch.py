"""The launch files of ROS 2, without ROS: what they declare, what they would start, where a wheel puts them.

`launch` comes with a ROS installation alone, so it is left out of their text here; the command lines that they make of
their arguments are started as processes. Where `launch` is, tests/ros/test_launch.py starts the files themselves.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from hal import load_spec
from robotlearn.config.station import StationConfig
from robotlearn.station.file import in_namespace
from robotlearn.version import __version__
from tests.packaging.test_wheel import wheel
from tests.waiting import until

__all__ = ["wheel"]

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PROGRAM = ROOT / "tests" / "commands" / "program.py"


def loaded(name: str) -> dict[str, Any]:
    """What a launch file defines, without what it imports of launch."""
    path = ROOT / "launch" / f"{name}.launch.py"
    tree = ast.parse(path.read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module.startswith("launch"))
    ]
    content: dict[str, Any] = {"__file__": str(path)}
    exec(compile(tree, path, "exec"), content)
    return content


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`robotlearn`, as it is where it is installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    script = tmp_path / "robotlearn"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_imports_launch_and_python_alone(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= {"launch", "launch_ros", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["station", "sim"])
def test_every_argument_is_declared_with_a_default_and_a_description(name: str) -> None:
    declared = loaded(name)["ARGUMENTS"]
    tree = ast.parse((ROOT / "launch" / f"{name}.launch.py").read_text())
    used = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "values"
        and isinstance(node.slice, ast.Constant)
    }
    assert used <= declared.keys() and "station" in declared
    assert all(isinstance(default, str) and text.endswith(".") for default, text in declared.values())
    assert {"sigterm_timeout", "sigkill_timeout"} <= declared.keys()  # launch's own names, of which it takes them


def defaults(name: str, **changes: str) -> dict[str, str]:
    return {key: default for key, (default, _) in loaded(name)["ARGUMENTS"].items()} | changes


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "station.yaml"
    path.write_text(
        "{learner: 'h:1', config: arms, robots: "
        "[{name: left, robot: panda, task: reach}, {name: right, robot: so101, task: reach}]}"
    )
    return str(path)


def test_a_station_is_one_process_per_robot(program: str, file: str) -> None:
    commands = loaded("station")["commands"]
    up = [program, "station", "up", file]
    assert commands(defaults("station", station=file, robotlearn=program)) == {
        "left": [*up, "--only", "left"],
        "right": [*up, "--only", "right"],
    }
    given = defaults("station", station=file, robotlearn=program, only="right", namespace="cell", learner="h:2")
    options = ["--learner", "h:2", "--namespace", "cell"]
    assert commands(given) == {"cell-right": [*up, *options, "--only", "right"]}


def test_what_is_wrong_with_a_station_stops_the_launch_in_one_line(program: str, file: str) -> None:
    with pytest.raises(RuntimeError, match=r"^robotlearn: .*station.yaml: no robot 'lft', nearest is 'left'$"):
        loaded("station")["commands"](defaults("station", station=file, robotlearn=program, only="lft"))


def test_an_emulated_arm_for_each_namespace() -> None:
    emulators: Callable[..., dict[str, list[str]]] = loaded("sim")["emulators"]
    emulate = ["robotlearn", "emulate", "ros2-panda", "--name"]
    assert emulators(defaults("sim")) == {"": [*emulate, "sim"]}
    assert emulators(defaults("sim", namespaces="left, cell/right", cameras="front", view="true")) == {
        "left": [*emulate, "left", "--namespace", "left", "--camera", "front", "--view"],
        "cell/right": [*emulate, "cell-right", "--namespace", "cell/right", "--camera", "front", "--view"],
    }


@pytest.mark.parametrize("namespace", ["", "left"])
def test_the_station_of_the_emulated_arm_is_what_the_emulator_offers(namespace: str) -> None:
    pytest.importorskip("cyclonedds")
    from hal.drivers.dds import DdsTransport
    from hal.emulators.ros_arm import EmulatedRosArm

    arm = EmulatedRosArm(load_spec("panda"), DdsTransport("arm", 7), namespace=namespace)
    try:
        config = StationConfig.model_validate(yaml.safe_load((ROOT / "launch" / "sim.yaml").read_text()))
        (robot,) = config.robots
        assert in_namespace(robot, namespace).options == arm.options and robot.robot == "panda"
    finally:
        arm.close()


@pytest.mark.slow
def test_what_a_launch_starts_ends_cleanly_on_sigint(program: str, file: str, tmp_path: Path) -> None:
    (command,) = loaded("station")["commands"](
        defaults("station", station=file, robotlearn=program, only="left", learner="tcp://127.0.0.1:9")
    ).values()
    said = tmp_path / "said"
    with said.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ) as up:
        try:
            until(lambda: "[left] edge left: works for the learner" in said.read_text(), "the edge")
        finally:
            up.send_signal(signal.SIGINT)
        assert up.wait(40) == 0
    assert "stopping" in said.read_text() and "Traceback" not in said.read_text()


def test_the_package_of_ros_has_our_name_and_version() -> None:
    package = ElementTree.parse(ROOT / "launch" / "package.xml").getroot()
    assert (package.findtext("name"), package.findtext("version")) == ("robotlearn", __version__)


def test_a_wheel_has_them_where_ros2_launch_looks(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    share = f"robotlearn-{__version__}.data/data/share"
    assert f"{share}/ament_index/resource_index/packages/robotlearn" in names
    assert f"{share}/robotlearn/package.xml" in names
    for file in (*FILES, ROOT / "launch" / "sim.yaml"):
        assert f"{share}/robotlearn/launch/{file.name}" in names
