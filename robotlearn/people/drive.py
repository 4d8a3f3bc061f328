"""What the command `teleop` puts together: a robot, a person's device, a status line."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import typer

from hal.errors import DriverError, RobotFault
from hal.spec import RobotSpec, load_spec
from robotlearn.config.load import driver_options
from robotlearn.errors import ConfigError
from robotlearn.people.hands import with_keyboard
from robotlearn.people.intent import Device, OnEStop
from robotlearn.people.status import StatusLine
from robotlearn.people.taken import Taken
from robotlearn.people.teleop import Teleoperation
from robotlearn.people.window import ShownRobot, Window
from robotlearn.processes import freeze_heap, stop_on_signals
from robotlearn.window import need_display


def teleop(
    robot: str,
    *,
    driver: str | None,
    options: Sequence[str] | None,
    device: str,
    device_options: Sequence[str] | None,
    leader: str | None,
    leader_options: Sequence[str] | None,
    speed: float,
    name: str | None,
    view: bool,
) -> None:
    """Drives until q, Ctrl-C or a signal. Raises what makes it impossible, each with one line for its user."""
    stop = stop_on_hangup()
    spec = load_spec(robot)
    own = driver_options(options or [])
    device_own = device_settings(device, device_options, leader, leader_options)
    shown = shown_robot(spec, driver, own) if view else None
    with contextlib.ExitStack() as stack:
        taken = Taken(spec, holder="teleop", name=name, driver=driver, options=own, robot=shown)
        hands = stack.enter_context(open_device(device, spec, taken.press, device_own))
        for text in hands.help:
            typer.echo(text)
        stack.enter_context(taken)
        if shown is not None:
            stack.enter_context(Window(shown, stop))
        status: StatusLine
        driving = Teleoperation(taken, hands, speed=speed, say=lambda text: status.say(text))
        status = stack.enter_context(StatusLine(lambda: line(driving)))
        status.say(f"{taken.name}: at {speed:.0%} of its speeds")
        freeze_heap()
        driving.run(stop)


def line(driving: Teleoperation) -> str:
    """Its status, or why there is none."""
    try:
        return driving.line()
    except RobotFault as error:
        return str(error)


def stop_on_hangup() -> threading.Event:
    """As `stop_on_signals`, and the terminal's hangup too: of a lost ssh connection."""
    stop = stop_on_signals()

    def hang_up(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGHUP, hang_up)
    return stop


def device_settings(
    device: str, options: Sequence[str] | None, leader: str | None, leader_options: Sequence[str] | None
) -> dict[str, Any]:
    """The device's options as `make_device` takes them. Raises ConfigError for some that aren't for it."""
    own = driver_options(options or [])
    if device == "leader":
        if leader is None:
            raise ConfigError("--device leader: which one? give --leader TYPE, such as so101_leader, or emulated")
        return {"type": leader, **driver_options(leader_options or []), **own}
    if leader is not None or leader_options:
        raise ConfigError(f"--leader and --leader-option are for --device leader, not for {device}")
    return own


def open_device(device: str, spec: RobotSpec, on_estop: OnEStop, options: dict[str, Any]) -> Device:
    """The device and the terminal's keys. Raises DeviceError."""
    return with_keyboard(device, spec, on_estop, **options)


def shown_robot(spec: RobotSpec, driver: str | None, options: dict[str, Any]) -> ShownRobot:
    """A simulated arm that a window can be opened on. Raises DriverError, DisplayError."""
    if (driver or spec.driver) != "mujoco":
        raise DriverError(f"--view shows simulated arms; {spec.name} is driven by {driver or spec.driver}")
    need_display()
    return ShownRobot(spec, **options)
