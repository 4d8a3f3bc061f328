"""Options that a driver refuses: which one takes such options, where that is knowable."""

from __future__ import annotations

from typing import Any

import pytest

from hal import load_spec
from robotlearn.robots.driver_hint import other_drivers

CASES: dict[str, tuple[str, str | None, dict[str, Any], str]] = {
    "a port": ("so101", None, {"port": "/dev/x", "id": "y"}, "; such options are for lerobot: --driver lerobot"),
    "an address": ("ur5e", None, {"address": "tcp://h:1"}, "; such options are for remote: --driver remote"),
    "topics": ("ur5e", None, {"joint_states": "/a"}, "for ros2 and dds: --driver ros2 or --driver dds"),
    "a port of an arm that LeRobot lacks": ("ur5e", None, {"port": "/dev/x"}, ""),
    "a slip": ("so101", None, {"prot": "/dev/x"}, ""),
    "what the driver takes": ("ur5e", "remote", {"address": "tcp://127.0.0.1:1"}, ""),
    "cameras of the simulated arm": ("so101", None, {"cameras": []}, ""),
    "nothing": ("so101", None, {}, ""),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "_"))
def test_the_drivers_that_take_them_are_named(case: str) -> None:
    robot, driver, options, said = CASES[case]
    told = other_drivers(load_spec(robot), driver, options, "--driver {}")
    assert told.endswith(said) and bool(told) == bool(said)
