"""Whether an arm of LeRobot's has its calibration file, without opening its port."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hal.spec import RobotSpec


def missing_folder(options: Mapping[str, Any]) -> str:
    """What is wrong with the option `calibration_dir`; "" for nothing."""
    folder = options.get("calibration_dir")
    if folder is None or Path(str(folder)).expanduser().is_dir():
        return ""
    return f"calibration_dir: there is no folder {folder}"


def missing_calibration(spec: RobotSpec, options: Mapping[str, Any]) -> str:
    """Which calibration file isn't there, and the command that makes it; "" when all are. For options that the driver
    takes; it loads LeRobot, which makes the file's folder where there is none.
    """
    from lerobot.robots import make_robot_from_config

    from hal.drivers import lerobot_parts as parts

    if spec.lerobot is None:
        return ""
    # The one option that is the driver's own.
    given = {key: value for key, value in options.items() if key != "calibration"}
    robot = make_robot_from_config(parts.config(spec, spec.lerobot.type, given))
    for prefix, arm in parts.serial(robot).items():
        if not arm.calibration_fpath.is_file():
            kind = arm.config.type if prefix else spec.lerobot.type
            return f"there is no calibration {arm.calibration_fpath}; run {parts.calibrate(arm, kind)}"
    return ""
