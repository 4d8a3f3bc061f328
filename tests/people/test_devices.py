"""`robotlearn teleop` and `record` whole: a gamepad, a button as e-stop, a window; the arms are simulated."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hal.estop import EStop
from robotlearn.people.demonstrated import episodes
from robotlearn.processes import Child
from robotlearn.robots.states import robot_state
from tests.people.test_record import RECORD
from tests.people.typing_person import Typist
from tests.waiting import until

Start = Callable[..., Typist]
pytestmark = pytest.mark.slow
BUTTON, AXIS = 1, 2
SPACE = 57


class Node:
    """A named pipe in place of a file in /dev/input: what is read from it is the kernel's own format."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDWR)

    def pad(self, kind: int, number: int, value: int) -> None:
        os.write(self._fd, struct.pack("IhBB", 0, value, kind, number))

    def click(self, number: int) -> None:
        self.pad(BUTTON, number, 1)
        self.pad(BUTTON, number, 0)

    def key(self, code: int, value: int) -> None:
        os.write(self._fd, struct.pack("llHHi", 0, 0, 1, code, value))

    def pull_out(self) -> None:
        os.close(self._fd)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def test_a_gamepad_drives_stops_and_is_pulled_out(typist: Start, runtime: Path, node: Node) -> None:
    at = typist("teleop", "so101", "--device", "gamepad", "--device-option", f"path={node.path}", "--speed", "0.5")
    at.sees("waits for you")
    x, z = at.number("tool "), at.numbers("tool ")[2]
    node.pad(AXIS, 1, -32767)
    node.pad(AXIS, 4, -32767)
    at.stays("waits for you")
    assert at.number("tool ") == pytest.approx(x, abs=0.005)  # the shoulder button isn't held
    node.pad(BUTTON, 5, 1)
    at.until(lambda: at.number("tool ") > x + 0.02 and at.numbers("tool ")[2] > z + 0.01, "the tool to go forth and up")
    node.pad(AXIS, 4, 0)
    node.pad(AXIS, 1, 0)
    width = at.number("gripper ")
    node.pad(AXIS, 5, 32767)
    at.until(lambda: at.number("gripper ") < width - 10, "the gripper to close")
    node.click(1)
    at.sees("e-stop by gamepad: type CLEAR")
    assert EStop("so101").pressed
    mark = len(at.screen)
    at.press("CLEAR")  # the keys of the terminal go with every device
    at.sees("let go", mark)
    width = at.number("gripper ")
    at.stays("let go |")
    assert at.number("gripper ") == pytest.approx(width, abs=2)
    node.pad(BUTTON, 5, 0)
    at.sees("waits for you", mark)
    node.pad(BUTTON, 5, 1)
    at.until(lambda: at.number("gripper ") < width - 2, "the gripper to go on")
    node.pull_out()
    at.sees(f"robotlearn: gamepad {node.path} is gone")
    assert at.ends() == 2 and at.mode == at.before and "Traceback" not in at.screen


def test_a_gamepad_records_and_marks(typist: Start, tmp_path: Path, node: Node) -> None:
    out = tmp_path / "demo"
    at = typist(
        *[*RECORD, "--episodes", "1", "--out", str(out), "--reset", "key"],
        *["--device", "gamepad", "--device-option", f"path={node.path}"],
    )
    marks = ((6, "discarded: once more"), (2, "steps: failure"), (3, "successes 1, failures 1, discarded 1"))
    for button, said in marks:
        mark = len(at.screen)
        at.sees("set the scene up, then press button 7", mark)
        node.click(7)
        at.sees("move to begin", mark)
        node.pad(AXIS, 0, 32767)
        node.pad(BUTTON, 5, 1)
        at.until(lambda mark=mark: "records" in at.screen[mark:] and at.number("step ") >= 3, "three steps")
        node.click(button)
        at.sees(said, mark)
        node.pad(AXIS, 0, 0)
        node.pad(BUTTON, 5, 0)
    assert at.ends() == 0
    failure, success = episodes(out)
    assert (failure.success, success.success) == (False, True)
    for episode in (failure, success):
        tool = episode.observations["observation.environment_state"][:, :3]
        assert tool[-1, 1] < tool[0, 1] - 0.005  # to the right


def test_a_button_is_an_estop_that_cannot_be_cleared_while_it_is_pressed(
    typist: Start, runtime: Path, node: Node
) -> None:
    at = typist("teleop", "so101", "--estop", f"evdev.device={node.path}", "--estop", "evdev.key=KEY_SPACE")
    at.sees("waits for you")
    x = at.number("tool ")
    at.hold("w", lambda: at.number("tool ") > x + 0.01, "the tool to go forth")
    node.key(SPACE, 1)
    at.sees("e-stop by the hardware e-stop: button: type CLEAR")
    x = at.number("tool ")
    for _ in range(2):
        mark = len(at.screen)
        at.press("CLEAR")
        at.sees("type CLEAR", mark)
        at.stays("E-STOP |")
    assert EStop("so101").pressed and at.number("tool ") == pytest.approx(x, abs=0.01)
    node.key(SPACE, 0)
    mark = len(at.screen)
    at.press("CLEAR")
    at.sees("e-stop cleared", mark)
    at.hold("s", lambda: at.number("tool ") < x - 0.01, "the tool to come back")
    node.pull_out()
    at.sees("e-stop by the hardware e-stop: its input is gone")
    at.press("q")
    assert at.ends() == 0


def test_a_button_stops_the_arm_of_an_edge(runtime: Path, tmp_path: Path, node: Node) -> None:
    edge = f"edges=[{{name: left, kind: paced, estop: {{evdev: {{device: {node.path}, key: KEY_SPACE}}}}}}]"
    nobody = [f"ipc://{tmp_path}/{name}" for name in ("server", "station")]
    arguments = ["arm", "smoke", "robot=so101", "task=reach", edge, "--edge", "left"]
    arm = Child("arm", [*arguments, "--server", nobody[0], "--station", nobody[1]], tmp_path / "log")
    try:
        until(lambda: (state := robot_state("left")) is not None and state.state == "idle", "the arm", 60)
        node.key(SPACE, 1)
        until(lambda: (state := robot_state("left")) is not None and state.state == "e-stopped", "the e-stop")
        assert EStop("left").reason() == "e-stop by the hardware e-stop: button"
        arm.terminate()
        arm.wait(30)
        assert arm.status == 0 and EStop("left").pressed  # it outlives the arm's process
    finally:
        arm.kill()


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A display, and the file that its picture is in: after the header of an XWD file."""
    if not shutil.which("Xvfb"):
        pytest.skip("no Xvfb here (apt install xvfb): no real window to open")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-fbdir", str(tmp_path)]
    server = subprocess.Popen(command, pass_fds=(writing,), stderr=subprocess.DEVNULL)
    os.close(writing)
    yield f":{os.read(reading, 16).decode().strip()}", tmp_path / "Xvfb_screen0"
    os.close(reading)
    server.terminate()
    server.wait()


def picture(file: Path) -> np.ndarray:
    return np.frombuffer(file.read_bytes()[-800 * 600 * 4 :], np.uint8).reshape(600, 800, 4)[..., 2::-1]


@pytest.mark.parametrize("command", ["teleop", "record"])
def test_the_window_shows_the_arm(typist: Start, tmp_path: Path, screen: tuple[str, Path], command: str) -> None:
    display, file = screen
    robot = ["so101"] if command == "teleop" else ["--robot", "so101", "--task", "reach", "--out", str(tmp_path / "o")]
    empty = picture(file)
    at = typist(command, *robot, "--view", "--speed", "0.5", display=display)
    at.sees("waits for you" if command == "teleop" else "move to begin")
    at.until(lambda: len(np.unique(picture(file).reshape(-1, 3), axis=0)) > 100, "a picture")
    before = picture(file)
    assert not np.array_equal(before, empty)
    at.hold("w", lambda: np.mean(picture(file) != before) > 0.002, "the arm to move in it")
    at.press("q")
    assert at.ends() == 0 and at.mode == at.before and "Traceback" not in at.screen


def test_without_a_display_the_window_is_one_clear_line(typist: Start, tmp_path: Path) -> None:
    at = typist("record", "--robot", "so101", "--task", "reach", "--out", str(tmp_path / "o"), "--view")
    assert at.ends() == 2
    at.until(lambda: "so no window can be opened" in at.screen, "why")
    assert at.screen.strip().count("\n") == 0 and at.screen.startswith("robotlearn: no display here")
