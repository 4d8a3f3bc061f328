"""Whatever is commanded, the messages that a subscriber gets from the driver `dds` keep the limits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hal.drivers.dds import DdsTransport
from tests.hal.hostile_ros import attack_topics

pytest.importorskip("cyclonedds")
KINDS = pytest.mark.parametrize("kind", ["joint_trajectory", "float64_multi_array"])
STOPS = pytest.mark.parametrize("on_stop", ["brake", "hold"])


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(102)))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.mark.parametrize(("kind", "on_stop"), [("joint_trajectory", "brake"), ("float64_multi_array", "hold")])
def test_no_commands_make_a_message_leave_the_limits(tmp_path: Path, kind: str, on_stop: str) -> None:
    attack_topics("dds", DdsTransport, kind, on_stop, tmp_path, seed=1)


@pytest.mark.slow
@KINDS
@STOPS
@pytest.mark.parametrize("seed", range(10, 11))
def test_no_more_commands_do(tmp_path: Path, kind: str, on_stop: str, seed: int) -> None:
    attack_topics("dds", DdsTransport, kind, on_stop, tmp_path, seed=seed)
