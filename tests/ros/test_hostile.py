"""Whatever is commanded, the messages that a subscriber of rclpy's gets from the driver `ros2` keep the limits."""

from pathlib import Path

import pytest

from hal.drivers.ros2 import RclpyTransport
from tests.hal.hostile_ros import attack_topics


@pytest.mark.parametrize("kind", ["joint_trajectory", "float64_multi_array"])
@pytest.mark.parametrize("on_stop", ["brake", "hold"])
def test_no_commands_make_a_message_leave_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, on_stop: str
) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    attack_topics("ros2", RclpyTransport, kind, on_stop, tmp_path, seed=1)
