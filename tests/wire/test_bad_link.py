"""The link that is worse than it need be: each fault does what it says, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotlearn.wire.bad_link import BadLink, Faults
from tests.waiting import until


class Echo:
    """Sends back whatever comes, at a TCP port or a Unix socket."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.address = f"ipc://{path}"
        self.ended: list[str] = []  # how connections ended
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._echo, args=(self._listener.accept()[0],), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        with one:
            try:
                while data := one.recv(1 << 16):
                    one.sendall(data)
                self.ended.append("orderly")
            except OSError:
                self.ended.append("reset")


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


def dial(link: BadLink) -> socket.socket:
    host, _, port = link.address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def say(one: socket.socket, data: bytes) -> bytes:
    """What comes back."""
    sender = threading.Thread(target=one.sendall, args=(data,))
    sender.start()
    back = bytearray()
    while len(back) < len(data):
        back += one.recv(1 << 20)
    sender.join()
    return bytes(back)


def test_without_faults_everything_goes_through(echo: Echo) -> None:
    data = bytes(range(256)) * 8000
    with BadLink(echo.address) as link, dial(link) as one, dial(link) as two:
        assert say(one, data) == say(two, data) == data
        assert (link.up, link.down, link.connections) == (2 * len(data), 2 * len(data), 2)
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
    assert link.corrupted == 0


def test_the_other_end_may_be_a_unix_socket(tmp_path: Path) -> None:
    there = Echo(tmp_path / "echo")
    with BadLink(there.address) as link, dial(link) as one:
        assert say(one, b"hello") == b"hello"
    there.close()


def test_nobody_at_the_other_end_is_the_end(echo: Echo) -> None:
    with BadLink("tcp://127.0.0.1:1") as link:
        with pytest.raises(ConnectionResetError), dial(link) as one:
            one.recv(1)
        link.target = echo.address
        with dial(link) as one:
            assert say(one, b"hello") == b"hello"


def test_data_is_never_early_nor_faster_than_the_line(echo: Echo) -> None:
    with BadLink(echo.address, Faults(delay_ms=60, jitter_ms=20)) as link, dial(link) as one:
        began = time.monotonic()
        assert say(one, b"x") == b"x"
        assert time.monotonic() - began >= 0.12
        data = bytes(range(256)) * 40
        assert b"".join(say(one, data[at : at + 512]) for at in range(0, 2048, 512)) == data[:2048]
        link.faults = Faults(mbit=1)
        began = time.monotonic()
        assert say(one, bytes(50_000)) == bytes(50_000)
        assert time.monotonic() - began >= 0.4


def test_a_hole_holds_everything_back_and_tells_nobody(echo: Echo) -> None:
    with BadLink(echo.address) as link, dial(link) as one:
        assert say(one, b"x") == b"x"
        link.faults = Faults(hole=True)
        with dial(link) as late:
            late.sendall(b"late")
            one.sendall(b"held")
            one.shutdown(socket.SHUT_WR)
            one.settimeout(0.3)
            with pytest.raises(TimeoutError):
                one.recv(1)
            assert echo.ended == []
            one.settimeout(30)
            link.faults = Faults()
            assert one.recv(10) == b"held" and late.recv(10) == b"late"
        until(lambda: "orderly" in echo.ended, "the end that was held back")


def test_a_half_open_connection_is_lost_at_one_end_only(echo: Echo) -> None:
    with BadLink(echo.address) as link, dial(link) as one:
        assert say(one, b"x") == b"x"
        link.half_open()
        until(lambda: echo.ended, "the loss at the other end")
        one.sendall(b"nobody hears that" * 10_000)
        one.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one.recv(1)
        with dial(link) as new:
            assert say(new, b"x") == b"x"


def test_a_reset_is_one_at_both_ends(echo: Echo) -> None:
    with BadLink(echo.address) as link, dial(link) as one:
        assert say(one, b"x") == b"x"
        link.reset()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
        until(lambda: echo.ended == ["reset"], "the reset at the other end")
        assert link.resets == 1
        link.faults = Faults(drop_every_s=0.05)
        with pytest.raises(ConnectionResetError), dial(link) as new:
            while True:
                new.sendall(b"x")
                new.recv(1)


def test_changed_bytes_are_counted(echo: Echo) -> None:
    data = bytes(400_000)
    with BadLink(echo.address, Faults(corrupt_every_bytes=20_000)) as link, dial(link) as one:
        changed = sum(byte != 0 for byte in say(one, data))
        # One that is changed on both ways counts twice, and may be as it was.
        assert 0 < changed <= link.corrupted


def test_it_leaves_no_thread_and_no_socket(echo: Echo) -> None:
    link = BadLink(echo.address)
    one = dial(link)
    assert say(one, b"x") == b"x"
    link.close()
    link.close()
    with pytest.raises(OSError):
        one.sendall(b"x")
        one.recv(1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bad link")]
    with pytest.raises(OSError):
        dial(link)
