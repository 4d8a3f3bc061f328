"""Which drivers take options that the chosen one refuses: `port` is none of MuJoCo's, but LeRobot's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hal.drivers.ros_options import RosOptions
from hal.errors import HalError
from hal.registry import make_robot
from hal.spec import RobotSpec


def other_drivers(spec: RobotSpec, driver: str | None, options: Mapping[str, Any], form: str) -> str:
    """The end of a message: which drivers take such options; "" where the chosen one takes them, or none is known to.

    form: how its user names a driver, such as `--driver {}`. LeRobot's options are known by what every arm at a port
    needs, since loading LeRobot only to ask it takes ten seconds.
    """
    chosen = driver or spec.driver
    names = set(options)
    known = {
        "lerobot": spec.lerobot is not None and bool(names & {"port", "id", "calibration_dir"}),
        "ros2": bool(names) and names <= RosOptions.model_fields.keys() - {"cameras"},
        "dds": bool(names) and names <= RosOptions.model_fields.keys() - {"cameras"},
        "remote": names == {"address"},
    }
    taking = [name for name, takes in known.items() if takes and name != chosen]
    if not taking or _takes(spec, chosen, options):
        return ""
    return f"; such options are for {' and '.join(taking)}: {' or '.join(form.format(name) for name in taking)}"


def _takes(spec: RobotSpec, driver: str, options: Mapping[str, Any]) -> bool:
    try:
        make_robot(spec, driver, **options)
    except (HalError, TypeError):  # TypeError: an option that its constructor doesn't know
        return False
    return True
