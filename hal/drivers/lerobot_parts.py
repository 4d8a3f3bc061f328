"""What the driver `lerobot` needs to know of LeRobot's insides: configs by type, and the serial motor buses."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hal.errors import DriverError, RobotFault, nearest
from hal.spec import RobotSpec

_REGISTERS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "FeetechMotorsBus": {
        "status": ("Status", 1.0),
        "temperature": ("Present_Temperature", 1.0),
        "current": ("Present_Current", 0.0065),
        "voltage": ("Present_Voltage", 0.1),
    },
    "DynamixelMotorsBus": {
        "status": ("Hardware_Error_Status", 1.0),
        "temperature": ("Present_Temperature", 1.0),
        "voltage": ("Present_Input_Voltage", 0.1),
    },
}
"""Per kind of bus: where a quantity is, and how many degrees C, A or V one unit is (manuals: STS3215, XL330, XL430).

Dynamixel's register of the current is another quantity in XL430, the load."""
_STATUS = {0x01: "voltage", 0x02: "angle sensor", 0x04: "overheat", 0x08: "overcurrent", 0x20: "overload"}
_POLL_S = 0.005
QUIET_S = 0.02
"""[s] after a lost answer, in which it may still come."""
_CORRUPT = -7  # of the servo libraries' results


def config(spec: RobotSpec, kind: str, options: Mapping[str, Any]) -> Any:
    """LeRobot's config object of that type: the spec's options, and these on top. Raises DriverError."""
    try:
        import draccus
        import lerobot.cameras
        import lerobot.robots
        from lerobot.robots import RobotConfig
        from lerobot.utils.import_utils import register_third_party_plugins
    except ImportError as error:
        raise DriverError(
            f"{spec.name}: the driver 'lerobot' can't be loaded ({line(error)}): pip install 'robotlearn[lerobot]'"
        ) from error
    failed = ""
    for package in (lerobot.cameras, lerobot.robots):  # each module makes its types known to draccus
        for module in pkgutil.iter_modules(package.__path__):
            try:
                importlib.import_module(f"{package.__name__}.{module.name}")
            except ImportError as error:  # one of another kind whose libraries aren't there
                failed = f" (not everything of it could be loaded: {line(error)})"
    register_third_party_plugins()
    if kind not in (known := RobotConfig.get_known_choices()):
        raise DriverError(f"{spec.name}: lerobot.type: LeRobot has no robot {kind!r}: {nearest(kind, known)}{failed}")
    wanted = _merged(spec.lerobot.options if spec.lerobot else {}, options)
    try:
        return draccus.decode(RobotConfig, {**wanted, "type": kind})
    except Exception as error:
        raise DriverError(f"{spec.name}: LeRobot's {kind} doesn't take these options: {line(error)}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _plain(value) for key, value in below.items()}
    for key, value in above.items():
        under = both.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            both[key] = _merged(under, value)
        else:
            both[key] = _plain(value)
    return both


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def arms(robot: Any) -> dict[str, Any]:
    """The robot itself or, of a bimanual one, its arms, by the prefix of their keys."""
    both = {"left_": getattr(robot, "left_arm", None), "right_": getattr(robot, "right_arm", None)}
    return {prefix: arm for prefix, arm in both.items() if arm is not None} or {"": robot}


def serial(robot: Any) -> dict[str, Any]:
    """Those arms whose motors are on a serial bus of LeRobot's."""
    from lerobot.motors.motors_bus import SerialMotorsBus

    every = arms(robot).items()
    return {prefix: arm for prefix, arm in every if isinstance(getattr(arm, "bus", None), SerialMotorsBus)}


def addresses(robot: Any) -> tuple[str, ...]:
    """The ports of its arms; of one on a network, where it is."""
    keys = ("port", "remote_ip", "ip_address", "robot_ip")
    found = (getattr(arm.config, key, None) for arm in arms(robot).values() for key in keys)
    return tuple(str(one) for one in found if one)


def calibrate(arm: Any, kind: str) -> str:
    """The command that calibrates an arm of that type."""
    command = f"lerobot-calibrate --robot.type={kind} --robot.id={arm.id} --robot.calibration_dir={arm.calibration_dir}"
    port = getattr(arm.config, "port", None)
    return command + (f" --robot.port={port}" if port else "")


def check_calibration(arm: Any, kind: str, *, write: bool) -> None:
    """Makes sure that the motors have the calibration of the file, and that none moves when LeRobot takes it.

    LeRobot's `connect` switches the torque off and on again, and a motor that comes back with an old goal jumps there:
    so their goals become their present positions. Raises DriverError where there is no file, RobotFault.
    """
    if not arm.bus.calibration:
        raise DriverError(f"there is no calibration {arm.calibration_fpath}; run {calibrate(arm, kind)}")
    arm.bus.connect()
    if not arm.is_calibrated:
        if not write:
            raise RobotFault(
                f"the motors have another calibration than {arm.calibration_fpath}; run {calibrate(arm, kind)}, or "
                "give the option calibration: write if the file is the right one"
            )
        arm.bus.disable_torque(num_retry=2)
        arm.bus.write_calibration(arm.bus.calibration)
    _aim_at_present(arm.bus)
    arm.bus.disconnect(disable_torque=False)


def _aim_at_present(bus: Any) -> None:
    present = bus.sync_read("Present_Position", normalize=False, num_retry=2)
    bus.sync_write("Goal_Position", present, normalize=False)


def slacken(robot: Any) -> None:
    """Switches the torque of all motors off; what they raise is raised when each was asked."""
    errors = []
    for arm in serial(robot).values():
        for motor in arm.bus.motors:
            try:
                arm.bus.disable_torque(motor, num_retry=2)
            except Exception as error:
                errors.append(error)
    if errors:
        raise errors[0]


def stiffen(robot: Any) -> None:
    """Switches the torque on again; the motors stay where they are."""
    for arm in serial(robot).values():
        _aim_at_present(arm.bus)
        arm.bus.enable_torque(num_retry=2)


def listen_well(robot: Any) -> None:
    """Lets reads of the ports wait for the bytes, which LeRobot's servo libraries ask for in a loop without a pause.

    Leaves repeats to this driver: LeRobot's come at once, before the late answer to the first question.
    """
    for arm in serial(robot).values():
        arm.bus.port_handler.ser.timeout = _POLL_S
        if hasattr(arm.config, "num_read_retries"):
            arm.config.num_read_retries = 0


def drop_late_replies(robot: Any) -> None:
    """What came after LeRobot had given up on it would be taken for the answer to the next request."""
    for arm in serial(robot).values():
        if arm.bus.port_handler.ser.in_waiting:
            arm.bus.port_handler.ser.reset_input_buffer()


def registers(robot: Any, what: str) -> dict[str, float]:
    """One quantity of all motors, in its unit, by prefix and name of the motor."""
    found: dict[str, float] = {}
    for prefix, arm in serial(robot).items():
        register, unit = _REGISTERS.get(type(arm.bus).__name__, {}).get(what, ("", 0.0))
        if register:
            read = arm.bus.sync_read(register, normalize=False)
            found |= {f"{prefix}{motor}": value * unit for motor, value in read.items()}
    return found


def status(bits: int) -> str:
    """The bits of a servo's status, and those words of Feetech's manual for them that hold for Dynamixel too."""
    words = [word for bit, word in _STATUS.items() if bits & bit]
    return " ".join([f"status {bits:#04x}", *words])


def troubles(robot: Any, names: Mapping[str, str]) -> str:
    """Which ports are gone and which motors don't answer, or report an error, when each is asked by itself; or ''."""
    found = []
    for prefix, arm in serial(robot).items():
        bus = arm.bus
        if not bus.is_connected:
            continue
        bus.port_handler.is_using = False  # an exception in the middle of a packet leaves it so
        for motor, one in bus.motors.items():
            who = f"{names.get(prefix + motor, prefix + motor)} (motor {one.id} on {bus.port})"
            try:
                result, error = _pinged(arm, one.id)
            except OSError as gone:
                found.append(f"the port {bus.port} is gone: {line(gone)}")
                break
            if result:
                found.append(f"{who} doesn't answer: {bus.packet_handler.getTxRxResult(result).partition('] ')[2]}")
            elif error != 0:
                found.append(f"{who} reports an error: {status(error)}")
    return "; ".join(found)


def _pinged(arm: Any, motor: int) -> tuple[int, int]:
    """The servo library's code for how the answer came, 0 for well, and the motor's status. Raises OSError."""
    result = error = 0
    for _ in range(3):
        drop_late_replies(arm)
        try:
            _, result, error = arm.bus.packet_handler.ping(arm.bus.port_handler, motor)
        except IndexError:  # the library's own, of a reply cut short
            result, error = _CORRUPT, 0
        if result == 0:
            break
        time.sleep(QUIET_S)
    return result, error


def let_go(robot: Any) -> None:
    """Gives ports and cameras back, whatever state they are in."""
    for arm in arms(robot).values():
        with contextlib.suppress(Exception):
            arm.disconnect()
        for camera in getattr(arm, "cameras", {}).values():
            with contextlib.suppress(Exception):
                camera.disconnect()
    for arm in serial(robot).values():
        with contextlib.suppress(Exception):
            arm.bus.port_handler.closePort()


def line(error: BaseException) -> str:
    """What it says, and why."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if error.__cause__ is None else f"{text}: {line(error.__cause__)}"
