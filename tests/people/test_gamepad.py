"""A gamepad's own 8-byte events, through a named pipe in place of /dev/input/js0."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotlearn.people.errors import DeviceError
from robotlearn.people.gamepad import Gamepad
from robotlearn.people.intent import ANGULAR, LINEAR, Event, Intent
from tests.waiting import until

BUTTON, AXIS, INIT = 1, 2, 0x80
ENABLE, ESTOP = 5, 1


class Pad:
    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        self.estops: list[str] = []
        self.device = Gamepad(self.estops.append, path=str(path))

    def send(self, kind: int, number: int, value: int) -> None:
        os.write(self._fd, struct.pack("IhBB", 0, value, kind, number))

    def wants(self, intent: Intent) -> None:
        until(lambda: self.device.read() == intent, f"{intent}", 5)

    def unplug(self) -> None:
        # Both ends of a pipe are this process's: the reader's end of file comes when its writer closes.
        os.close(self._fd)

    def close(self) -> None:
        self.device.close()


@pytest.fixture
def pad(tmp_path: Path) -> Iterator[Pad]:
    made = Pad(tmp_path / "js0")
    yield made
    made.close()


def test_it_moves_only_while_the_shoulder_button_is_held(pad: Pad) -> None:
    pad.send(AXIS, 1, -32767)
    pad.send(BUTTON, ENABLE, 1)
    pad.wants(Intent(linear=(LINEAR, 0, 0), enable=True))
    pad.send(BUTTON, ENABLE, 0)
    pad.wants(Intent())


@pytest.mark.parametrize(
    ("axis", "value", "intent"),
    [
        (0, 32767, Intent(linear=(0, -LINEAR, 0), enable=True)),
        (4, -32767, Intent(linear=(0, 0, LINEAR), enable=True)),
        (3, 32767, Intent(angular=(0, 0, -ANGULAR), enable=True)),
        (5, 32767, Intent(grip=-1.0, enable=True)),
        (2, 32767, Intent(grip=1.0, enable=True)),
        (1, 3000, Intent(enable=True)),
    ],
    ids=["right", "up", "clockwise", "close", "open", "a stick that doesn't quite centre"],
)
def test_sticks_and_triggers(pad: Pad, axis: int, value: int, intent: Intent) -> None:
    pad.send(BUTTON | INIT, ENABLE, 1)
    pad.send(AXIS, axis, value)
    pad.send(BUTTON, 3, 1)  # all before it has been read when this one has
    until(lambda: Event.SUCCESS in pad.device.read().events, "the last event")
    found = pad.device.read()
    assert found.linear == pytest.approx(intent.linear) and found.angular == pytest.approx(intent.angular)
    assert found.grip == pytest.approx(intent.grip) and found.enable


def test_half_a_way_is_about_half_the_speed(pad: Pad) -> None:
    pad.send(BUTTON, ENABLE, 1)
    pad.send(AXIS, 1, -16384)
    until(lambda: pad.device.read().linear[0] > 0, "a motion")
    assert pad.device.read().linear[0] == pytest.approx(0.43 * LINEAR, abs=0.01)


def test_buttons_mark_once_and_stop(pad: Pad) -> None:
    seen: list[Event] = []
    for number in (3, 2, 6, 7):
        pad.send(BUTTON, number, 1)
        pad.send(BUTTON, number, 0)
    until(lambda: seen.extend(pad.device.read().events) or len(seen) == 4, "four marks")
    assert seen == [Event.SUCCESS, Event.FAILURE, Event.DISCARD, Event.NEXT]
    assert pad.device.marks == "button 3: success, button 2: failure"
    pad.send(BUTTON | INIT, ESTOP, 1)  # how it was when it was opened is no press
    pad.send(BUTTON, ESTOP, 1)
    until(lambda: pad.estops == ["gamepad"], "the e-stop")


def test_one_that_is_pulled_out_is_gone(pad: Pad) -> None:
    pad.send(BUTTON, ENABLE, 1)
    pad.wants(Intent(enable=True))
    pad.unplug()

    def gone() -> bool:
        try:
            pad.device.read()
        except DeviceError as error:
            return "is gone" in str(error)
        return False

    until(gone, "the end")


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        Gamepad(print, path=str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="six different buttons"):
        Gamepad(print, path=str(tmp_path / "none"), enable=1)
