"""`robotlearn robots --scan`: what is attached, what comes and goes, a station's file of it; as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from hal.emulators.presence import Presence
from hal.errors import OwnershipError
from hal.ownership import Ownership
from hal.runtime import runtime_folder, write_json
from robotlearn.commands.robots import robots
from robotlearn.errors import ConfigError
from robotlearn.robots.scan import served, watch_scan
from robotlearn.robots.states import robot_states
from robotlearn.station.file import StationFile
from tests.waiting import until

PROGRAM = [sys.executable, str(Path(__file__).with_name("program.py"))]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 102)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")


def said(*arguments: str) -> Result:
    """In this process: importing takes long."""
    app = typer.Typer()
    app.command()(robots)
    return CliRunner().invoke(app, arguments)


@contextlib.contextmanager
def emulated(name: str) -> Iterator[None]:
    with Presence(name) as presence:
        presence.announce("so101", "lerobot", {"port": f"/tmp/{name}", "id": name})
        yield


def test_a_scan_is_written_once_and_valid(tmp_path: Path) -> None:
    file = str(tmp_path / "station.yaml")
    with emulated("bench"):
        done = said("--scan", "--write", file)
        assert done.exit_code == 0 and f"station check {file}" in done.stdout, done.output
        row = next(line for line in done.stdout.splitlines() if line.startswith("emulator"))
        assert row.split()[:4] == ["emulator", "/tmp/bench", "so101", "lerobot"]
        (robot,) = StationFile(tmp_path / "station.yaml").config.robots
        assert (robot.name, robot.robot, robot.options) == ("bench", "so101", {"port": "/tmp/bench", "id": "bench"})
        again = said("--write", file)
        assert isinstance(again.exception, ConfigError) and "is there already" in str(again.exception)


def test_a_scan_as_json() -> None:
    with emulated("bench"):
        told = json.loads(said("--scan", "--json").stdout)
    assert {"emulator", "simulator"} <= {one["kind"] for one in told["found"]} and told["lacking"] == {}


def test_what_comes_and_goes_is_told_in_a_terminal() -> None:
    """The whole program, with its live table."""
    reading, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "50"}
    text = ""

    def read() -> None:
        nonlocal text
        with contextlib.suppress(OSError):  # the terminal is closed
            while data := os.read(reading, 65536):
                text += data.decode(errors="replace")

    with subprocess.Popen([*PROGRAM, "robots", "--watch"], stdout=end, env=environment) as process:
        os.close(end)
        threading.Thread(target=read, daemon=True).start()
        try:
            until(lambda: "simulator" in text, "the first look")
            with emulated("bench"):
                until(lambda: "came emulator /tmp/bench: so101 by lerobot (bench)" in text, "what came")
                tell("fault", reason="unplugged")
                until(lambda: "robot left: fault (unplugged)" in text, "the robot's state")
            until(lambda: "went emulator /tmp/bench" in text, "what went")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def tell(state: str, **more: object) -> None:
    """As an arm process does."""
    folder = runtime_folder("robots") / "left"
    folder.mkdir(exist_ok=True)
    now = {"name": "left", "robot": "so101", "driver": "lerobot", "pid": os.getpid(), "state": state}
    write_json(folder / "state.json", {**now, "seen": time.time(), **more})


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
def test_what_comes_and_goes_is_told_in_lines(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text, stop = "", threading.Event()

    def come(*words: str) -> bool:
        nonlocal text
        text += capsys.readouterr().out
        return any(all(word in line for word in words) for line in text.splitlines())

    watching = threading.Thread(target=watch_scan, args=(stop,), kwargs={"as_json": as_json})
    watching.start()
    try:
        until(lambda: come("came", "panda in MuJoCo"), "the first look")
        with emulated("bench"):
            until(lambda: come("came", "emulator", "/tmp/bench"), "what came")
            tell("idle")
            until(lambda: come("robot", "left", "idle"), "the robot's state")
        until(lambda: come("went", "emulator", "/tmp/bench"), "what went")
        until(lambda: come("robot", "left", "offline", "nothing heard for"), "the robot's silence")
    finally:
        stop.set()
        watching.join()
    if as_json:
        events = [json.loads(line) for line in text.splitlines()]
        assert {event["event"] for event in events} == {"came", "went", "robot"}


def test_without_an_option_the_robots_that_run_stand_above_the_shipped_ones() -> None:
    tell("running", holder="edge left", rate_hz=10.0)
    lines = said().stdout.splitlines()
    assert lines[0].split()[:4] == ["robot", "model", "driver", "address"] and lines[1].startswith("left")
    assert any(line.startswith("panda") for line in lines[2:])
    told = json.loads(said("--json").stdout)
    assert [one["name"] for one in told["running"]] == ["left"]
    assert {one["name"]: one["state"] for one in told["models"]}["panda"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["panda", "--scan"], "leave it out"), (["--force"], "--write FILE"), (["--write", "x", "--watch"], "one of the")],
    ids=["both", "force", "watch"],
)
def test_what_makes_no_sense_together(arguments: list[str], word: str) -> None:
    done = said(*arguments)
    assert done.exit_code == 2 and word in " ".join(done.output.split())


@pytest.mark.slow
def test_a_served_arm_is_found_and_written_with_its_address(tmp_path: Path) -> None:
    tell("fault", address="ipc:///gone")  # what a process told that is gone
    command = [sys.executable, "-m", "robotlearn", "serve", "panda", "--name", "bench"]
    file = tmp_path / "station.yaml"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            until(lambda: any(one.state == "idle" for one in robot_states()), "the arm")
            with pytest.raises(OwnershipError, match=rf"process {process.pid} \(robot bench, robotlearn serve\)"):
                Ownership("bench").__enter__()
            (one,) = (one for one in json.loads(said("--scan", "--json").stdout)["found"] if one["kind"] == "served")
            assert (one["where"], one["spec"], one["driver"]) == (address, "panda", "remote")
            assert said("--write", str(file)).exit_code == 0
        finally:
            process.kill()
    (robot,) = StationFile(file).config.robots
    assert (robot.name, robot.robot, robot.driver, robot.options) == ("bench", "panda", "remote", {"address": address})
    assert served() == []
