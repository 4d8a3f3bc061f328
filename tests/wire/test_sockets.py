"""What a socket of ours bears from the other end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import zmq

from robotlearn.wire import sockets
from robotlearn.wire.sockets import Limits
from tests.waiting import until

LIMITS = Limits(messages=10, heartbeat_s=0.1, dead_after_s=0.5)


def read_late(address: str) -> None:
    """Read nothing until the connection was lost for that and came back, then all."""
    socket = sockets.dealer(zmq.Context(), LIMITS)
    monitor = sockets.Monitor(socket)
    sockets.connect(socket, address)
    for connection in range(1, 4):
        until(lambda count=connection: (monitor.read(), monitor.connects >= count)[1], "a connection")
        socket.send(b"here")
        until(lambda count=connection: (monitor.read(), monitor.connects > count)[1], "the next one")
        while socket.poll(0):
            socket.recv()
    print("alive")


def test_a_reader_that_was_slow_lives_when_its_connection_comes_back() -> None:
    """libzmq aborts the process there (libzmq issue 3937), unless a new connection has a queue of its own."""
    context = zmq.Context()
    socket = sockets.router(context, Limits(messages=10_000, heartbeat_s=0.1, dead_after_s=0.5))
    address = sockets.bind(socket, "tcp://127.0.0.1:*")
    child = subprocess.Popen(
        [sys.executable, "-c", f"from tests.wire.test_sockets import read_late; read_late({address!r})"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        while child.poll() is None:
            if socket.poll(100):
                identity, _ = socket.recv_multipart()
                with contextlib.suppress(zmq.ZMQError):  # it may have hung up again
                    for _ in range(1000):
                        socket.send_multipart([identity, bytes(100)], zmq.NOBLOCK)
        said, complained = child.communicate()
        assert (child.returncode, said) == (0, "alive\n"), complained
    finally:
        child.kill()
        child.communicate()
        context.destroy(linger=0)
