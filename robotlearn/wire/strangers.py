"""Connections to a server that haven't said who they are: few at a time, not for long, and told of when they fail."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket as os_socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import zmq

from robotlearn.wire.sockets import FAILURES, Monitor

logger = logging.getLogger("robotlearn.wire")
_MANY = 1024  # addresses of which the log tells one by one
_GONE = "an address that is gone"
_FILES = 4096  # libzmq accepts at most 2,000 connections until `read` is called again; the rest is for everything else


@dataclass(slots=True)
class _Visitor:
    since: float  # accepted, or known last
    address: str
    ends: tuple[Any, Any]  # its socket's own name and the other's: what tells a connection from all others
    spoke: bool = False  # so its handshake was well


class Strangers(Monitor):
    """Watches the connections of a server's socket; belongs to the socket's thread, must be made before that binds.

    A connection is a stranger until the server counts its descriptor among the known ones. At most `most` strangers
    (or a quarter of the open files that the process may have) are there at a time, each for `patience_s`: of more the
    oldest ones are ended, so that who says at once who it is gets in during a flood too. A handshake that fails, and a
    connection that ends without a word, is counted (`failed_handshakes`) and logged once per address; a key that isn't
    allowed is for the `Door` to tell.

    A round of the server is `read`, then what has come, `heard` for what came from somebody unknown, then `sweep`.

    libzmq can't end one connection of a ROUTER, so its TCP (or Unix) socket is shut down, by the descriptor that the
    monitor tells; both ends' names are compared before, so that it is that connection and nothing else. The soft limit
    of open files is raised to 4,096 where the hard one allows it.
    """

    def __init__(self, socket: zmq.Socket[bytes], server: str, *, patience_s: float, most: int) -> None:
        super().__init__(socket, zmq.EVENT_ACCEPTED)
        self.ended = 0
        self._server = server
        self._patience = patience_s
        self._most = min(most, _allow_files(_FILES) // 4)
        self._there: dict[int, _Visitor] = {}  # by descriptor, those that came last at the end
        self._left: dict[int, _Visitor] = {}  # since the last sweep; their messages may wait to be received
        self._last_failure: int | None = None  # the event before this one: libzmq tells of the loss right after it
        self._told: set[str] = set()
        # With these two no other descriptor is needed, which there may be none left of.
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._spare = os.dup(self._null)

    @property
    def connections(self) -> int:
        """How many there are, known or not."""
        return len(self._there)

    def heard(self, frame: zmq.Frame) -> int:
        """By which descriptor a message came, whose sender is no stranger to the protocol at least."""
        descriptor = int(frame.get(zmq.SRCFD))
        for visitors in (self._left, self._there):
            if descriptor in visitors:
                visitors[descriptor].spoke = True
        return descriptor

    def sweep(self, known: Collection[int], now: float) -> None:
        """End the strangers that are too many or there for too long; `known` are the descriptors of all others."""
        for visitor in self._left.values():
            if not visitor.spoke:
                self.failed_handshakes += 1
                self._tell(visitor.address)
        self._left.clear()
        strangers = []
        for descriptor, visitor in self._there.items():
            if descriptor in known:
                visitor.since = now  # what it is told when it is known no more must reach it
            else:
                strangers.append((descriptor, visitor))
        excess = len(strangers) - self._most
        for index, (descriptor, visitor) in enumerate(strangers):
            if index < excess or now - visitor.since > self._patience:
                del self._there[descriptor]
                self.ended += 1
                with contextlib.suppress(OSError), self._borrowed(descriptor) as connection:
                    if _ends(connection) == visitor.ends:
                        connection.shutdown(os_socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop watching."""
        if self._null >= 0:
            os.close(self._null)
            os.close(self._spare)
            self._null = self._spare = -1
        super().close()

    def _happened(self, event: int, value: int, endpoint: str) -> None:
        super()._happened(event, value, endpoint)
        failure, self._last_failure = self._last_failure, event if event in FAILURES else None
        if event == zmq.EVENT_ACCEPTED:
            # If that is all there is to know: it is gone already, and the descriptor perhaps another's.
            self._there.pop(value, None)
            self._there[value] = _Visitor(time.monotonic(), _GONE, ("", ""))
            with contextlib.suppress(OSError), self._borrowed(value) as connection:
                own, other = ends = _ends(connection)
                port = f":{own[1]}" if isinstance(own, tuple) else own
                if endpoint.endswith(port):
                    address = other[0] if isinstance(other, tuple) else "this machine"
                    self._there[value] = _Visitor(time.monotonic(), address, ends)
        elif event == zmq.EVENT_DISCONNECTED:
            visitor = self._there.pop(value, None)
            if failure is None and visitor is not None:
                self._left[value] = visitor  # some garbage ends a connection without an event of its own
            elif failure is not None and failure != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._tell(visitor.address if visitor is not None else _GONE)

    def _tell(self, address: str) -> None:
        if address in self._told or len(self._told) >= _MANY:
            return
        self._told.add(address)
        logger.warning(
            "%s: a handshake with %s failed, others from there are only counted from now on: it has no key, one for "
            "another server, speaks something else, or was cut off", self._server, address,
        )  # fmt: skip

    @contextlib.contextmanager
    def _borrowed(self, descriptor: int) -> Iterator[os_socket.socket]:
        """The socket of a descriptor, which keeps naming it even if libzmq closes its own meanwhile. Raises OSError."""
        os.dup2(descriptor, self._spare, inheritable=False)
        try:
            connection = os_socket.socket(fileno=self._spare)
            try:
                yield connection
            finally:
                connection.detach()
        finally:
            os.dup2(self._null, self._spare, inheritable=False)


def _ends(connection: os_socket.socket) -> tuple[Any, Any]:
    return connection.getsockname(), connection.getpeername()


def _allow_files(wanted: int) -> int:
    """Raise the soft limit of open files to what is wanted, if the hard one lets us; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
