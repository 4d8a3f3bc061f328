"""A person's session at a robot: what `teleop` and `record` begin with, from the command's options."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import typer

from hal.errors import DriverError
from hal.registry import make_robot
from hal.spec import RobotSpec
from robotlearn.config.estop_button import estop_button
from robotlearn.config.load import driver_options
from robotlearn.errors import ConfigError
from robotlearn.people.hands import with_keyboard
from robotlearn.people.intent import Device
from robotlearn.people.options import Options
from robotlearn.people.status import StatusLine
from robotlearn.people.taken import Taken
from robotlearn.people.window import Window
from robotlearn.processes import stop_on_signals
from robotlearn.robots.driver_hint import other_drivers
from robotlearn.window import need_display


@contextlib.contextmanager
def session(
    spec: RobotSpec, options: Options, stop: threading.Event, *, holder: str, world: Any = None
) -> Iterator[tuple[Taken, Device, StatusLine, Window | None]]:
    """The robot, what the person holds, the status line and the window, until the end of the `with`.

    world: the MjModel of the arm among its task's objects, which is simulated if the arm is, and shown; by default the
    arm alone. Raises ConfigError, DeviceError, DisplayError, what drivers raise.
    """
    given = driver_options(options.option)
    scene = {"scene": world} if world is not None and (options.driver or spec.driver) == "mujoco" else {}
    held = _device_options(options)
    button = estop_button(options.estop)
    if options.view:
        _check_view(spec)
    with contextlib.ExitStack() as stack:
        try:
            made = make_robot(spec, options.driver, **(given | scene))
        except DriverError as error:
            raise DriverError(f"{error}{other_drivers(spec, options.driver, given, '--driver {}')}") from None
        taken = Taken(made, holder=holder, name=options.name, button=button)
        hands = stack.enter_context(with_keyboard(options.device, spec, taken.loop.press_estop, **held))
        for text in hands.help:
            typer.echo(text)
        stack.enter_context(taken)
        window = stack.enter_context(Window(taken.loop, world, stop)) if options.view else None
        status = stack.enter_context(StatusLine())
        yield taken, hands, status, window


def stop_on_hangup() -> threading.Event:
    """As `stop_on_signals`, and the terminal's hangup too: of a lost ssh connection."""
    stop = stop_on_signals()
    signal.signal(signal.SIGHUP, lambda number, frame: stop.set())
    return stop


def _device_options(options: Options) -> dict[str, Any]:
    own = driver_options(options.device_option, "--device-option", "path=/dev/input/js1")
    if options.device == "leader":
        kind = {} if options.leader is None else {"type": options.leader}
        return {**kind, **driver_options(options.leader_option, "--leader-option", "port=/dev/ttyACM1"), **own}
    if options.leader is not None or options.leader_option:
        raise ConfigError(f"--leader and --leader-option are for --device leader, not for {options.device}")
    return own


def _check_view(spec: RobotSpec) -> None:
    if spec.mujoco is None:
        raise ConfigError(f"--view needs a model to show: the spec of {spec.name} has no block 'mujoco'")
    need_display()
