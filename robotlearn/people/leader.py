"""`Leader`: an arm that a person moves by hand, by way of any teleoperator of LeRobot, or an emulated one."""

from __future__ import annotations

import importlib
import pkgutil
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hal.drivers import lerobot_parts as parts
from hal.emulators.presence import present
from hal.errors import nearest
from hal.robot import Array
from hal.spec import RobotSpec
from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import Device, Intent

PERIOD_S = 0.01
STALE_S = 2.0
"""A leader that couldn't be read for so long is gone. Until then the follower stays where its leader was last seen, so
that a machine that hangs for a moment ends nothing."""
_EMULATED = "emulated"
_CONNECTS = 3  # times: LeRobot sends no packet of its many twice while it connects


class Leader(Device):
    """Its joints are the follower's targets. Keys and units are those of the follower's spec, block `lerobot`.

    type: LeRobot's registered type of a teleoperator, such as so101_leader, or `emulated` with the option name: an arm
    of `robotlearn emulate`, pulled at in its window. options: what LeRobot's config of that type takes, such as port,
    id and calibration_dir. It has no enable switch and no buttons: those are another device's.

    It never asks on standard input: a leader without a calibration is an error that names the command to run.

    Raises DeviceError when LeRobot, the type or the arm is missing, or its keys aren't the follower's.
    """

    def __init__(self, spec: RobotSpec, type: str, **options: Any) -> None:
        if spec.lerobot is None:
            raise DeviceError(f"leader: {spec.name} can't follow one: its spec has no block 'lerobot'")
        if type == _EMULATED:
            type, options = _emulated(options)
        self._type, self._keys = type, spec.lerobot.keys
        self._scale = np.broadcast_to(np.array(spec.lerobot.scale), spec.dim)
        self._offset = np.broadcast_to(np.array(spec.lerobot.offset), spec.dim)
        self._arm, action = _connected(type, options, self._keys)
        self._lock = threading.Lock()
        self._target, self._at = self._in_si(action), time.monotonic()
        self._fault = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self._thread.start()

    @property
    def help(self) -> tuple[str, ...]:
        return ("the arm follows the leader while enabled; it creeps to the leader's pose first",)

    def read(self) -> Intent:
        with self._lock:
            age = time.monotonic() - self._at
            if age > STALE_S:
                raise DeviceError(f"leader {self._type}: {self._fault or f'nothing for {age:.1f} s'}")
            return Intent(target=self._target.copy())

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        parts.let_go(self._arm)

    def _in_si(self, action: Mapping[str, Any]) -> Array:
        values: Array = np.array([float(action[key]) for key in self._keys])
        return values * self._scale + self._offset

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            try:
                target = self._in_si(self._arm.get_action())
            except Exception as error:  # LeRobot's and the system's: one packet may be lost, too many are not
                self._fault = parts.line(error)
                continue
            with self._lock:
                self._target, self._at = target, time.monotonic()


def _emulated(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    arms = {entry["name"]: entry for entry in present() if entry["driver"] == "lerobot"}
    if set(options) != {"name"}:
        raise DeviceError(f"leader: an emulated one has the option name, one of: {', '.join(arms) or 'none runs'}")
    if options["name"] not in arms:
        hint = nearest(str(options["name"]), arms) if arms else "none runs: robotlearn emulate so101 --name leader"
        raise DeviceError(f"leader: no emulated arm {options['name']!r}: {hint}")
    entry = arms[options["name"]]
    return f"{entry['spec']}_leader", dict(entry["options"])


def _connected(kind: str, options: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, Any]:
    """LeRobot's teleoperator, and its first action."""
    try:
        import draccus
        import lerobot.teleoperators
        from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
    except ImportError as error:
        raise DeviceError(
            f"leader: LeRobot can't be loaded ({parts.line(error)}): pip install 'robotlearn[lerobot]'"
        ) from error
    failed = ""
    for module in pkgutil.iter_modules(lerobot.teleoperators.__path__):
        if kind in TeleoperatorConfig.get_known_choices():
            break
        try:
            importlib.import_module(f"lerobot.teleoperators.{module.name}")
        except ImportError as error:  # one of another kind whose libraries aren't there
            failed = f" (not everything of it could be loaded: {parts.line(error)})"
    known = TeleoperatorConfig.get_known_choices()
    if kind not in known:
        raise DeviceError(f"leader: LeRobot has no teleoperator {kind!r}: {nearest(kind, known)}{failed}")
    try:
        config = draccus.decode(TeleoperatorConfig, {"type": kind, **options})
        arm = make_teleoperator_from_config(config)
    except Exception as error:
        raise DeviceError(f"leader: LeRobot's {kind} doesn't take these options: {parts.line(error)}") from error
    if missing := [key for key in keys if key not in arm.action_features]:
        raise DeviceError(f"leader: {kind} has no {missing[0]!r}: {nearest(missing[0], arm.action_features)}")
    left = _CONNECTS
    while True:
        left -= 1
        try:
            arm.connect(calibrate=False)
            parts.listen_well(arm)
            if not arm.is_calibrated:
                raise DeviceError(f"leader: {kind} isn't calibrated as its file says; run: {_calibrate(kind, arm)}")
            return arm, arm.get_action()
        except Exception as error:
            parts.let_go(arm)
            if isinstance(error, DeviceError):
                raise
            if not left or not isinstance(error, ConnectionError | RuntimeError):
                raise DeviceError(f"leader: {kind} can't be reached: {parts.line(error)}") from error
            arm = make_teleoperator_from_config(config)


def _calibrate(kind: str, arm: Any) -> str:
    port = getattr(arm.config, "port", None)
    how = f"lerobot-calibrate --teleop.type={kind} --teleop.id={arm.id}"
    return how + f" --teleop.port={port}" * (port is not None)
