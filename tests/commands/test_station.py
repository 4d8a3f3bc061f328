"""`robotlearn station`: processes that are started, kept and ended; one that is refused does not end the others."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from hal import load_spec
from hal.emulators.presence import Presence
from robotlearn.commands.station import station
from robotlearn.errors import ConfigError
from robotlearn.station_file import StationFile, StationProcess
from robotlearn.station_up import StationUp
from tests.waiting import until

PROGRAM = [sys.executable, str(Path(__file__).with_name("program.py"))]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 102)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two arms, of which the model of `right` does not fit its spec: its edge finds that out."""
    content = load_spec("panda").model_dump(mode="json")
    content["mujoco"]["joints"][0] = "jiont1"
    content["name"] = "mine"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    robots = [{"name": "left", "robot": "panda"}, {"name": "right", "robot": "mine.yaml"}]
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump({"learner": "tcp://127.0.0.1:9", "config": "smoke", "robots": robots}))
    return path


def said(*arguments: str) -> Result:
    app = typer.Typer()
    app.add_typer(station, name="station")
    return CliRunner().invoke(app, ["station", *arguments])


def running(name: str) -> list[int]:
    """The processes of the edge of that name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            b"robotlearn" in words
            and name.encode() in words
            and str(os.environ["HOME"]).encode() in (folder / "environ").read_bytes()
        ):
            found.append(int(folder.name))
    return found


def test_up_keeps_one_arm_while_the_other_is_refused_and_ends_in_order(file: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as stream, subprocess.Popen([*PROGRAM, "station", "up", str(file)], stdout=stream) as up:
        try:
            until(lambda: "right: can't work and is not started again: " in said.read_text(), "the refusal")
            until(
                lambda: "[left] edge left: works for the learner at tcp://127.0.0.1:9" in said.read_text(), "the edge"
            )
            until(lambda: len(running("left")) == 3, "edge, arm process and policy server")
        finally:
            up.send_signal(signal.SIGINT)
        assert up.wait(40) == 2
    text = said.read_text()
    assert "no 'jiont1' in the model (did you mean 'joint1'?" in text and text.count("right: robotlearn edge") == 1
    assert "stopping" in text and "Traceback" not in text
    assert running("left") == []


def test_what_ends_by_itself_is_started_again(tmp_path: Path) -> None:
    stop, lines = threading.Event(), tmp_path / "said"
    processes = [StationProcess("left", "left", ("--version",)), StationProcess("right", "right", ("config", "xyzzy"))]
    up = StationUp(processes, tmp_path / "logs")
    with lines.open("w") as stream:
        thread = threading.Thread(target=up.run, args=(stop, Console(file=stream)))
        thread.start()
        try:
            until(
                lambda: lines.read_text().count("left: ended with status 0 and is started again") == 2, "two restarts"
            )
            until(lambda: "right: offline (refused: no key" in lines.read_text(), "the refusal in the line of states")
        finally:
            stop.set()
            thread.join()
    assert lines.read_text().count("[left] robotlearn ") >= 2 and up.refused == ["right"]
    assert "right: can't work and is not started again: no key of a config has anything to do with" in lines.read_text()


def test_a_station_that_is_refused_whole_ends(tmp_path: Path) -> None:
    assert StationUp([StationProcess("right", "right", ("config", "xyzzy"))], tmp_path).run(threading.Event()) == 2


def test_processes_are_those_that_up_starts(file: Path) -> None:
    told = json.loads(said("processes", str(file), "--json", "--only", "left", "--namespace", "cell").stdout)
    (process,) = StationFile(file).processes(only="left", namespace="cell")
    command = [sys.executable, "-m", "robotlearn", *process.arguments]
    assert told == {"cell-left": {"robot": "left", "command": command}}
    assert said("processes", str(file), "--only", "left").stdout.startswith("left: ")
    assert isinstance(said("processes", str(file), "--only", "x").exception, ConfigError)


def test_check_says_what_is_attached(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.touch()
    robots = [
        {"name": "bench", "robot": "so101", "driver": "lerobot", "options": {"port": str(port), "id": "bench"}},
        {"name": "gone", "robot": "so101", "driver": "lerobot", "options": {"port": "/dev/no-such-port"}},
        {"name": "sim", "robot": "panda"},
        {"name": "slip", "robot": "ur5e", "options": {"prot": 3}},
    ]
    path = tmp_path / "station.yaml"

    def checked(*names: str) -> tuple[int, dict[str, tuple[str, str]], list[str]]:
        path.write_text(yaml.safe_dump({"robots": [robot for robot in robots if robot["name"] in names]}))
        done = said("check", str(path), "--json")
        told = json.loads(done.stdout)
        states = {one["name"]: (one["state"], one["said"]) for one in told["robots"]}
        return done.exit_code, states, [one["what"] for one in told["more"]]

    with Presence("bench") as bench, Presence("other") as other:
        bench.announce("so101", "lerobot", {"port": str(port)})
        other.announce("so101", "lerobot", {"port": str(tmp_path / "other")})
        status, states, more = checked("bench", "sim")
        assert (status, more) == (0, ["other"])
        assert states == {"bench": ("attached", ""), "sim": ("simulated", "")}
        status, states, _ = checked("gone", "sim")
        assert status == 1 and states["gone"] == ("absent", "/dev/no-such-port")
        path.write_text(yaml.safe_dump({"robots": robots}))
        done = said("check", str(path))
        assert done.exit_code == 2 and "wrong: " in done.stdout and "prot" in done.stdout
        assert "absent: /dev/no-such-port" in done.stdout and f"attached, and no robot of {path}" in done.stdout
