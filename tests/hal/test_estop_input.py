"""A button as e-stop: a key's real events through a named pipe, and a serial port without modem lines."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hal.errors import DriverError
from hal.estop import EStop
from hal.estop_input import Contact, EStopInput, KeyContact, SerialContact, contact
from tests.waiting import until

SPACE, ENTER = 57, 28


class Button:
    """Both ends of the pipe that a `KeyContact` listens to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)

    def send(self, code: int, value: int, kind: int = 1) -> None:
        os.write(self._fd, struct.pack("llHHi", 0, 0, kind, code, value))
        os.write(self._fd, struct.pack("llHHi", 0, 0, 0, 0, 0))  # SYN_REPORT follows each

    def unplug(self) -> None:
        os.close(self._fd)


class Told:
    """What an input pressed, and for which reasons."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, why: str) -> None:
        with self._lock:
            self.reasons.append(why)

    def __len__(self) -> int:
        return len(self.reasons)


@pytest.fixture
def button(tmp_path: Path) -> Button:
    return Button(tmp_path / "event0")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def listening() -> Iterator[list[EStopInput]]:
    made: list[EStopInput] = []
    yield made
    for one in made:
        one.close()


def quiet(key: KeyContact) -> bool:
    return not key.pressed()


def test_its_key_presses_and_no_other(button: Button) -> None:
    key = KeyContact(str(button.path), "KEY_SPACE")
    key.open()
    button.send(ENTER, 1)
    assert quiet(key)
    button.send(SPACE, 0, kind=4)  # a scan code, which comes with each key
    assert quiet(key)
    button.send(SPACE, 1)
    assert key.pressed()
    button.send(SPACE, 2)  # repeats itself
    assert key.pressed()
    button.send(SPACE, 0)
    assert quiet(key)
    key.close()


def test_a_contact_that_opens_is_pressed_when_the_key_comes_up(button: Button) -> None:
    key = KeyContact(str(button.path), SPACE, released=True)
    key.open()
    assert key.pressed()  # nobody knows that it is closed
    button.send(SPACE, 1)
    assert not key.pressed()
    button.send(SPACE, 0)
    assert key.pressed()
    key.close()


def test_any_key_is_one_where_none_is_named(button: Button) -> None:
    key = KeyContact(str(button.path))
    key.open()
    button.send(ENTER, 1)
    assert key.pressed()
    key.close()


def test_the_input_tells_a_press_and_goes_on_telling_while_it_lasts(
    button: Button, told: Told, listening: list[EStopInput]
) -> None:
    listening.append(EStopInput(KeyContact(str(button.path), SPACE), told))
    until(lambda: listening[0].alive(), "the first look")
    button.send(SPACE, 1)
    until(lambda: len(told) >= 3, "three presses")
    assert set(told.reasons) == {"button"}
    button.send(SPACE, 0)
    button.send(ENTER, 1)
    count = len(told)
    until(lambda: len(told) == count or len(told) == count + 1, "silence")


def test_an_estop_cannot_be_cleared_under_a_pressed_button(
    button: Button, listening: list[EStopInput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOTLEARN_RUNTIME_DIR", str(tmp_path))
    estop = EStop("left")
    listening.append(EStopInput(KeyContact(str(button.path), SPACE), lambda why: estop.press("the station", why)))
    button.send(SPACE, 1)
    until(lambda: estop.pressed, "the e-stop")
    assert estop.reason() == "e-stop by the station: button"
    estop.clear()
    until(lambda: estop.pressed, "the e-stop again")


def test_a_device_that_is_pulled_out_is_pressed(button: Button, told: Told, listening: list[EStopInput]) -> None:
    listening.append(EStopInput(KeyContact(str(button.path), SPACE), told))
    button.send(ENTER, 1)
    until(lambda: listening[0].alive(), "the first look")
    assert not len(told)
    button.unplug()
    until(lambda: len(told), "the press")
    assert "unplugged" in told.reasons[0]


def test_a_device_that_is_not_there_is_pressed_until_it_comes(
    tmp_path: Path, told: Told, listening: list[EStopInput]
) -> None:
    listening.append(EStopInput(KeyContact(str(tmp_path / "event0"), SPACE), told))
    until(lambda: len(told), "the press")
    assert "No such file" in told.reasons[0]
    late = Button(tmp_path / "event0")

    def silent() -> bool:
        before = len(told)
        threading.Event().wait(0.35)  # three times the pause between two presses
        return len(told) == before

    until(silent, "the contact to be opened")
    late.send(SPACE, 1)
    until(lambda: told.reasons[-1] == "button", "the button")


def test_a_serial_port_without_modem_lines_is_pressed(told: Told, listening: list[EStopInput]) -> None:
    master, slave = os.openpty()
    listening.append(EStopInput(SerialContact(os.ttyname(slave)), told))
    until(lambda: len(told), "the press")
    assert "its input is gone" in told.reasons[0]
    os.close(master)
    os.close(slave)


class Wired(SerialContact):
    """On a pseudo-terminal, with a line that the test sets."""

    line_set = True

    def closed_circuit(self) -> bool:
        return self.line_set


def test_an_open_circuit_is_pressed(told: Told, listening: list[EStopInput]) -> None:
    master, slave = os.openpty()
    wired = Wired(os.ttyname(slave))
    wired.open = lambda: None  # type: ignore[method-assign]  # a pseudo-terminal refuses DTR and RTS
    listening.append(EStopInput(wired, told))
    until(lambda: listening[0].alive(), "the first look")
    assert not len(told)
    wired.line_set = False
    until(lambda: told.reasons == ["button"], "the press")
    os.close(master)
    os.close(slave)


class Broken(Contact):
    def open(self) -> None: ...

    def pressed(self) -> bool:
        raise RuntimeError("a bug of a driver")

    def close(self) -> None: ...


def test_whatever_a_contact_raises_is_pressed(told: Told, listening: list[EStopInput]) -> None:
    listening.append(EStopInput(Broken(), told))
    until(lambda: len(told), "the press")
    assert "a bug of a driver" in told.reasons[0]


class Stuck(Contact):
    def __init__(self) -> None:
        self.free = threading.Event()

    def open(self) -> None: ...

    def pressed(self) -> bool:
        self.free.wait()
        return False

    def close(self) -> None: ...


def test_one_that_hangs_in_its_driver_is_not_alive(told: Told, listening: list[EStopInput]) -> None:
    stuck = Stuck()
    listening.append(EStopInput(stuck, told))
    until(lambda: not listening[0].alive(), "its silence")
    stuck.free.set()
    until(lambda: listening[0].alive(), "its return")


def test_one_that_hung_with_its_whole_process_is_alive(told: Told, listening: list[EStopInput]) -> None:
    stuck = Stuck()
    listening.append(EStopInput(stuck, told))
    assert listening[0].alive()
    threading.Event().wait(1.2)  # nobody runs
    assert listening[0].alive()
    stuck.free.set()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "either evdev or serial, not nothing"),
        ({"evdev": {"device": "x"}, "serial": {"port": "y"}}, "either evdev or serial"),
        ({"evdev": {"device": "x", "key": "KEY_SPACEBAR"}}, "did you mean 'KEY_SPACE'"),
        ({"evdev": {"device": "x", "key": 70000}}, "a number from 1"),
        ({"evdev": {"key": 5}}, "device"),
        ({"serial": {"port": "x", "line": "ctx"}}, "did you mean 'cts'"),
    ],
)
def test_what_is_wrong_with_its_options_is_said(options: dict[str, dict[str, object]], why: str) -> None:
    with pytest.raises(DriverError, match=why):
        contact(options)


def test_options_as_a_config_has_them(button: Button) -> None:
    key = contact({"evdev": {"device": str(button.path), "key": "KEY_ENTER"}})
    key.open()
    button.send(ENTER, 1)
    assert key.pressed()
    key.close()
    assert isinstance(contact({"serial": {"port": "/dev/ttyUSB0", "line": "dsr"}}), SerialContact)
