"""Connections without manners, by plain sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL" + bytes(16) + b"\0" + bytes(31)
"""Of ZMTP 3.1, without a key."""


def flood(address: str, count: int, saying: bytes = b"") -> Iterator[socket.socket]:
    """Connections that are never read from; some may be ended before they have said it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    for _ in range(count):
        connection = socket.create_connection((host, int(port)), timeout=30)
        with contextlib.suppress(OSError):
            connection.sendall(saying)
        yield connection


def gone(connection: socket.socket) -> bool:
    """Whether the other end is done with it."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
