"""`Hands`: a device for motions and another one for the keys, as one; and how devices are made by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hal.errors import nearest
from hal.spec import RobotSpec
from robotlearn.people.errors import DeviceError
from robotlearn.people.gamepad import Gamepad
from robotlearn.people.intent import Device, Intent, OnEStop
from robotlearn.people.keyboard import Keyboard
from robotlearn.people.leader import Leader
from robotlearn.people.pedal import Pedal

NAMES = ("keyboard", "gamepad", "leader")


class Hands(Device):
    """Motions come from `motion`, events from both; the enable switch is that of `switch`, if there is one.

    Both belong to this object from now on.
    """

    def __init__(self, motion: Device, switch: Device, *, switched: bool) -> None:
        """switched: the enable switch is `switch`'s, since `motion` has none."""
        self._motion, self._switch, self._switched = motion, switch, switched

    @property
    def help(self) -> tuple[str, ...]:
        return (*self._motion.help, *self._switch.help)

    @property
    def go_on(self) -> str:
        return self._switch.go_on if self._switched else f"{self._motion.go_on}, or Enter"

    @property
    def marks(self) -> str:
        return "; ".join(filter(None, (self._motion.marks, self._switch.marks)))

    def tell(self, text: str) -> None:
        self._motion.tell(text)
        self._switch.tell(text)

    def read(self) -> Intent:
        motion, switch = self._motion.read(), self._switch.read()
        enable = switch.enable if self._switched else motion.enable
        return replace(motion, enable=enable, events=(*motion.events, *switch.events))

    def release(self) -> None:
        self._motion.release()
        self._switch.release()

    def close(self) -> None:
        self._motion.close()
        self._switch.close()


def make_device(name: str, spec: RobotSpec, on_estop: OnEStop, /, **options: Any) -> Device:
    """A device of that name with its options, for a robot of that spec.

    A leader's options are those of `Leader`, and one more: `enable`, the options of the `Pedal` that is its enable
    switch; without it the keyboard is, of the terminal that the option `terminal` names.

    Raises DeviceError: no such device (the nearest name is suggested), or it doesn't take the options.
    """
    if name == "keyboard":
        return _made(Keyboard, name, on_estop, options)
    if name == "gamepad":
        return _made(Gamepad, name, on_estop, options)
    if name != "leader":
        raise DeviceError(f"unknown device {name!r}: {nearest(name, NAMES)}")
    own = dict(options)
    pedal, terminal = own.pop("enable", None), own.pop("terminal", None)
    if "type" not in own:
        raise DeviceError("leader: which one? name its type (--leader TYPE), such as so101_leader, or emulated")
    leader = Leader(spec, **own)
    try:
        if pedal is None:
            switch: Device = Keyboard(on_estop, terminal=terminal, motion=False)
        else:
            switch = _made(Pedal, "enable", on_estop, pedal)
    except BaseException:
        leader.close()
        raise
    return Hands(leader, switch, switched=True)


def with_keyboard(name: str, spec: RobotSpec, on_estop: OnEStop, /, **options: Any) -> Device:
    """As `make_device`, and the terminal's keys with it: space, q and the marks work whatever moves the arm."""
    device = make_device(name, spec, on_estop, **options)
    if name == "keyboard" or (name == "leader" and "enable" not in options):
        return device
    try:
        return Hands(device, Keyboard(on_estop, motion=False), switched=False)
    except BaseException:
        device.close()
        raise


def _made(kind: Callable[..., Device], name: str, on_estop: OnEStop, options: Mapping[str, Any]) -> Device:
    try:
        inspect.signature(kind).bind(on_estop, **options)
    except TypeError as error:
        raise DeviceError(f"{name}, called with the options {sorted(options)}: {error}") from None
    return kind(on_estop, **options)
