"""What arm processes tell in the runtime folder, and when it counts no more."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hal.runtime import runtime_folder, write_json
from robotlearn.robots.states import robot_states, states_table


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))


def tell(name: str, **changes: object) -> Path:
    folder = runtime_folder("robots") / name
    folder.mkdir(exist_ok=True)
    content = {"name": name, "robot": "so101", "driver": "lerobot", "address": "/dev/ttyACM0", "pid": os.getpid(),
               "state": "running", "reason": "", "holder": "edge left", "rate_hz": 9.98, "missed": 1, "starved": 2,
               "temperature": {"elbow": 41.0, "wrist": math.nan}, "seen": time.time()}  # fmt: skip
    write_json(folder / "state.json", content | changes)
    return folder / "state.json"


def test_what_is_told_is_shown() -> None:
    assert robot_states() == []
    tell("left")
    (state,) = robot_states()
    assert state.line() == "left: running (held by edge left)" and state.telemetry["temperature"]["elbow"] == 41.0
    console = Console(file=io.StringIO(), width=200)
    console.print(states_table([state]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("left", "so101", "lerobot", "/dev/ttyACM0", "running", "edge left", "10.0 Hz", "elbow 41 °C"):
        assert part in shown


def test_a_process_that_tells_nothing_any_more_or_is_gone_is_offline() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    tell("left", pid=child.pid)
    tell("old", seen=time.time() - 3)
    tell("off", state="offline", reason="unplugged", pid=0)
    left, off, old = robot_states()
    assert left.state == "running"
    assert (off.state, off.reason) == ("offline", "unplugged")
    assert old.line() == "old: offline (nothing heard for 3 s)"
    child.communicate()
    assert robot_states()[0].line() == "left: offline (its arm process is gone)"


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": "x", "seen": "y"}', ""])
def test_a_file_that_makes_no_sense_is_said(text: str) -> None:
    file = tell("left")
    file.write_text(text)
    (state,) = robot_states()
    assert state.state == "offline" and f"{file} can't be read" in state.reason
