"""LeRobot's own, unmodified SO-101 leader on an emulated bus; nobody but the test moves its joints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hal import load_spec
from hal.emulators.presence import Presence
from robotlearn.people.errors import DeviceError
from robotlearn.people.hands import Hands, make_device
from robotlearn.people.leader import Leader
from tests.people.emulated import HandledArm
from tests.waiting import until

pytest.importorskip("lerobot")
SPEC = load_spec("so101")


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[HandledArm]:
    emulated = HandledArm(tmp_path, "hand")
    yield emulated
    emulated.close()


@pytest.fixture
def options(arm: HandledArm) -> dict[str, str]:
    return arm.options


def test_a_leader_that_a_hand_moves_is_read_in_si_units(arm: HandledArm, options: dict[str, str]) -> None:
    with Leader(SPEC, "so101_leader", **options) as leader:
        for shift in (0.3, -0.2):
            pose = SPEC.home + np.array([shift, 0.1, -0.1, -0.2, shift, -0.02])
            arm.put(pose)

            def there(pose: np.ndarray = pose) -> bool:
                target = leader.read().target
                return target is not None and bool(np.allclose(target, pose, atol=0.01))

            until(there, f"{pose}")
        assert not leader.read().enable  # it has no switch of its own


def test_one_that_is_unplugged_is_gone(arm: HandledArm, options: dict[str, str]) -> None:
    with Leader(SPEC, "so101_leader", **options) as leader:
        assert leader.read().moves
        arm.bus.close()

        def gone() -> bool:
            try:
                leader.read()
            except DeviceError as error:
                return "so101_leader" in str(error)
            return False

        until(gone, "its end")


def test_an_emulated_arm_leads_by_its_name(
    arm: HandledArm, options: dict[str, str], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Presence("leader") as presence:
        presence.announce("so101", "lerobot", dict(options))
        with Leader(SPEC, "emulated", name="leader") as leader:
            assert leader.read().target is not None
        with pytest.raises(DeviceError, match="did you mean 'leader'"):
            Leader(SPEC, "emulated", name="lead")
    with pytest.raises(DeviceError, match="robotlearn emulate so101"):
        Leader(SPEC, "emulated", name="leader")


def test_its_enable_switch_can_be_a_pedal(arm: HandledArm, options: dict[str, str], tmp_path: Path) -> None:
    import os
    import struct

    os.mkfifo(tmp_path / "pedal")
    pedal = os.open(tmp_path / "pedal", os.O_RDWR)
    switch = {"device": str(tmp_path / "pedal"), "key": "KEY_F13"}
    with make_device("leader", SPEC, print, type="so101_leader", enable=switch, **options) as device:
        assert isinstance(device, Hands) and not device.read().enable
        assert device.marks == "", "neither has a key for it"
        os.write(pedal, struct.pack("llHHi", 0, 0, 1, 183, 1))
        until(lambda: device.read().enable, "the pedal")
        assert device.read().target is not None
    os.close(pedal)


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("so101_lead", {}, "did you mean 'so101_leader'"),
        ("so101_leader", {"port": "/dev/none"}, "can't be reached"),
        ("so101_leader", {"ports": "x"}, "doesn't take these options"),
        ("so101_leader", {"id": "foot"}, "lerobot-calibrate --teleop.type=so101_leader --teleop.id=foot"),
        ("gamepad", {"port": None}, "gamepad"),
    ],
)
def test_what_is_wrong_is_said(
    arm: HandledArm, options: dict[str, str], kind: str, change: dict[str, object], why: str
) -> None:
    merged = {key: value for key, value in {**options, **change}.items() if value is not None}
    with pytest.raises(DeviceError, match=why):
        Leader(SPEC, kind, **merged)


def test_a_robot_that_lerobot_does_not_know_follows_none() -> None:
    with pytest.raises(DeviceError, match="panda can't follow one"):
        Leader(load_spec("panda"), "so101_leader", port="/dev/none")
