"""A served arm with keys moves for whoever may move it, and for nobody else, from one message to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hal
from robotlearn.edge.remote import RemoteRobot
from robotlearn.wire.door import named_keys
from robotlearn.wire.keys import Keys, Role
from tests.arms import RecordingArm, fast_spec
from tests.edge.remote_rig import Rig, drive, near
from tests.waiting import until
from tests.wire.crowd import GREETING, flood

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Both sides' folder: which key is whose is a matter of its name."""
    monkeypatch.setenv("ROBOTLEARN_KEYS", str(tmp_path / "keys"))
    made = Keys()
    made.new("bench")
    return made


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(RecordingArm(fast_spec()), "tcp://127.0.0.1:*", named_keys("bench"))
    yield made
    made.close()


def operator(rig: Rig, keys: Keys, name: str, *roles: Role) -> RemoteRobot:
    pair = keys.new(name)
    if roles:
        keys.allow(name, pair.public, roles)
    return robot(rig, keys, name)


def robot(rig: Rig, keys: Keys, name: str) -> RemoteRobot:
    return RemoteRobot(
        fast_spec(), address=rig.address, key=str(keys.own("bench").public), own_key=name, ttl=60.0, holder=name
    )


def test_who_may_moves_it_and_is_heard_no_more_once_revoked(rig: Rig, keys: Keys) -> None:
    with operator(rig, keys, "anna", "arm") as arm:
        drive(arm, near(arm))
        keys.revoke("anna")
        until(lambda: rig.server.stats()["clients"] == 0, "the arm to put it out")
        with pytest.raises(hal.RobotFault, match="doesn't allow that key"):
            drive(arm, near(arm, 0.5))
        until(lambda: rig.loop.activity == "stopped", "its watchdog")
        assert rig.server.stats()["not_allowed"] >= 1
    with pytest.raises(hal.RobotFault, match=f"refuses: it doesn't allow {keys.own('anna').public} the arm"):
        robot(rig, keys, "anna").connect()


@pytest.mark.parametrize("roles", [(), ("edge", "weights")])
def test_who_may_not_is_told_so(rig: Rig, keys: Keys, roles: tuple[Role, ...]) -> None:
    with pytest.raises(hal.RobotFault, match=r"refuses: .*allow"):
        operator(rig, keys, "eve", *roles).connect()
    assert rig.server.stats()["clients"] == 0


def test_without_a_key_nobody_answers_and_the_hint_says_why(
    rig: Rig, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robotlearn.edge.remote._PATIENCE_S", 1.0)
    with pytest.raises(hal.RobotFault, match=r"it ends the handshake: do the keys fit"):
        RemoteRobot(fast_spec(), address=rig.address).connect()
    with pytest.raises(hal.DriverError, match="keys new nobody"):
        robot(rig, keys, "nobody")


def test_an_e_stop_too_is_for_who_may(rig: Rig, keys: Keys) -> None:
    with operator(rig, keys, "anna", "arm") as arm:
        arm.press_estop("smoke")
        until(lambda: rig.loop.estopped, "the stop")


def without_a_key(rig: Rig, keys: Keys) -> Iterator[None]:
    for connection in flood(rig.address, 3, GREETING):
        with connection:
            yield


def with_a_revoked_key(rig: Rig, keys: Keys) -> Iterator[None]:
    keys.new("anna")
    for _ in range(3):
        with pytest.raises(hal.RobotFault, match="allow"):
            robot(rig, keys, "anna").connect()
        yield


def in_a_wrong_role(rig: Rig, keys: Keys) -> Iterator[None]:
    keys.allow("anna", keys.new("anna").public, ["edge", "weights"])
    for _ in range(3):
        with pytest.raises(hal.RobotFault, match="allow"):
            robot(rig, keys, "anna").connect()
        yield


def revoked_while_connected(rig: Rig, keys: Keys) -> Iterator[None]:
    with operator(rig, keys, "anna", "arm") as arm:
        keys.revoke("anna")
        yield
        until(lambda: rig.server.stats()["clients"] == 0, "the arm to put it out")
        with contextlib.suppress(hal.RobotFault):  # what it sends unasked may tell it before it says anything
            arm.press_estop("smoke")
        assert not rig.loop.estopped


@pytest.mark.parametrize(
    ("attempts", "counter", "told"),
    [
        (without_a_key, "failed_handshakes", "it has no key, one for another server, speaks"),
        (with_a_revoked_key, "failed_handshakes", "is turned away: its key"),
        (in_a_wrong_role, "not_allowed", "it needs arm"),
        (revoked_while_connected, "not_allowed", "a client is put out"),
    ],
)
def test_who_may_not_is_refused_logged_once_and_counted(
    rig: Rig,
    keys: Keys,
    attempts: Callable[[Rig, Keys], Iterator[None]],
    counter: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number, _ in enumerate(attempts(rig, keys), 1):
        until(lambda number=number: rig.server.stats().get(counter, 0) >= number, f"attempt {number} to be counted")
    until(lambda: told in caplog.text, "a line in the log")
    assert rig.server.stats()["clients"] == 0
    lines = [line for line in caplog.messages if told in line]
    # A busy server may find the first one gone before it can ask for its address, and a later one not.
    assert len(lines) == len(set(lines)) <= 1 + any("an address that is gone" in line for line in lines)
