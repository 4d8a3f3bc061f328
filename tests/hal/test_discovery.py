"""What is attached, what it fits, what comes and goes.

Emulators and publishers are processes of their own, some of them killed; cameras are read from a tree of files as the
kernel's is. No USB device can be plugged in here: `comports` alone is replaced, the device behind it is a terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hal import joint_topics, load_spec
from hal.discovery import Found, Watcher, scan
from hal.joint_topics import fitting
from tests.waiting import until

SPECS = [load_spec(name) for name in ("panda", "so101", "ur5e")]
OTHERS = """
import json, os, signal, sys, time
import hal.drivers.ros_types
from hal.drivers.dds import DdsTransport
from hal.drivers.ros import JOINT_STATE
from hal.drivers.ros_options import Qos
from hal.emulators.presence import Presence

def emulate(name, driver, options):
    with Presence(name) as presence:
        presence.announce("so101", driver, options)
        print(os.getpid(), flush=True)
        time.sleep(600)

def publish(topic, joints):
    publisher = DdsTransport("arm").publisher(topic, JOINT_STATE, Qos(reliability="reliable", depth=10))
    print(os.getpid(), flush=True)
    while True:
        publisher.publish(name=list(joints), position=list(joints.values()), velocity=[])
        time.sleep(0.05)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    what, environment, arguments = json.loads(line)
    if not os.fork():
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        globals()[what](*arguments)
"""
"""Emulators and publishers, each a process; they are forks of this one, since importing takes so long."""
Start = Callable[..., int]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime folder and a domain of its own: nothing of this machine's."""
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 102)))


@pytest.fixture(scope="module")
def others() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OTHERS], stdin=pipe, stdout=pipe, text=True) as others:
        yield others
        others.terminate()


@pytest.fixture
def start(others: subprocess.Popen[str]) -> Iterator[Start]:
    """start("emulate", name, driver, options) or start("publish", topic, joints): the number of its process."""
    running: list[int] = []

    def start(what: str, *arguments: object) -> int:
        environment = {name: os.environ[name] for name in ("ROBOTLEARN_RUNTIME_DIR", "ROS_DOMAIN_ID")}
        assert others.stdin is not None and others.stdout is not None
        others.stdin.write(json.dumps([what, environment, arguments]) + "\n")
        others.stdin.flush()
        running.append(int(others.stdout.readline()))
        return running[-1]

    yield start
    for process in running:
        end(process, signal.SIGKILL)


def end(process: int, by: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, by)
        until(lambda: os.kill(process, 0), "its end")


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    with Watcher(sys=tmp_path / "sys", dev=tmp_path / "dev") as watcher:
        yield watcher


def of(watcher: Watcher, kind: str) -> list[Found]:
    watcher.look()
    return [one for one in watcher.found if one.kind == kind]


def port(device: str, vid: int | None, pid: int | None = None, serial: str | None = None) -> SimpleNamespace:
    """A port as pyserial lists it."""
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=serial, location="1-1.4", product="Gadget")


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    ports: list[SimpleNamespace] = []
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: ports)
    return ports


def test_a_serial_arm_is_known_by_vendor_product_and_serial_number(watcher, plugged, tmp_path):
    _, end = pty.openpty()
    device = os.ttyname(end)
    links = tmp_path / "dev" / "serial" / "by-id"
    links.mkdir(parents=True)
    (links / "usb-1a86_USB_Single_Serial_58FA-if00").symlink_to(device)
    plugged += [port(device, 0x1A86, 0x55D3, "58FA"), port("/dev/ttyS0", None), port("/dev/ttyUSB7", 0x1234, 0x5678)]
    arm, other = of(watcher, "serial")
    named = str(links / "usb-1a86_USB_Single_Serial_58FA-if00")
    assert (arm.key, arm.where, arm.spec, arm.driver) == ("usb:1a86:55d3:58FA", named, "so101", "lerobot")
    assert arm.options == {"port": named} and "serial number 58FA" in arm.what and "dialout" not in arm.what
    assert (other.key, other.spec, other.driver) == ("usb:1234:5678:1-1.4", "", "") and "Gadget" in other.what


def test_a_port_that_may_not_be_opened_is_said(watcher, plugged, monkeypatch):
    _, end = pty.openpty()
    plugged.append(port(os.ttyname(end), 0x1A86, 0x55D3, "58FA"))
    monkeypatch.setattr("os.access", lambda *_: False)  # as root everything may be opened
    assert "usermod -aG dialout" in of(watcher, "serial")[0].what


def test_a_serial_arm_goes_and_comes_back_on_another_port(watcher, plugged):
    plugged.append(port("/dev/ttyACM0", 0x1A86, 0x55D3, "58FA"))
    came, went = watcher.look()
    assert "usb:1a86:55d3:58FA" in [one.key for one in came] and not went
    assert watcher.look() == ([], [])
    plugged.clear()
    came, went = watcher.look()
    assert [one.where for one in went] == ["/dev/ttyACM0"] and not came
    plugged.append(port("/dev/ttyACM1", 0x1A86, 0x55D3, "58FA"))
    came, went = watcher.look()
    assert [(one.key, one.where) for one in came] == [("usb:1a86:55d3:58FA", "/dev/ttyACM1")] and not went


def test_one_that_moves_to_another_port_between_two_looks_is_told(watcher, plugged):
    plugged.append(port("/dev/ttyACM0", 0x1A86, 0x55D3, "58FA"))
    watcher.look()
    plugged[:] = [port("/dev/ttyACM1", 0x1A86, 0x55D3, "58FA")]
    came, went = watcher.look()
    assert [one.where for one in went] == ["/dev/ttyACM0"] and [one.where for one in came] == ["/dev/ttyACM1"]


def test_a_device_that_is_pulled_out_while_it_is_read_about(watcher, plugged, monkeypatch):
    plugged.append(port("/dev/ttyACM0", 0x1A86, 0x55D3, "58FA"))
    tries = iter([TypeError("int() argument must be a string, not 'NoneType'"), None])

    def comports() -> list[SimpleNamespace]:
        if (error := next(tries)) is not None:
            raise error
        return plugged

    monkeypatch.setattr("serial.tools.list_ports.comports", comports)
    assert [one.where for one in of(watcher, "serial")] == ["/dev/ttyACM0"]


def camera(tmp_path: Path, number: int, name: str, index: int) -> Path:
    folder = tmp_path / "sys" / "class" / "video4linux" / f"video{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "index").write_text(f"{index}\n")
    return folder


def test_cameras_without_their_metadata(watcher, tmp_path):
    for number, name, index in ((10, "Wrist cam", 0), (2, "Front cam", 0), (3, "Front cam", 1)):
        camera(tmp_path, number, name, index)
    links = tmp_path / "dev" / "v4l" / "by-id"
    links.mkdir(parents=True)
    (tmp_path / "dev" / "video10").touch()
    (links / "usb-Wrist-video-index0").symlink_to("../../video10")
    front, wrist = of(watcher, "camera")
    assert (front.what, front.where) == ("Front cam", str(tmp_path / "dev" / "video2"))
    assert (wrist.what, wrist.where) == ("Wrist cam", str(links / "usb-Wrist-video-index0"))
    assert wrist.options == {"type": "opencv", "index_or_path": wrist.where}
    for part in ("name", "index"):
        (tmp_path / "sys" / "class" / "video4linux" / "video2" / part).unlink()
    assert [one.what for one in watcher.look()[1]] == ["Front cam"]


def test_emulators_come_are_killed_and_come_back(watcher, start):
    left, right = (start("emulate", name, "lerobot", {"port": f"/tmp/{name}"}) for name in ("left", "right"))
    found = of(watcher, "emulator")
    assert [(one.what, one.where, one.spec, one.driver) for one in found] == [
        ("left", "/tmp/left", "so101", "lerobot"),
        ("right", "/tmp/right", "so101", "lerobot"),
    ]
    end(left, signal.SIGKILL)
    assert [one.what for one in watcher.look()[1]] == ["left"]
    end(right, signal.SIGTERM)
    assert [one.what for one in watcher.look()[1]] == ["right"]
    start("emulate", "left", "lerobot", {"port": "/tmp/left"})
    assert [one.what for one in watcher.look()[0]] == ["left"]


def test_simulators_are_the_shipped_specs_with_a_model(watcher):
    assert [one.spec for one in of(watcher, "simulator")] == ["panda", "so101", "ur5e"]


HOME = dict(zip([f"joint{i}" for i in range(1, 8)], [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785], strict=True))


def test_publishers_of_joint_states_are_killed_and_come_back(watcher, start):
    pytest.importorskip("cyclonedds")
    arm = {f"panda_{name}": value for name, value in HOME.items()} | {"gripper": 0.04}
    process = start("publish", "/left/joint_states", arm)
    until(lambda: of(watcher, "topics"), "the topic", 10)
    (found,) = of(watcher, "topics")
    assert (found.where, found.spec, found.driver) == ("/left/joint_states", "panda", "dds")
    assert found.options == {
        "joint_states": "/left/joint_states",
        "command": "/left/joint_trajectory_controller/joint_trajectory",
        "joints": {f"joint{i}": {"joint": f"panda_joint{i}"} for i in range(1, 8)},
        "gripper": {"joint": "gripper"},
    }
    end(process, signal.SIGKILL)
    # DDS itself keeps a publisher that was killed for 10 s.
    until(lambda: not of(watcher, "topics"), "the topic to be gone", 8)
    start("publish", "/left/joint_states", {"elbow": 0.5})
    until(lambda: of(watcher, "topics"), "another arm on the same topic", 10)
    (other,) = of(watcher, "topics")
    assert other.spec == other.driver == "" and other.what == "elbow: the joints of no shipped spec"


def test_scan_finds_all_at_once_and_an_emulator_behind_topics_once(start):
    pytest.importorskip("cyclonedds")
    start("publish", "/real", HOME)
    start("publish", "/sim", HOME)
    start("emulate", "sim", "dds", {"joint_states": "/sim"})
    found, lacking = scan()
    assert [one.where for one in found if one.kind == "topics"] == ["/real"]
    assert [one.where for one in found if one.kind == "emulator"] == ["/sim"]
    assert "simulator:panda" in [one.key for one in found] and lacking == {}


def test_what_can_not_be_looked_for_is_said(monkeypatch):
    monkeypatch.setattr(joint_topics, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "serial.tools.list_ports", None)
    with Watcher() as watcher:
        watcher.look()
    assert "pip install 'robotlearn[dds]'" in watcher.lacking["arms behind ROS 2 topics"]
    assert "pip install pyserial" in watcher.lacking["serial arms"]


UR = ["shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"]


def test_a_spec_fits_by_names_alone_or_with_a_prefix_and_a_suffix():
    fit = fitting(HOME, SPECS)
    assert fit is not None and fit.spec.name == "panda" and fit.names == {} and fit.gripper == "" and not fit.doubt
    home = dict(zip(UR, SPECS[2].home, strict=False))
    fit = fitting({f"left_{name}_joint": value for name, value in home.items()} | {"left_gripper_joint": 0.0}, SPECS)
    assert fit is not None and fit.spec.name == "ur5e" and fit.names["elbow"] == "left_elbow_joint"
    assert fit.gripper == "left_gripper_joint" and not fit.doubt
    assert fitting({f"joint{i}": 0.0 for i in range(1, 7)}, SPECS) is None
    assert fitting({}, SPECS) is None


def test_an_arm_where_the_spec_never_is_is_another_one():
    """Many arms call their joints joint1, joint2, ...; a Panda's fourth is never straight."""
    fit = fitting({f"joint{i}": 0.0 for i in range(1, 8)}, SPECS)
    assert fit is not None and fit.doubt == "joint4 is at 0.00 rad, panda's joint4 goes from -3.0718 to -0.0698"
