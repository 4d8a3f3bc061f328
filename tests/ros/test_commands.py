"""The command line where rclpy is, as a user types it: emulated arms, scans with and without rclpy, comings, goings."""

import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hal.joint_topics import JointTopics
from hal.spec import load_spec
from robotlearn.station.file import StationFile
from tests.waiting import until

ROOT = Path(__file__).parents[2]
HERE = [str(Path(sys.executable).with_name("robotlearn"))]
"""`robotlearn` of the environment with rclpy."""
THERE = [str(ROOT / ".venv" / "bin" / "python"), "-m", "robotlearn"]
"""That of the one without."""
SET_BY_ROS = ("LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
BOTH = pytest.mark.parametrize("program", [HERE, THERE], ids=["rclpy", "cyclonedds"])
SECONDS = 200.0  # in which a process imports and answers on any machine, however busy


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SET_BY_ROS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(102)))


class Running:
    """A command that goes on, and its lines."""

    def __init__(self, command: list[str], **env: str) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def line(self) -> str:
        return self._lines.get(timeout=SECONDS)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit status and what it wrote on stderr."""
        self.process.send_signal(number)
        self._thread.join(SECONDS)
        assert self.process.stderr is not None and self.process.stdout is not None
        said = self.process.stderr.read()
        self.process.stderr.close()
        self.process.stdout.close()
        return self.process.wait(SECONDS), said

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))


@contextmanager
def running(command: list[str], **env: str) -> Iterator[Running]:
    one = Running(command, **env)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def done(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def need(program: list[str]) -> None:
    if not Path(program[0]).exists():
        pytest.skip(f"no {program[0]}: make venv, or scripts/setup_ros.sh, makes it")


def test_an_emulated_arm_is_a_node_until_ctrl_c() -> None:
    with running([*HERE, "emulate", "ros2-panda", "--namespace", "left"]) as arm:
        assert arm.line() == "/left/joint_states"
        driver, options = re.fullmatch(r"driver: (\w+), options: (\{.*\})", arm.line()).groups()  # type: ignore[union-attr]
        assert driver == "ros2" and json.loads(options)["joint_states"] == "/left/joint_states"
        topics = JointTopics()
        try:
            names = set(load_spec("panda").names)
            until(lambda: {"/left/joint_states": names} == {one.name: {*one.joints} for one in topics.heard()}, "it")
            assert arm.end() == (0, "")
            until(lambda: not topics.heard(), "its end")
        finally:
            topics.close()


def test_a_name_is_free_again_after_a_kill() -> None:
    command = [*HERE, "emulate", "ros2-panda"]
    with running(command) as first:
        assert first.line() == "/joint_states"
        second = done(command)
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr.splitlines() == [
            "robotlearn: an emulator named 'ros2-panda' runs already: end it, or choose another --name"
        ]
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
        with running(command) as third:
            assert third.line() == "/joint_states"
            assert third.end(signal.SIGTERM) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--namespace", "1 left"], "robotlearn: '1 left' can't be a ROS namespace: "),
        (["--camera", "frnt"], "robotlearn: panda: the spec has no camera 'frnt': did you mean 'front'?"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    refused = done([*HERE, "emulate", "ros2-panda", *arguments])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(said) and refused.stderr.count("\n") == 1


def test_without_rclpy_it_is_one_line_that_says_what_to_source() -> None:
    need(THERE)
    refused = done([*THERE, "emulate", "ros2-panda"])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("robotlearn: the driver 'ros2' needs rclpy (No module named 'rclpy'): source /opt")
    assert refused.stderr.count("\n") == 1


@pytest.mark.timeout(600)
def test_a_scan_finds_everything_with_rclpy_and_without_and_a_station_is_written_of_it(tmp_path: Path) -> None:
    """Two arms behind topics that are another user's, and three emulators of this one, in both environments."""
    need(THERE)
    others = {"ROBOTLEARN_RUNTIME_DIR": str(tmp_path / "others")}
    with (
        running([*HERE, "emulate", "ros2-panda", "--namespace", "left"], **others) as left,
        running([*THERE, "emulate", "dds-ur5e", "--namespace", "right"], **others) as right,
        running([*HERE, "emulate", "so101", "--name", "one"]) as one,
        running([*THERE, "emulate", "so101", "--name", "two"]) as two,
        running([*HERE, "emulate", "ros2-panda", "--name", "own"]) as own,
    ):
        for each in (left, right, one, two, own):
            each.line()
        assert station_of(HERE, "ros2", tmp_path) == {
            # LeRobot is not where rclpy is
            "wrong: so101: the driver 'lerobot' can't be loaded (No module named 'draccus'): "
            "pip install 'robotlearn[lerobot]'"
        }
        assert station_of(THERE, "dds", tmp_path) == {"attached: "}


def station_of(program: list[str], driver: str, folder: Path) -> set[str]:
    """Scan and write, check what was found and written; what `station check` says of the two SO-101."""
    file, port = folder / f"{driver}.yaml", str(folder / "runtime" / "emulators" / "{}" / "port")
    written = done([*program, "robots", "--scan", "--write", str(file), "--json"])
    assert written.returncode == 0, written.stderr
    found = json.loads(written.stdout)["found"]
    wanted: dict[str, Any] = {
        "/left/joint_states": ("topics", "panda", driver),
        "/right/joint_states": ("topics", "ur5e", driver),
        port.format("one"): ("emulator", "so101", "lerobot"),
        port.format("two"): ("emulator", "so101", "lerobot"),
        "/joint_states": ("emulator", "panda", driver),
    }
    arms = [one for one in found if one["kind"] in ("topics", "emulator")]
    assert {one["where"]: (one["kind"], one["spec"], one["driver"]) for one in arms} == wanted and len(arms) == 5
    assert {one["spec"] for one in found if one["kind"] == "simulator"} == {"panda", "so101", "ur5e"}

    robots = {robot.name: robot for robot in StationFile(file).config.robots}
    assert {name: (robot.robot, robot.driver) for name, robot in robots.items()} == {
        "left": ("panda", driver), "right": ("ur5e", driver), "one": ("so101", "lerobot"), "two": ("so101", "lerobot"),
        "own": ("panda", driver),
    }  # fmt: skip
    for name in ("left", "right"):
        assert robots[name].options["joint_states"] == f"/{name}/joint_states"
        assert robots[name].options["command"] == f"/{name}/joint_trajectory_controller/joint_trajectory"

    checked = done([*program, "station", "check", str(file), "--json"])
    said = {one["name"]: f"{one['state']}: {one['said']}" for one in json.loads(checked.stdout)["robots"]}
    assert {said.pop(name) for name in ("left", "right", "own")} == {"attached: "}
    assert checked.returncode == (2 if "wrong" in "".join(said.values()) else 0), checked.stderr
    return set(said.values())


@pytest.mark.timeout(600)
@BOTH
def test_a_watch_tells_of_an_arm_that_comes_is_killed_comes_again_and_ends(program: list[str], tmp_path: Path) -> None:
    need(program)
    command = [*HERE, "emulate", "ros2-panda", "--namespace", "left"]
    other = {"ROBOTLEARN_RUNTIME_DIR": str(tmp_path / "other")}
    with running([*program, "robots", "--watch", "--json"]) as watch:

        def next_of_it() -> tuple[str, str]:
            while (event := json.loads(watch.line()))["kind"] == "simulator":
                pass
            return event["event"], event["where"]

        for number in (signal.SIGKILL, signal.SIGINT):
            with running(command, **other) as arm:
                assert next_of_it() == ("came", "/left/joint_states")
                arm.end(number)
                assert next_of_it() == ("went", "/left/joint_states")
        assert watch.end() == (0, "")
