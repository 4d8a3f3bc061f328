"""A connection from an edge to the learner, dialled again for ever; what uplink and weights have in common."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import zmq

from robotlearn.errors import ContractError, RobotlearnError, WireError
from robotlearn.wire import sockets
from robotlearn.wire.door import Credentials
from robotlearn.wire.messages import Hello, Message, Refuse, Welcome, decode, encode
from robotlearn.wire.sockets import Limits, Monitor, Wakeup

logger = logging.getLogger("robotlearn.wire")

State = Literal["connecting", "connected", "refused", "superseded", "closed"]
_FRAMES = 256  # taken in at most between two looks at everything else
_COMPLAIN_AFTER_S = 5.0
_RETRY_REFUSED_S = 5.0


class Connection(ABC):
    """A thread with one socket, one HELLO per socket, and the learner's WELCOME or REFUSE.

    When the connection is lost it dials again with a new socket and a new identity, for ever. What a subclass overrides
    runs on that thread; what is public may be called from any thread and never blocks for the network.
    """

    role: Literal["data", "weights"]
    pace_s = 0.0  # rounds of the thread are at least this far apart: fewer rounds do more each, which costs less

    def __init__(
        self, address: str, contract: Mapping[str, Any], limits: Limits, keys: Credentials | None = None
    ) -> None:
        """Raises AddressError when the address is malformed. The thread starts with `start`."""
        sockets.check_address(address, binding=False)
        self.address = address
        self.contract = {key: list(value) if isinstance(value, tuple) else value for key, value in contract.items()}
        self.limits = limits
        self.keys = keys
        self.state: State = "connecting"
        self.welcome: Welcome | None = None
        self.connections = 0  # times that a WELCOME came
        self.disconnects = 0
        self.bad_frames = 0
        self.last_seen: float | None = None  # time.monotonic of the last frame from the learner
        self._refusal: Refuse | None = None
        self._failure: BaseException | None = None
        self._wakeup = Wakeup()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: Monitor | None = None
        self._poller: zmq.Poller | None = None  # made anew with each socket
        self._greeted = False
        self._round_at = 0.0
        self._dial_at = 0.0
        self._waiting_since = time.monotonic()
        self._complained = False
        self._failed_handshakes = 0  # since it was there last

    def start(self) -> None:
        """Start the thread, which dials at once."""
        self._thread = threading.Thread(target=self._run, name=f"robotlearn-{self.role}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for it. Idempotent."""
        self._stop.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raise what the user must know: ContractError when the learner refuses us, or what ended the thread."""
        if self._failure is not None:
            raise self._failure
        refusal = self._refusal
        if refusal is not None:
            raise ContractError(f"learner {self.address} refuses this edge: {refusal.key}: {refusal.reason}")

    @property
    def seen(self) -> str:
        """When the learner was last heard, in words."""
        return "never" if self.last_seen is None else f"{time.monotonic() - self.last_seen:.0f} s ago"

    # ---- for subclasses

    @abstractmethod
    def _hello(self) -> Hello: ...

    @abstractmethod
    def _on_welcome(self, welcome: Welcome) -> None: ...

    @abstractmethod
    def _on_message(self, message: Message, payload: memoryview) -> None:
        """Raises WireError for a message that makes no sense; it is counted and dropped."""

    @abstractmethod
    def _work(self, now: float) -> float:
        """Do what is due; returns in how many seconds to look again at the latest."""

    @abstractmethod
    def _on_lost(self) -> None:
        """The connection is gone; another will be dialled."""

    def _send(self, message: Message) -> bool:
        return self._send_frame(encode(message))

    def _send_frame(self, frame: Any, *, copy: bool = True) -> bool:
        """Whether the frame was taken; False when the socket is full, so try again later."""
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, zmq.NOBLOCK, copy=copy)
            return True
        except zmq.Again:
            return False

    # ---- the thread

    def _run(self) -> None:
        self._context = zmq.Context(io_threads=1)
        try:
            while not self._stop.is_set():
                now = time.monotonic()
                if self._socket is None and now >= self._dial_at:
                    self._dial()
                self._complain(now)
                due = self._work(now) if self.state == "connected" else min(0.25, self._work_offline(now))
                self._wait(due)
        except RobotlearnError as error:
            logger.error("%s connection to %s ends: %s", self.role, self.address, error)
            self._failure = error
        except BaseException as error:
            logger.exception("%s connection to %s ends", self.role, self.address)
            self._failure = error
        finally:
            self._hang_up()
            self._context.destroy(linger=0)
            self._wakeup.close()
            self.state = "closed"

    def _work_offline(self, now: float) -> float:
        """What is due without a connection; returns in how many seconds to look again at the latest."""
        return 0.25

    def _dial(self) -> None:
        if self._context is None:
            return
        self._socket = sockets.dealer(self._context, self.limits, self.keys)
        self._monitor = Monitor(self._socket)
        self._poller = None
        sockets.connect(self._socket, self.address)
        self._greeted = False

    def _hang_up(self) -> None:
        self._poller = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _redial(self, after_s: float, state: State = "connecting") -> None:
        if self.state == "connected":
            self._waiting_since, self._complained = time.monotonic(), False
            self.disconnects += 1
        self.state = state
        self._hang_up()
        self._dial_at = time.monotonic() + after_s
        self._on_lost()

    def _wait(self, due: float) -> None:
        if self._poller is None:
            self._poller = zmq.Poller()
            self._poller.register(self._wakeup.fileno(), zmq.POLLIN)
            if self._socket is not None and self._monitor is not None:
                self._poller.register(self._socket, zmq.POLLIN)
                self._poller.register(self._monitor.events, zmq.POLLIN)
        ready = dict(self._poller.poll(max(0, int(due * 1000))))
        early = self._round_at + self.pace_s - time.monotonic()
        if early > 0:
            time.sleep(early)
        self._round_at = time.monotonic()
        self._wakeup.clear()
        self._receive()
        if self._monitor is None:
            return
        lost = self._monitor.events in ready and self._monitor.read()
        if self._monitor.turned_away and self.keys is not None:
            public = self.keys.own.public
            self._refused(Refuse("key", f"it doesn't allow {public}; there: robotlearn keys allow NAME {public}"))
        elif lost:
            # A new socket with a new identity: libzmq's own reconnection would keep the old one, to which a learner
            # that hasn't noticed the loss yet is deaf.
            self._receive()
            self._failed_handshakes += self._monitor.failed_handshakes
            self._redial(1.0 if self._monitor.failed_handshakes else 0.1)
        elif self._monitor.connects and not self._greeted:
            # Not before: a HELLO that waits for the learner would say what ran at the edge when it began to wait.
            self._greeted = self._send(self._hello())

    def _receive(self) -> None:
        for _ in range(_FRAMES):
            if self._socket is None:
                return
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.last_seen = time.monotonic()
            try:
                if frame.more:
                    while self._socket.getsockopt(zmq.RCVMORE):
                        self._socket.recv(zmq.NOBLOCK)
                    raise WireError("message of several parts, expected one frame")
                message, payload = decode(frame.buffer)
                self._take_in(message, payload)
            except WireError as error:
                self.bad_frames += 1
                if self.bad_frames == 1:
                    logger.warning("a frame from learner %s is dropped: %s", self.address, error)

    def _take_in(self, message: Message, payload: memoryview) -> None:
        match message:
            case Welcome():
                self.welcome, self._refusal = message, None
                self.state = "connected"
                self.connections += 1
                self._failed_handshakes = 0
                if self._complained or self.role == "data":
                    logger.info("learner %s is there, run %s", self.address, message.run)
                self._on_welcome(message)
            case Refuse(key="hello"):
                self._redial(0.1)  # it has forgotten us
            case Refuse(key="session"):
                logger.error("learner %s: %s", self.address, message.reason)
                self._refusal = message
                self._redial(float("inf"), "superseded")
            case Refuse():
                self._refused(message)
            case _:
                if self.state != "connected":
                    raise WireError(f"{type(message).__name__} before WELCOME")
                self._on_message(message, payload)

    def _refused(self, refusal: Refuse) -> None:
        if self._refusal is None:
            logger.error("learner %s refuses this edge: %s: %s", self.address, refusal.key, refusal.reason)
        self._refusal = refusal
        self._redial(_RETRY_REFUSED_S, "refused")

    def _complain(self, now: float) -> None:
        if self.state == "connecting" and not self._complained and now - self._waiting_since > _COMPLAIN_AFTER_S:
            self._complained = True
            logger.warning(
                "waiting for learner %s (%s connection) for %.0f s, last seen %s; going on trying%s",
                self.address,
                self.role,
                now - self._waiting_since,
                self.seen,
                self._why_not(),
            )

    def _why_not(self) -> str:
        if not self._failed_handshakes:
            return ""
        if self.keys is None:
            return (
                "; it ends the handshake: is it there, behind a tunnel that takes connections for nobody? Or does it "
                "want keys? Give this edge its key (learner.key, --learner-key)"
            )
        return f"; it ends the handshake: is {self.keys.server} its key (learner.key)?"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RobotlearnError):
            self.close()
