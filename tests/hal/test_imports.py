"""What runs beside a robot stays light: the package imports no torch and nothing of the packages above it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pkgutil, sys
import hal, hal.drivers
for package in (hal, hal.drivers):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        __import__(module.name)
hal.check_robot(hal.make_robot(hal.load_spec("panda")))
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_no_torch_and_nothing_from_above() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"hal", "mujoco", "numpy"} <= loaded
    assert not loaded & {"torch", "envs", "policies", "robotlearn", "lerobot", "ray", "zmq", "gymnasium"}
