"""`robotlearn station`: processes that are started, kept and ended; one that is refused does not end the others."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import typer
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from hal import load_spec
from hal.emulators.presence import Presence
from hal.ownership import Ownership
from hal.runtime import runtime_folder
from robotlearn.commands.station import station
from robotlearn.config.estop import EstopConfig
from robotlearn.config.station import StationRobot
from robotlearn.errors import ConfigError, ProcessError
from robotlearn.robots.states import forget, robot_state, robot_states
from robotlearn.state_folder import state_folder
from robotlearn.station.check import check_estop, check_robots
from robotlearn.station.file import StationFile, StationProcess
from robotlearn.station.lock import station_lock
from robotlearn.station.up import StationUp
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
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = (folder / "cmdline").read_bytes().split(b"\0")
            ours = str(os.environ["HOME"]).encode() in (folder / "environ").read_bytes()
            if ours and b"robotlearn" in words and name.encode() in words:
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
            until(lambda: "right: can't work and is not started again" in lines.read_text(), "the refusal")
        finally:
            stop.set()
            thread.join()
    assert lines.read_text().count("[left] robotlearn ") >= 2 and up.refused == ["right"]
    assert "right: can't work and is not started again: no key of a config has anything to do with" in lines.read_text()
    assert lines.read_text().count("left: offline (starting)") == 1, "what hasn't changed is not told again"


def test_a_station_that_is_refused_whole_ends(tmp_path: Path) -> None:
    assert StationUp([StationProcess("right", "right", ("config", "xyzzy"))], tmp_path).run(threading.Event()) == 2


def test_processes_are_those_that_up_starts(file: Path) -> None:
    told = json.loads(said("processes", str(file), "--json", "--only", "left", "--namespace", "cell").stdout)
    (process,) = StationFile(file).processes(only="left", namespace="cell")
    command = [sys.executable, "-m", "robotlearn", *process.arguments]
    assert told == {"cell-left": {"robot": "left", "command": command}}
    shown = said("processes", str(file)).stdout
    pasted = subprocess.run(
        ["sh", "-ec", shown.replace(sys.executable, "printf '%s|'")], capture_output=True, text=True
    )
    commands = [process.arguments for process in StationFile(file).processes()]
    assert pasted.stdout == "".join(f"{word}|" for one in commands for word in ("-m", "robotlearn", *one))
    assert [line for line in shown.splitlines() if line.startswith("#")] == ["# left", "# right"]
    assert isinstance(said("processes", str(file), "--only", "x").exception, ConfigError)


def test_check_says_what_is_attached(tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.touch()
    (tmp_path / "arm.json").write_text("{}")
    arm = {"id": "arm", "calibration_dir": str(tmp_path)}
    robots = [
        {"name": "bench", "robot": "so101", "driver": "lerobot", "options": {"port": str(port), **arm}},
        {"name": "gone", "robot": "so101", "driver": "lerobot", "options": {"port": "/dev/no-such-port", **arm}},
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


def test_a_second_station_of_a_robot_is_told_of_the_first(tmp_path: Path) -> None:
    with station_lock(["other", "right"]):
        up = StationUp([StationProcess("right", "right", ("--version",))], tmp_path / "logs")
        with pytest.raises(ProcessError, match=rf"a station with robot right runs already \(process {os.getpid()}\)"):
            up.run(threading.Event())
    assert not (tmp_path / "logs" / "right.log").exists()
    with station_lock(["right"]):
        pass


def test_a_fault_of_a_former_process_is_not_shown(tmp_path: Path) -> None:
    folder = runtime_folder("robots") / "left"
    folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    told = {"name": "left", "pid": gone.pid, "state": "fault", "reason": "unplugged", "seen": time.time()}
    (folder / "state.json").write_text(json.dumps(told))
    assert robot_state("left").line() == "left: fault (unplugged)"  # type: ignore[union-attr]
    left = StationRobot(name="left", robot="panda")
    assert check_robots([left], [], robot_states())[0].said == ""
    with Ownership("left"):
        assert check_robots([left], [], robot_states())[0].said == "fault (unplugged)"
        forget("left")  # one that runs keeps it
    assert (folder / "state.json").exists()
    stop, said = threading.Event(), io.StringIO()
    up = StationUp([StationProcess("left", "left", ("config", "xyzzy"))], tmp_path / "logs")
    assert up.run(stop, Console(file=said)) == 2
    assert "left: offline (starting)" in said.getvalue() and "unplugged" not in said.getvalue()


def test_logs_lie_where_the_user_keeps_states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_folder() == tmp_path / "home" / ".local" / "state" / "robotlearn"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == tmp_path / "home" / ".local" / "state" / "robotlearn"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_folder() == tmp_path / "state" / "robotlearn"


def test_check_says_what_only_its_user_can_mend(tmp_path: Path) -> None:
    (tmp_path / "port").touch()
    (tmp_path / "calibration").mkdir()

    def checked(folder: str) -> tuple[str, str]:
        options = {"port": str(tmp_path / "port"), "id": "bench", "calibration_dir": str(tmp_path / folder)}
        robot = StationRobot(name="bench", robot="so101", driver="lerobot", options=options)
        (one,) = check_robots([robot], [], [])
        return one.state, one.said

    assert checked("nowhere") == ("wrong", f"calibration_dir: there is no folder {tmp_path / 'nowhere'}")
    assert not (tmp_path / "nowhere").exists()
    state, why = checked("calibration")
    assert state == "wrong"
    assert f"there is no calibration {tmp_path / 'calibration' / 'bench.json'}; run lerobot-calibrate " in why
    (tmp_path / "calibration" / "bench.json").write_text("{}")
    assert checked("calibration") == ("attached", "")


def test_check_looks_for_the_e_stop(tmp_path: Path) -> None:
    (tmp_path / "button").touch()
    path, nowhere = tmp_path / "station.yaml", str(tmp_path / "nowhere")

    def checked(**estop: dict[str, str]) -> tuple[str, str]:
        one = check_estop(EstopConfig.model_validate(estop))
        return one.state, one.said

    button = {"device": str(tmp_path / "button"), "key": "KEY_SPACE"}
    assert checked(evdev=button) == ("attached", "")
    state, why = checked(evdev=button | {"key": "KEY_SPCAE"})
    assert state == "wrong" and "unknown key 'KEY_SPCAE': did you mean 'KEY_SPACE'?" in why
    gone = ("absent", f"{nowhere}: without it no robot here moves")
    assert checked(evdev=button | {"device": nowhere}) == checked(serial={"port": nowhere}) == gone
    robots = [{"name": "left", "robot": "panda"}]
    path.write_text(yaml.safe_dump({"robots": robots, "estop": {"serial": {"port": nowhere}}}))
    done = said("check", str(path), "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["estop"][0]["state"] == "absent"


def test_check_asks_whether_the_robots_can_learn(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump({"robots": [{"name": "left", "robot": "ur5e"}]}))
    assert said("check", str(path)).exit_code == 0
    error = said("check", str(path), "--config", "smoke").exception
    assert isinstance(error, ConfigError) and "needs robot: [panda, ur5e]" in str(error)
    path.write_text(yaml.safe_dump({"config": "smoke", "robots": [{"name": "left", "robot": "ur5e"}]}))
    assert "needs robot: [panda, ur5e]" in str(said("check", str(path)).exception)
