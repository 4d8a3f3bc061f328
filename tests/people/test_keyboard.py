"""Keys of a real pseudo-terminal: what they mean, for how long, and that the terminal is given back."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robotlearn.people.errors import DeviceError
from robotlearn.people.intent import ANGULAR, LINEAR, Event, Intent
from robotlearn.people.keyboard import HELD_S, Keyboard
from robotlearn.people.terminal import options_in_a_run
from tests.people.typing_person import Typist
from tests.waiting import until

HOLDER = """
import os, signal, sys, time
from robotlearn.people.terminal import Terminal
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever runs the tests
signal.signal(signal.SIGHUP, signal.SIG_DFL)
terminal = Terminal(lambda key: None, sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


# A child in a session of its own, as `Child` starts them, of one that is in the foreground of a terminal, or not.
CHILD = """
import subprocess, sys
from robotlearn.people.terminal import controlling_terminal
if sys.argv[1] == "child":
    print(f"[{controlling_terminal()}]", flush=True)
else:
    background = sys.argv[1] == "background"
    next = ["foreground", sys.argv[2]] if background else ["child"]
    group = {"process_group": 0} if background else {"start_new_session": True}
    subprocess.run([sys.executable, "-c", sys.argv[2], *next], stdin=subprocess.DEVNULL, **group)
"""


class Desk:
    """A keyboard on a pseudo-terminal, and the time that it takes for now."""

    def __init__(self, **options: bool) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.now = 100.0
        self.estops: list[str] = []
        self.keyboard = Keyboard(self.estops.append, terminal=os.ttyname(self.slave), clock=lambda: self.now, **options)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wants(self, intent: Intent) -> None:
        until(lambda: self.keyboard.read() == intent, f"{intent}, not {self.keyboard.read()}", 5)

    def close(self) -> None:
        self.keyboard.close()
        for descriptor in (self.master, self.slave):
            os.close(descriptor)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("key", "intent"),
    [
        ("w", Intent(linear=(LINEAR, 0, 0), enable=True)),
        ("\x1b[B", Intent(linear=(-LINEAR, 0, 0), enable=True)),
        ("\x1bOD", Intent(linear=(0, LINEAR, 0), enable=True)),
        ("f", Intent(linear=(0, 0, -LINEAR), enable=True)),
        ("j", Intent(angular=(0, 0, ANGULAR), enable=True)),
        ("w\x1b[A", Intent(linear=(LINEAR, 0, 0), enable=True)),
        ("wa", Intent(linear=(LINEAR, LINEAR, 0), enable=True)),
        ("c", Intent(grip=-1.0, enable=True)),
    ],
    ids=["w", "down", "left", "down in z", "yaw", "two of one direction", "two directions", "close"],
)
def test_a_key_moves(desk: Desk, key: str, intent: Intent) -> None:
    desk.press(key)
    desk.wants(intent)


def test_a_key_that_is_let_go_moves_no_longer_than_a_quarter_of_a_second(desk: Desk) -> None:
    desk.press("w")
    desk.wants(Intent(linear=(LINEAR, 0, 0), enable=True))
    desk.now += HELD_S - 0.01
    assert desk.keyboard.read().moves
    desk.now += 0.02
    assert desk.keyboard.read() == Intent(enable=True)
    desk.now += 1.0
    assert desk.keyboard.read() == Intent()


def test_what_is_pressed_once_is_told_once_and_in_order(desk: Desk) -> None:
    desk.press("y\x7fn\rq")
    seen: list[Event] = []
    until(lambda: seen.extend(desk.keyboard.read().events) or len(seen) == 5, "five events")
    assert seen == [Event.SUCCESS, Event.DISCARD, Event.FAILURE, Event.NEXT, Event.QUIT]
    assert desk.keyboard.read().events == ()


def test_space_is_the_estop_and_lets_go_of_everything(desk: Desk) -> None:
    desk.press("ew")
    desk.wants(Intent(linear=(LINEAR, 0, 0), enable=True))
    desk.press(" ")
    until(lambda: desk.estops == ["keyboard"], "the e-stop")
    desk.wants(Intent())


def test_the_enable_switch_latches_until_it_is_pressed_again_or_released(desk: Desk) -> None:
    desk.press("e")
    desk.wants(Intent(enable=True))
    desk.now += 100
    assert desk.keyboard.read().enable
    desk.press("e")
    desk.wants(Intent())
    desk.press("e")
    desk.wants(Intent(enable=True))
    desk.keyboard.release()
    assert not desk.keyboard.read().enable


@pytest.mark.parametrize(
    ("typed", "clears"), [("CLEAR", True), ("CLCLEAR", True), ("clear", False), ("CLEwAR", False), ("CLE AR", False)]
)
def test_only_the_whole_word_clears(desk: Desk, typed: str, clears: bool) -> None:
    desk.press(typed + "y")
    seen: list[Event] = []
    until(lambda: seen.extend(desk.keyboard.read().events) or Event.SUCCESS in seen, "the last key")
    assert (Event.CLEAR in seen) == clears


def test_beside_another_device_no_key_moves_or_enables_by_itself() -> None:
    desk = Desk(motion=False)
    desk.press("wy")
    until(lambda: desk.keyboard.read().events == (Event.SUCCESS,), "the last key")
    assert desk.keyboard.read() == Intent()
    assert not any("forth" in text for text in desk.keyboard.help)
    desk.close()


def test_a_terminal_that_hangs_up_is_gone() -> None:
    desk = Desk()
    os.close(desk.slave)
    os.close(desk.master)
    until(lambda: _raises(desk.keyboard), "the hangup")
    desk.keyboard.close()


def _raises(keyboard: Keyboard) -> bool:
    try:
        keyboard.read()
    except DeviceError as error:
        return "gone" in str(error)
    return False


def test_meanwhile_the_terminal_echoes_nothing_and_takes_no_ctrl_z(desk: Desk) -> None:
    now = termios.tcgetattr(desk.slave)
    assert not now[3] & (termios.ECHO | termios.ICANON)
    assert now[3] & termios.ISIG
    assert now[6][termios.VSUSP] == b"\0" and not now[0] & termios.IXON
    desk.keyboard.close()
    assert termios.tcgetattr(desk.slave) == desk.before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_terminal_is_as_before_however_its_process_ends(how: signal.Signals) -> None:
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    command = [sys.executable, "-c", HOLDER, os.ttyname(slave)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert termios.tcgetattr(slave) != before
        holder.send_signal(how)
        holder.wait(30)
    until(lambda: termios.tcgetattr(slave) == before, "the terminal's old mode")
    os.close(master)
    os.close(slave)


def test_without_a_terminal_it_says_what_to_do(tmp_path: object) -> None:
    with pytest.raises(DeviceError, match=r"/dev/none: No such file"):
        Keyboard(print, terminal="/dev/none")


@pytest.mark.parametrize("place", ["foreground", "background"])
def test_a_child_finds_the_terminal_that_its_parent_is_in_the_foreground_of(place: str) -> None:
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, place, CHILD],
        stdin=slave,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    assert done.stdout.strip() == (f"[{os.ttyname(slave)}]" if place == "foreground" else "[None]")
    os.close(master)
    os.close(slave)


def test_what_an_edge_lacks_is_said_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "edges.1.person"
    monkeypatch.setattr("robotlearn.people.terminal.controlling_terminal", lambda: None)
    with pytest.raises(DeviceError, match=r"set edges\.1\.person\.options\.terminal"):
        options_in_a_run(where, "keyboard", {})
    with pytest.raises(DeviceError, match=r"edges\.1\.person\.options\.terminal: .* terminal /dev/none: No such"):
        options_in_a_run(where, "leader", {"terminal": "/dev/none"})
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="is no terminal"):
        options_in_a_run(where, "keyboard", {"terminal": str(tmp_path / "file")})
    for device, options in (("gamepad", {}), ("leader", {"enable": {"device": "/dev/input/event3"}})):
        assert options_in_a_run(where, device, options) == options


def test_a_line_is_shown_at_a_terminal_of_its_own(desk: Desk) -> None:
    desk.keyboard.tell("set the scene up")
    assert b"set the scene up\r\n" in os.read(desk.master, 1000)


def test_a_run_says_what_its_terminal_has_keys_for(typist: Callable[..., Typist], tmp_path: Path) -> None:
    edges = "edges=[{name: left, kind: paced, person: {device: keyboard}}]"
    at = typist("train", "smoke", edges, "--run", str(tmp_path / "run"))
    for text in ("left: w s / up down: forth, back", "left: Space: E-STOP", "starting"):
        at.sees(text)
    at.press("\x03")
    assert at.ends() in (0, 130) and "Traceback" not in at.screen
