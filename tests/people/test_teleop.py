"""`robotlearn teleop` as a child on a pseudo-terminal, whose keys are pressed, with a simulated arm by the clock."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hal import Command
from hal.errors import HalError, OwnershipError
from hal.estop import EStop
from hal.lease import Leases
from hal.ownership import Ownership, owner_of
from robotlearn.commands.teleop import teleop
from robotlearn.errors import RobotlearnError
from robotlearn.people.taken import Taken
from tests.arms import RecordingArm, fast_spec
from tests.people.typing_person import ROOT, Typist
from tests.waiting import until

Start = Callable[..., Typist]


def test_keys_drive_the_arm_space_stops_it_and_only_the_word_lets_it_go_on(typist: Start, runtime: Path) -> None:
    at = typist("teleop", "so101", "--name", "left", "--speed", "0.5")
    at.sees("waits for you")
    x = at.number("tool ")
    at.hold("w", lambda: at.number("tool ") > x + 0.02, "the tool to go forth")
    width = at.number("gripper ")
    at.hold("c", lambda: at.number("gripper ") < width - 10, "the gripper to close")
    at.press(" ")
    at.sees("e-stop by keyboard: type CLEAR")
    assert EStop("left").pressed
    mark = len(at.screen)
    x = at.number("tool ")
    at.press("ssssss\r")  # neither motion keys nor Enter do anything now
    until(lambda: at.screen[mark:].count("E-STOP |") >= 5, "five status lines")
    assert abs(at.number("tool ") - x) < 0.01
    at.press("CLEAR")
    at.sees("e-stop cleared", mark)
    until(lambda: not EStop("left").pressed, "the e-stop to be cleared")
    at.sees("waits for you", mark)
    x = at.number("tool ")
    at.hold("s", lambda: at.number("tool ") < x - 0.02, "the tool to come back")
    at.press("q")
    assert at.ends() == 0
    assert at.mode == at.before
    assert "Traceback" not in at.screen


def test_an_estop_from_elsewhere_is_told_and_ctrl_c_ends_it_well(typist: Start, runtime: Path) -> None:
    at = typist("teleop", "so101", "--name", "left")
    at.sees("waits for you")
    with pytest.raises(OwnershipError, match=f"belongs to process {at.process.pid}"), Ownership("left"):
        pass
    EStop("left").press("the station", "a button")
    at.sees("e-stop by the station: a button: type CLEAR")
    at.press("\x03")
    assert at.ends() == 0
    assert at.mode == at.before
    with Ownership("left"):
        pass


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_the_terminal_is_given_back_however_it_ends(typist: Start, how: signal.Signals) -> None:
    at = typist("teleop", "so101")
    at.sees("waits for you")
    assert at.mode != at.before
    at.signal(how)
    assert at.ends() == (-9 if how == signal.SIGKILL else 0)
    until(lambda: at.mode == at.before, "the terminal's old mode")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what the commands change of this process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["so101"], "standard input is no terminal"),
        (["so101", "--view"], "no display here"),
        (["so101", "--device", "joystick"], "unknown device 'joystick'"),
        (["so101", "--device", "leader"], "--leader TYPE"),
        (["so101", "--leader", "so101_leader"], "not for keyboard"),
        (["so101", "--option", "port"], "--option 'port': expected key=value, such as port=/dev/ttyACM0"),
        (["so101", "--device-option", "=x"], "such as path=/dev/input/js1"),
        (["so101", "--estop", "evdev=3"], "--estop: evdev: 3 is not valid"),
        (["so101", "--estop", "serial.port=/dev/x", "--estop", "serial.line=rts"], "--estop: serial.line"),
        (["so101", "--device-option", "color=red"], "keyboard, called with the options"),
        (["so101", "--option", "port=/dev/ttyACM0"], "; such options are for lerobot: --driver lerobot"),
        (["so102"], "did you mean 'so101'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said(
    runtime: Path, handlers: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    app = typer.Typer()
    app.command()(teleop)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, RobotlearnError | HalError) and why in str(error)
    assert owner_of("so101") is None


def test_for_its_user_that_is_one_line(runtime: Path) -> None:
    command = [sys.executable, "-m", "robotlearn", "teleop", "so101"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("robotlearn: keyboard: standard input is no terminal")


def test_an_arm_that_takes_longer_to_connect_than_a_lease_lasts_can_be_moved(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(RecordingArm):
        def connect(self) -> None:
            held = Leases(runtime / "robots/so101/token").holder
            assert held is None, "the lease would run out meanwhile"
            super().connect()

    with Taken(Slow(fast_spec()), holder="teleop") as taken:
        taken.loop.write(Command(taken.loop.read().position))
