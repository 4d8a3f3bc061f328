"""What is here runs with .venv-ros's Python, which has rclpy: tests/hal/test_ros2.py starts it."""

import importlib.util
import os
import random
import sys
from pathlib import Path

if importlib.util.find_spec("rclpy") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # Before rclpy is first used, and for child processes: a domain of this run's own, on this machine only.
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(102))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from robotlearn import gl

    gl.choose()
