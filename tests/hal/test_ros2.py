"""The driver `ros2`: what needs no rclpy here; with it, tests/ros, which runs in an environment of its own."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

import hal
from hal import DriverError
from tests.fakes import small_spec

ROOT = Path(hal.__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-ros" / "bin" / "python"
SET_BY_ROS = ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="rclpy is there")
def test_no_rclpy_is_one_line_that_says_what_to_source() -> None:
    with pytest.raises(DriverError, match=r"the driver 'ros2' needs rclpy \(.*\): source /opt/ros/DISTRO/setup.bash"):
        hal.make_robot(small_spec(), "ros2")


def test_only_this_driver_imports_rclpy() -> None:
    folder = Path(hal.__file__).parent
    importers = [file.name for file in folder.rglob("*.py") if re.search(r"(from|import) rclpy", file.read_text())]
    assert importers == ["ros2.py"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: scripts/setup_ros.sh makes it")
def test_with_rclpy() -> None:
    env = {key: value for key, value in os.environ.items() if key not in SET_BY_ROS}
    command = [PYTHON, "-m", "pytest", "-q", "--confcutdir", "tests/ros", "--durations", "5", "tests/ros"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    print(done.stdout[-20_000:], done.stderr[-5_000:])
    assert done.returncode == 0, "the tests with rclpy failed, see above"
