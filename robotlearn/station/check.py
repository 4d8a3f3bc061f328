"""`robotlearn station check`: whether a station's robots and its e-stop are as its file says, and attached."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hal.discovery import Found
from hal.errors import DriverError, HalError
from hal.estop_input import contact
from hal.ownership import owner_of
from hal.registry import make_robot
from hal.spec import RobotSpec, load_spec
from robotlearn.config.estop import EstopConfig
from robotlearn.config.station import StationRobot
from robotlearn.robots.driver_hint import other_drivers
from robotlearn.robots.states import RobotState
from robotlearn.station.calibration import missing_calibration, missing_folder

_COLOURS = {"attached": "green", "simulated": "green", "absent": "yellow", "unknown": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Checked:
    """One robot of a station file, or its e-stop.

    state  attached; simulated; absent: it, or a part of it, isn't there now; unknown: its driver alone could tell;
           wrong: its driver doesn't take what the file says, or it has no calibration
    said   what is absent or wrong, or who runs it now
    """

    name: str
    robot: str
    driver: str
    where: str
    state: Literal["attached", "simulated", "absent", "unknown", "wrong"]
    said: str = ""


def check_robots(robots: Sequence[StationRobot], found: Sequence[Found], states: Sequence[RobotState]) -> list[Checked]:
    """Each robot against what is attached. It makes each with its driver and connects to none: nothing moves."""
    return [_checked(robot, found, {state.name: state for state in states}) for robot in robots]


def check_estop(estop: EstopConfig) -> Checked:
    """Whether the e-stop's device is there and its key or line is known; opens it not."""
    options = estop.model_dump(exclude_none=True)
    ((kind, rest),) = options.items()
    where = str(rest.get("device") or rest.get("port"))
    try:
        contact(options)
    except DriverError as error:
        return Checked("e-stop", "-", kind, where, "wrong", str(error))
    if not os.path.exists(where):
        return Checked("e-stop", "-", kind, where, "absent", f"{where}: without it no robot here moves")
    if not os.access(where, os.R_OK if kind == "evdev" else os.R_OK | os.W_OK):
        group = "input" if kind == "evdev" else "dialout"
        said = f"not yours to open: sudo usermod -aG {group} $USER, then log in anew"
        return Checked("e-stop", "-", kind, where, "wrong", said)
    return Checked("e-stop", "-", kind, where, "attached")


def left_over(robots: Sequence[StationRobot], found: Sequence[Found]) -> list[Found]:
    """What is attached and might be a robot, but is none of these."""
    known = {os.path.realpath(str(robot.options.get("port"))) for robot in robots}
    known |= {str(robot.options.get("joint_states")) for robot in robots}
    arms = (one for one in found if one.kind in ("serial", "topics", "emulator"))
    return [one for one in arms if one.where not in known and os.path.realpath(one.where) not in known]


def show_checked(checked: Sequence[Checked], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("robot", "model", "driver", "where", "state"):
        table.add_column(column, overflow="fold")
    for one in checked:
        state = Text(one.state, style=_COLOURS[one.state])
        if one.said:
            state.append(f": {one.said}", style="default")
        table.add_row(Text(one.name), Text(one.robot), Text(one.driver), Text(one.where), state)
    console.print(table)


def _checked(robot: StationRobot, found: Sequence[Found], states: dict[str, RobotState]) -> Checked:
    spec = load_spec(robot.robot)
    driver = robot.driver or spec.driver
    where = str(robot.options.get("port") or robot.options.get("joint_states") or "-")
    if wrong := _wrong(spec, driver, robot.options):
        return Checked(robot.name, spec.name, driver, where, "wrong", wrong)
    running = states.get(robot.name) if owner_of(robot.name) is not None else None  # not what a former process told
    now = f"{running.line().partition(': ')[2]}" if running is not None and running.state != "offline" else ""
    if driver == "mujoco":
        return Checked(robot.name, spec.name, driver, "here", "simulated", now)
    if missing := _missing(robot.options, found):
        return Checked(robot.name, spec.name, driver, where, "absent", ", ".join(missing))
    return Checked(robot.name, spec.name, driver, where, "unknown" if where == "-" else "attached", now)


def _wrong(spec: RobotSpec, driver: str, options: dict[str, Any]) -> str:
    """What its user must mend before it can work; "" for nothing."""
    if driver == "lerobot" and (missing := missing_folder(options)):
        return missing  # first: LeRobot makes the folder when it makes the robot
    try:
        make_robot(spec, driver, **options)
    except (HalError, TypeError) as error:  # TypeError: an option that its constructor doesn't know
        return f"{error}{other_drivers(spec, driver, options, 'driver: {}')}"
    return missing_calibration(spec, options) if driver == "lerobot" else ""


def _missing(options: dict[str, Any], found: Sequence[Found]) -> list[str]:
    """The devices and topics among these options that aren't there now."""
    devices = [options.get("port")]
    cameras = options.get("cameras")
    for camera in cameras.values() if isinstance(cameras, dict) else ():
        devices.append(camera.get("index_or_path") if isinstance(camera, dict) else None)
    missing = [str(device) for device in devices if isinstance(device, str) and not os.path.exists(device)]
    topic = options.get("joint_states")
    if topic is not None and topic not in {one.where for one in found if one.kind in ("topics", "emulator")}:
        missing.append(f"nobody publishes {topic}")
    return missing
