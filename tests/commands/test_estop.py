"""`robotlearn estop`: pressed at real arm processes, which stop or don't; shown; released."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hal.estop import ALL, EStop
from hal.runtime import runtime_folder
from robotlearn import cli
from robotlearn.errors import ConfigError
from robotlearn.robots.latches import Latch, latches
from robotlearn.robots.states import robot_state
from tests.waiting import pause, until


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")


@pytest.fixture
def left() -> Iterator[subprocess.Popen[bytes]]:
    """A simulated arm that is served, and idle."""
    command = [sys.executable, "-m", "robotlearn", "serve", "panda", "--name", "left"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: (state := robot_state("left")) is not None and state.state == "idle", "the arm")
            yield process
        finally:
            process.kill()


def said(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def test_what_runs_is_told_to_have_stopped_and_what_hangs_not(left: subprocess.Popen[bytes]) -> None:
    done = said("estop", "left", "--why", "smoke")
    assert done.exit_code == 0 and done.stdout.startswith("stopped: left\n"), done.output
    (told,) = json.loads(said("robots", "--json").stdout)["running"]
    assert told["state"] == "e-stopped" and told["realtime"] in (True, False)
    assert "real-time" in said("robots").stdout
    assert said("estop", "left", "--clear").exit_code == 0
    until(lambda: robot_state("left").state == "idle", "its release")  # type: ignore[union-attr]
    pause(left.pid)
    done = said("estop")
    assert done.exit_code == 1 and "NOT SEEN TO STOP within 2 s: left: " in done.stdout, done.output
    left.send_signal(signal.SIGCONT)
    assert said("estop").stdout.startswith("stopped: left\n")


def test_a_name_that_none_has_is_latched_and_said() -> None:
    (runtime_folder("robots") / "left").mkdir()
    done = said("estop", "lfet")
    assert done.exit_code == 1 and done.stdout.startswith("NOTHING STOPPED: no robot 'lfet' has run on this machine")
    assert "(did you mean 'left'? " in done.stdout and EStop("lfet").pressed and not EStop("left").pressed
    done = said("estop", "left")
    assert done.exit_code == 1 and done.stdout.startswith("left does not run now\n") and EStop("left").pressed
    done = said("estop")
    assert done.exit_code == 0 and done.stdout.startswith("no robot runs here now\n")


def test_what_is_latched_is_seen_without_any_process() -> None:
    assert said("estop", "--status").exit_code == 0 and json.loads(said("robots", "--json").stdout)["estop"] == []
    EStop("left").press("ann", "smoke")
    done = said("estop", "--status", "left")
    assert done.exit_code == 1 and done.stdout.startswith("e-stop latched for left by ann (smoke), since ")
    assert "robotlearn estop --clear left" in done.stdout
    assert said("estop", "--status", "right").exit_code == 0
    EStop(ALL).press("bob")
    for arguments in (["estop", "--status"], ["robots"]):
        lines = said(*arguments).stdout.splitlines()
        assert lines[0].startswith("e-stop latched for all robots by bob, since ")
        assert lines[1].startswith("e-stop latched for left by ann (smoke), since ")
    assert "for all robots" in said("estop", "--status", "right").stdout
    assert [one["name"] for one in json.loads(said("robots", "--json").stdout)["estop"]] == [ALL, "left"]
    done = said("estop", "--clear", "left")
    assert done.exit_code == 1 and "still pressed: e-stop latched for all robots by bob" in done.stderr
    assert said("estop", "--clear", "--all").exit_code == 0 and latches() == []


def test_latched_is_latched_whatever_the_file_holds() -> None:
    folder = runtime_folder("estop")
    (folder / "a").write_text("{")
    (folder / "b").symlink_to(folder / "gone")
    (folder / f"c.{os.getpid()}.1.new").write_text("")
    assert latches() == [Latch("a"), Latch("b")]
    assert latches("a")[0].line() == "e-stop latched for a; release it with: robotlearn estop --clear a"


@pytest.mark.parametrize(
    "arguments", [["--clear"], ["left", "--all"], ["../x"], ["--status", "--clear", "left"], ["@all"]]
)
def test_what_makes_no_sense(arguments: list[str]) -> None:
    assert isinstance(said("estop", *arguments).exception, ConfigError)
    assert latches() == []


def test_a_served_arm_has_its_button(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "button")
    button = os.open(tmp_path / "button", os.O_RDWR)
    command = [sys.executable, "-m", "robotlearn", "serve", "panda", "--name", "left"]
    command += ["--estop", f"evdev.device={tmp_path / 'button'}", "--estop", "evdev.key=KEY_SPACE"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: (state := robot_state("left")) is not None and state.state == "idle", "the arm")
            os.write(button, struct.pack("llHHi", 0, 0, 1, 57, 1))  # input_event of linux/input.h: KEY_SPACE down
            until(lambda: EStop("left").pressed, "the e-stop")
            assert "the hardware e-stop: button" in EStop("left").reason()
        finally:
            process.kill()
            os.close(button)
    refused = said("serve", "panda", "--estop", "evdev.key=KEY_SPACE")
    assert refused.exit_code != 0 and "--estop" in str(refused.exception)
