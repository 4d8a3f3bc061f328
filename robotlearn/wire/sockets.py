"""ZeroMQ sockets with every option set before they bind or connect, so that none is silently without effect."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
import socket as os_socket
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from robotlearn.errors import AddressError
from robotlearn.wire.door import Credentials, ServerKeys

_TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.%\w]+\]|\*|[A-Za-z0-9_.-]+):(?P<port>\*|\d{1,5})")
_IPV4 = re.compile(r"tcp://[0-9.]+:\d+")


@dataclass(frozen=True)
class Limits:
    """What bounds a connection; the same values serve both ends.

    Attributes:
        max_frame_bytes: a larger frame makes libzmq disconnect its sender; it never reaches the program.
        messages: high-water mark of each direction of each connection.
        heartbeat_s: a ping goes out after this much silence.
        dead_after_s: a peer from which nothing came for so long is taken for dead, and one that hasn't finished its
            handshake by then for nobody.
    """

    max_frame_bytes: int = 64 << 20
    messages: int = 1024
    heartbeat_s: float = 1.0
    dead_after_s: float = 10.0


def router(
    context: zmq.Context[zmq.Socket[bytes]], limits: Limits, keys: ServerKeys | None = None
) -> zmq.Socket[bytes]:
    """The learner's socket, not bound yet. Sending to a peer that is gone raises instead of dropping silently.

    With keys it speaks CURVE only; who may come is for the `Door` of that context to say.
    """
    socket = context.socket(zmq.ROUTER)
    _common(socket, limits)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if keys is not None:
        socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes + _CURVE_BYTES)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    return socket


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], limits: Limits, keys: Credentials | None = None
) -> zmq.Socket[bytes]:
    """An edge's socket, not connected yet; its random identity keeps a new one from being taken for an old one.

    With keys it talks only to the server that has that key. Nothing can be sent before it is connected, and what
    wasn't received when the connection is lost is lost too.
    """
    socket = context.socket(zmq.DEALER)
    _common(socket, limits)
    if keys is not None:
        socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes + _CURVE_BYTES)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.bytes)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public.bytes)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
    socket.setsockopt(zmq.IDENTITY, secrets.token_bytes(16))
    # Each connection has queues of its own: with the former's, full when it was lost, libzmq aborts the process
    # (https://github.com/zeromq/libzmq/issues/3937), which anyone could bring about whom this end connects to.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, int(limits.dead_after_s * 1000))
    return socket


_CURVE_BYTES = 64  # by which at most a frame grows when it is encrypted


def _common(socket: zmq.Socket[bytes], limits: Limits) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, limits.messages)
    socket.setsockopt(zmq.RCVHWM, limits.messages)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(limits.heartbeat_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(limits.dead_after_s * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TTL, int(limits.dead_after_s * 1000))
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(limits.dead_after_s * 1000))


def bind(socket: zmq.Socket[bytes], address: str, *, insecure_public: bool = False) -> str:
    """Bind; returns the address with its real port.

    Raises AddressError (malformed, in use, or public though the socket has no keys and `insecure_public` is false).
    """
    check_address(address, binding=True)
    if (
        address.startswith("tcp://")
        and not is_loopback(address)
        and not (insecure_public or socket.getsockopt(zmq.CURVE_SERVER))
    ):
        raise AddressError(
            f"address {address} can be reached from other machines, and there is no key: give one (learner.key, --key; "
            "see `robotlearn keys --help`), bind tcp://127.0.0.1:PORT, or allow it with insecure_public in a network "
            "that you trust"
        )
    socket.setsockopt(zmq.IPV6, int("[" in address))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressError(
                f"address {address} is in use; stop the process that listens there or choose another port"
            ) from None
        raise AddressError(f"address {address} can't be bound: {error.strerror}") from None
    return socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Start to connect; the connection comes later, or never. Raises AddressError when the address is malformed."""
    check_address(address, binding=False)
    socket.setsockopt(zmq.IPV6, int(not _IPV4.fullmatch(address)))
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise AddressError(f"address {address} can't be connected to: {error.strerror}") from None


def check_address(address: str, *, binding: bool) -> None:
    """Raise AddressError unless it is tcp://HOST:PORT or ipc://PATH."""
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    match = _TCP.fullmatch(address)
    if match is None or (match["port"] != "*" and int(match["port"]) > 65535):
        raise AddressError(f"address {address!r} is not tcp://HOST:PORT with a port from 1 to 65535")
    if not binding and (match["host"] == "*" or match["port"] in ("*", "0")):
        raise AddressError(f"address {address!r} names no host and port to connect to")


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this machine only."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)
_EVENTS = 1024  # taken in at most by one `read`


class Monitor:
    """What libzmq sees on the connections of one socket; read it on the socket's own thread.

    Nothing is missed: when 2,000 events wait to be read, libzmq waits too.
    """

    def __init__(self, socket: zmq.Socket[bytes], events: int = 0) -> None:
        """`events` are watched beside those that are counted here."""
        self._events = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(FAILURES) | events
        )
        self._socket = socket
        self.connects = 0
        self.failed_handshakes = 0
        self.turned_away = False  # by a server that doesn't allow our key
        self.disconnects = 0  # frames over the size limit end a connection too, and this is where they show

    @property
    def events(self) -> zmq.Socket[bytes]:
        """The socket to poll."""
        return self._events

    def read(self) -> bool:
        """Take in what happened; returns whether a connection was lost."""
        disconnects = self.disconnects
        for _ in range(_EVENTS):
            if not self._events.poll(0):
                break
            message = recv_monitor_message(self._events)
            self._happened(message["event"], message["value"], message["endpoint"].decode(errors="replace"))
        return self.disconnects > disconnects

    def _happened(self, event: int, value: int, endpoint: str) -> None:
        self.connects += event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        self.failed_handshakes += event in FAILURES
        self.turned_away |= event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        self.disconnects += event == zmq.EVENT_DISCONNECTED

    def close(self) -> None:
        """Stop watching."""
        if not self._events.closed:
            self.read()  # libzmq holds a lock that the next call wants while it waits for events to be read
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._events.close(linger=0)


class Wakeup:
    """Wakes a thread that polls sockets, from any other thread."""

    def __init__(self) -> None:
        self._reading, self._writing = os_socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._set = False

    def fileno(self) -> int:
        """What to poll."""
        return self._reading.fileno()

    def set(self) -> None:
        """Wake it; cheap when it is to wake already."""
        if not self._set:
            self._set = True
            with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody sleeps there
                self._writing.send(b"\0")

    def clear(self) -> None:
        """Called by the thread that woke, before it looks for what there is to do."""
        with contextlib.suppress(OSError):
            self._reading.recv(4096)
        self._set = False

    def close(self) -> None:
        """Release both ends."""
        self._reading.close()
        self._writing.close()
