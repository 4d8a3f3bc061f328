"""What robots are attached to this machine: `scan` looks once, a `Watcher` tells what comes and goes."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hal.data import data_path
from hal.emulators.presence import present
from hal.errors import DriverError
from hal.joint_topics import HEARD_S, LIBRARIES, JointTopics, fitting, joint_driver
from hal.spec import RobotSpec, load_spec

Kind = Literal["serial", "camera", "topics", "simulator", "emulator", "served"]

SERIAL: Mapping[tuple[int, int], tuple[str, str]] = {
    (0x1A86, 0x55D3): ("so101", "servo board of an SO-101, follower or leader (CH343)"),
    (0x1A86, 0x7523): ("so101", "servo board, or another device with a CH340"),
    (0x0403, 0x6014): ("", "Robotis U2D2, or another device with an FT232H: Dynamixel servos"),
    (0x2F5D, 0x2202): ("", "Robotis OpenRB-150: Dynamixel servos"),
}
"""USB vendor and product of what robots are attached with: the spec that it is probably for, and what it is."""


@dataclass(frozen=True)
class Found:
    """Something that is or may be a robot, or a part of one.

    key      what tells it apart for as long as it is there: a device's serial number, a topic, a name
    where    a port, a device, a topic, ...; a name that stays the same wherever it is plugged in, if it has one
    what     in words
    spec     the shipped model that it fits, or probably is; "" where that can't be told
    driver   by which it is reached, "" where that can't be told
    options  of that driver; of a camera, those of LeRobot's
    """

    kind: Kind
    key: str
    where: str
    what: str
    spec: str = ""
    driver: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def scan() -> tuple[list[Found], dict[str, str]]:
    """All that is there now, and what can't be looked for here with the reason; takes some seconds, to hear topics."""
    with Watcher() as watcher:
        end = time.monotonic() + (HEARD_S if watcher.hears else 0.0)
        while time.monotonic() < end:  # a topic is heard only after it was seen
            watcher.look()
            time.sleep(0.1)
        watcher.look()
        return watcher.found, watcher.lacking


class Watcher:
    """What is attached, and what came and went since the last look. Used by one thread.

    Serial devices and cameras by the kernel's list of them, which opens none; joint states by listening to the topics
    of ROS_DOMAIN_ID (through rclpy, or through cyclonedds without any ROS); emulators by what they announce.

    lacking  what it can't see here, for want of a library or because it is forbidden, and why
    found    what there was at the last look
    """

    def __init__(self, *, sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> None:
        """`sys`, `dev`: where the kernel's lists are."""
        self._sys, self._dev = sys, dev
        self.lacking: dict[str, str] = {}
        self.found: list[Found] = []
        self._topics: JointTopics | None = None
        try:
            self._topics = JointTopics()
        except DriverError as error:
            self.lacking["arms behind ROS 2 topics"] = str(error)
        try:
            import serial.tools.list_ports  # noqa: F401
        except ImportError:
            self.lacking["serial arms"] = "pyserial is not here: pip install pyserial"

    @property
    def hears(self) -> bool:
        """Whether it listens to topics: what is there already has all been heard `HEARD_S` after its making."""
        return self._topics is not None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the domain. Idempotent."""
        topics, self._topics = self._topics, None
        if topics is not None:
            topics.close()

    def look(self) -> tuple[list[Found], list[Found]]:
        """(came, went) since the look before; the first time all has come. Call it once a second or more often."""
        emulators = list(_emulators())
        emulated = {one.options.get("joint_states") for one in emulators}
        topics = [one for one in self._heard() if one.where not in emulated]
        serial = [] if "serial arms" in self.lacking else list(_serial(self._dev))
        now = {one.key: one for one in (*serial, *topics, *emulators, *_cameras(self._sys, self._dev), *_simulators())}
        there, before = {(one.key, one.where) for one in now.values()}, self.found
        self.found, known = list(now.values()), {(one.key, one.where) for one in before}
        came = [one for one in self.found if (one.key, one.where) not in known]
        return came, [one for one in before if (one.key, one.where) not in there]

    def _heard(self) -> Iterator[Found]:
        for topic in self._topics.heard() if self._topics is not None else ():
            fit = fitting(topic.joints, _shipped())
            names = ", ".join(sorted(topic.joints))
            if fit is None or fit.doubt:
                what = f"{names}: {fit.doubt if fit is not None else 'the joints of no shipped spec'}"
                yield Found("topics", f"topics:{topic.name}", topic.name, what)
                continue
            # As ros2_control's own controllers are called, beside the broadcaster.
            at = topic.name.rpartition("/")[0]
            options: dict[str, Any] = {
                "joint_states": topic.name,
                "command": f"{at}/joint_trajectory_controller/joint_trajectory",
            }
            if fit.names:
                options["joints"] = {name: {"joint": called} for name, called in fit.names.items()}
            if fit.gripper:
                options["gripper"] = {"joint": fit.gripper}
            elif fit.spec.gripper is not None:
                names += f" (no {fit.spec.gripper.name}: the driver needs the option gripper)"
            yield Found("topics", f"topics:{topic.name}", topic.name, names, fit.spec.name, joint_driver(), options)


def _serial(dev: Path) -> Iterator[Found]:
    for port in _ports():
        if port.vid is None:
            continue  # built in: no robot comes by these
        spec, what = SERIAL.get((port.vid, port.pid), ("", port.product or "unknown"))
        named = _link(dev / "serial" / "by-id", port.device)
        where = port.serial_number or port.location or port.device
        number = port.serial_number or "none"
        what += f"; USB {port.vid:04x}:{port.pid:04x}, serial number {number}"
        if os.path.exists(port.device) and not os.access(port.device, os.R_OK | os.W_OK):
            what += "; not yours to open: sudo usermod -aG dialout $USER, then log in anew"
        yield Found("serial", f"usb:{port.vid:04x}:{port.pid:04x}:{where}", named, what, spec,
                    "lerobot" if spec else "", {"port": named} if spec else {})  # fmt: skip


def _ports() -> list[Any]:
    from serial.tools import list_ports

    for _ in range(3):
        try:
            return list(list_ports.comports())
        except (OSError, TypeError, ValueError):
            continue  # one was pulled out while pyserial read about it: read again
    return []


def _cameras(sys: Path, dev: Path) -> Iterator[Found]:
    for device in sorted((sys / "class" / "video4linux").glob("video*"), key=lambda one: int(one.name[5:])):
        try:
            name = (device / "name").read_text().strip()
            index = int((device / "index").read_text())
        except (OSError, ValueError):
            continue  # it was pulled out just now
        if index == 0:  # the others of a camera are for metadata
            where = _link(dev / "v4l" / "by-id", str(dev / device.name))
            yield Found("camera", f"camera:{where}:{name}", where, name,
                        options={"type": "opencv", "index_or_path": where})  # fmt: skip


def _link(links: Path, device: str) -> str:
    """The name of a device in that folder, which stays the same wherever it is plugged in; else `device` itself."""
    for link in sorted(links.iterdir()) if links.is_dir() else ():
        if os.path.realpath(link) == os.path.realpath(device):
            return str(link)
    return device


def _emulators() -> Iterator[Found]:
    for one in present():
        options, driver = one["options"], one["driver"]
        where = options.get("port") or options.get("joint_states") or f"process {one['pid']}"
        if driver in LIBRARIES:  # it may run where there is another library than here
            with contextlib.suppress(DriverError):
                driver = joint_driver(driver)
        yield Found("emulator", f"emulator:{one['name']}:{one['pid']}", where, one["name"],
                    one["spec"], driver, options)  # fmt: skip


def _simulators() -> Iterator[Found]:
    for spec in _shipped():
        if spec.mujoco is not None:
            yield Found("simulator", f"simulator:{spec.name}", "here", f"{spec.name} in MuJoCo", spec.name, "mujoco")


@functools.cache
def _shipped() -> tuple[RobotSpec, ...]:
    return tuple(load_spec(path.stem) for path in sorted(data_path("hardware_specs").glob("*.yaml")))
