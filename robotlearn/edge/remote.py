"""`RemoteRobot`: a robot that another process or machine serves (`robotlearn serve`), as the driver `remote`."""

import contextlib
import math
import os
import socket as os_socket
import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import zmq

from hal.errors import DriverError, LeaseError, RobotFault, Stopped, nearest
from hal.registry import register_driver
from hal.robot import Command, Health, Reading, Robot
from hal.spec import RobotSpec
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.arm_messages import FROM_ARM, Answer, Refused, Request, Shared, State, ToArm, Welcome
from robotlearn.edge.link import Link, LinkState
from robotlearn.edge.local import Tensor, arrays, fetched
from robotlearn.edge.shared_frames import NotShared, Overwritten, SharedFrames, machine
from robotlearn.errors import KeysError, WireError
from robotlearn.wire import sockets
from robotlearn.wire.door import credentials
from robotlearn.wire.sockets import Monitor, Wakeup

_PATIENCE_S = 5.0  # for an answer while connecting
_POOR = 0.95  # share of answered messages below which a link is degraded
_HELLO_S, _PING_S = 0.1, 0.5
_STALE_S = 1.0  # a control loop that makes no tick for so long hangs
_LONGEST_QUEUE = 64


class RemoteRobot(Robot):
    """The robot at `address` (ipc://PATH, tcp://HOST:PORT), under a lease of its own; Clocked.

    spec: the same as there, but for how the robot is reached and simulated; `connect` says what differs. holder: by
    whose name others see the lease. ttl: [s] after which it is over when the link or this process fails. take: take it
    from who has it. cameras: those whose images `read` brings, uncompressed. deadline: [s] after which a set-point on
    its way is worthless, by default a control period. key: the public key of the arm, when it is served with one, and
    own_key: the name of this side's, which it must allow.

    It obeys the rules of any robot, and those of the control loop there: a target is for the next control period,
    `write` raises Stopped after a stop until `rest`, and a stop is made there, by the spec's watchdog, when this side
    or the link falls silent. Nothing but `connect`, `wait` and `close` waits: messages come and go on a thread of its
    own.

    The lease belongs to who calls, not to that thread: it is renewed, every ttl / 3, as long as `read`, `write`, `rest`
    or `wait` was called within the last ttl. So a caller that hangs loses it, and then LeaseError tells it so: close,
    and connect anew. When nothing was heard for the spec's watchdog_s, or the arm process was started anew, `health` is
    `fault`, and `read`, `write`, `rest` and `wait` raise RobotFault; the first ends by itself.

    The times of readings are in this machine's clocks, by a difference that is wrong by half a round trip at most.
    """

    def __init__(
        self,
        spec: RobotSpec,
        *,
        address: str,
        holder: str | None = None,
        ttl: float = 2.0,
        take: bool = False,
        cameras: Sequence[str] = (),
        deadline: float | None = None,
        key: str | None = None,
        own_key: str = "operator",
    ) -> None:
        sockets.check_address(address, binding=False)
        try:
            self._keys = credentials(key, own_key)
        except KeysError as error:
            raise DriverError(f"{spec.name}: {error}") from None
        if not 0.1 <= ttl <= 60:
            raise DriverError(f"{spec.name}: ttl is {ttl} s; a lease is for 0.1 to 60 s")
        if deadline is not None and not 0 < deadline < math.inf:
            raise DriverError(f"{spec.name}: deadline is {deadline} s; it must be positive")
        sizes = {camera.name: (camera.height, camera.width, 3) for camera in spec.cameras}
        for name in cameras:
            if name not in sizes:
                raise DriverError(f"{spec.name}: the spec has no camera {name!r}: {nearest(name, sizes)}")
        self.spec, self.address = spec, address
        self.holder = holder or f"{os_socket.gethostname()}:{os.getpid()}"
        self._ttl, self._take, self._cameras, self._sizes = ttl, take, tuple(cameras), sizes
        self._deadline = spec.dt if deadline is None else deadline
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._clear()

    def _clear(self) -> None:
        self._link = Link()
        self._outbox: deque[ToArm] = deque()
        self._sequence = 0
        self._answers: dict[int, Answer] = {}
        self._awaited: set[int] = set()  # sequences of the messages whose answers someone waits for
        self._arm: int | None = None  # the arm process that said Welcome
        self._welcome = False  # it knows this client
        self._refused = ""  # its Hello
        self._token: int | None = None
        self._lease_over = ""
        self._fault = ""
        self._unwelcome = False  # the arm ended a handshake
        self._state: State | None = None
        self._reading: Reading | None = None
        self._rested = 0  # the sequence of the last rest
        self._called_at = -math.inf
        self._period = self._seen = 0
        self._fresh_at = -math.inf  # when the last period was heard of
        self._frames: SharedFrames | None = None

    def connect(self) -> None:
        """Raises RobotFault when nobody answers there or the spec is another one, LeaseError when another has it."""
        if self._thread is not None:
            return
        self._clear()
        self._closing.clear()
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"remote {self.spec.name}", daemon=True)
        self._thread.start()
        try:
            with self._news:
                if not self._news.wait_for(lambda: self._refused or self._state is not None, _PATIENCE_S):
                    hint = "is `robotlearn serve` running there?"
                    if self._unwelcome:
                        hint = "it ends the handshake: do the keys fit (key, own_key)?"
                    raise RobotFault(
                        f"{self.spec.name}: no arm answers at {self.address} within {_PATIENCE_S:.0f} s: {hint}"
                    )
                if self._refused:
                    raise RobotFault(f"{self.spec.name}: {self.address} refuses: {self._refused}")
                answer = self._ask(messages.Acquire(self._next(), self._ttl, self._take))
                if answer.token is None:
                    raise LeaseError(f"{self.spec.name}: {answer.why}")
                self._token = answer.token
                # Whatever stopped it for the one before, or still moves it; an e-stop stays, and `write` will tell.
                answer = self._ask(messages.Rest(self._next(), self._token, self._expires()))
                self._called_at, self._rested = time.monotonic(), answer.sequence
                self._news.wait_for(lambda: self._handled() >= self._rested, _PATIENCE_S)
                self._well()
        except BaseException:
            self.close()
            raise

    def read(self) -> Reading:
        with self._news:
            self._well()
            reading = self._reading
            assert reading is not None
            effort = None if reading.effort is None else reading.effort.copy()
            images = {name: image.copy() for name, image in reading.images.items()}
            position, velocity = reading.position.copy(), reading.velocity.copy()
            return Reading(position, velocity, reading.monotonic, reading.wall, images, effort)

    def write(self, command: Command) -> None:
        target = np.array(command.target, dtype=np.float64)
        if target.shape != (self.spec.dim,) or not np.isfinite(target).all():
            raise DriverError(f"{self.spec.name}: a target must be {self.spec.dim} finite numbers, not {target}")
        with self._news:
            token, state = self._commanding()
            if state.activity == "stopped" and self._handled() >= self._rested:
                raise Stopped(f"{self.spec.name}: {state.detail}")
            point = messages.SetPoint(self._next(), token, Tensor.of(target), self._expires())
            if self._outbox and isinstance(self._outbox[-1], messages.SetPoint):
                self._outbox.pop()
                self._link.superseded += 1
            self._post(point)

    def stop(self) -> None:
        with self._news:
            if self._thread is not None and self._token is not None:
                self._post(messages.Stop(self._next(), self._token))

    def rest(self) -> None:
        with self._news:
            token, state = self._commanding()
            if state.estopped:
                raise Stopped(f"{self.spec.name}: {state.detail}")
            self._rested = self._next()
            self._post(messages.Rest(self._rested, token, self._expires()))

    def wait(self) -> int:
        with self._news:
            while self._period <= self._seen:
                self._well()
                self._news.wait(self.spec.watchdog_s / 4)
            self._well()
            missed, self._seen = self._period - self._seen - 1, self._period
            return missed

    def skip(self) -> None:
        with self._news:
            self._seen = self._period

    def close(self) -> None:
        thread = self._thread
        if thread is None:
            return
        with self._news:
            if self._token is not None and not self._silent():
                self._post(messages.Stop(self._next(), self._token))
                with contextlib.suppress(RobotFault):
                    self._ask(messages.Release(self._next(), self._token), 0.5)
        self._closing.set()
        self._wakeup.set()
        thread.join()
        self._wakeup.close()
        self._thread = self._token = None

    def latch_estop(self, by: str, why: str) -> None:
        """As in `hal.robot.EStoppable`: the latching e-stop of that robot. Needs no lease."""
        with self._news:
            if self._thread is not None:
                self._post(messages.Press(self._next(), by[:128], why[:1024]))

    def press_estop(self, why: str = "") -> None:
        """As `latch_estop`, and returns when it is latched.

        Raises RobotFault when it isn't within a second: use the switch.
        """
        with self._news:
            self._connected()
            answer = self._ask(messages.Press(self._next(), self.holder[:128], why[:1024]), 1.0)
            if answer.verdict != "done":
                raise RobotFault(f"{self.spec.name}: {answer.why}")

    def clear_estop(self, *, on_purpose: bool) -> None:
        """Release it; `rest` then ends the stop. Raises DriverError where that may not be: it may over ipc."""
        with self._news:
            self._connected()
            answer = self._ask(messages.Clear(self._next(), on_purpose))
            if answer.verdict != "done":
                raise DriverError(f"{self.spec.name}: {answer.why}")

    def health(self) -> Health:
        with self._news:
            if self._thread is None:
                return Health("disconnected")
            state = self._state
            telemetry = {} if state is None else arrays(state.telemetry)
            if state is None:
                return Health("fault", "it doesn't answer yet")
            if why := self._fault or self._silent():
                return Health("fault", why, telemetry)
            if state.health != "ok":
                return Health("fault" if state.health == "disconnected" else state.health, state.detail, telemetry)
            if self._lease_over:
                return Health("degraded", self._lease_over, telemetry)
            if (share := self._link.share) < _POOR:
                return Health("degraded", f"the link loses {1 - share:.0%} of messages", telemetry)
            return Health("ok", "", telemetry)

    @property
    def link(self) -> LinkState:
        """How the link is, since `connect`."""
        with self._news:
            return self._link.state()

    @property
    def token(self) -> int | None:
        """That of its lease."""
        return self._token

    # ---- under the lock

    def _connected(self) -> None:
        if self._thread is None:
            raise DriverError(f"{self.spec.name}: not connected: call connect() first")

    def _well(self) -> None:
        self._connected()
        self._called_at = time.monotonic()
        if why := self._fault or self._silent():
            raise RobotFault(f"{self.spec.name}: {why}")
        if self._state is not None and self._state.health == "fault":
            raise RobotFault(f"{self.spec.name}: {self._state.detail}")

    def _silent(self) -> str:
        """Why the link is taken for lost, if it is."""
        now = time.monotonic()
        if (silent := now - self._link.heard_at) > self.spec.watchdog_s:
            return f"link lost: nothing from {self.address} for {silent:.1f} s"
        if (old := now - self._fresh_at) > max(_STALE_S, self.spec.watchdog_s):
            return f"the control loop at {self.address} hangs: no new reading for {old:.1f} s"
        return ""

    def _handled(self) -> int:
        return self._state.handled if self._state is not None else 0

    def _commanding(self) -> tuple[int, State]:
        self._well()
        if self._token is None or self._lease_over:
            raise LeaseError(f"{self.spec.name}: {self._lease_over or 'no lease'}: close, and connect anew")
        assert self._state is not None
        return self._token, self._state

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _expires(self) -> float:
        """A deadline from now, by the arm's clock."""
        return time.monotonic() + self._link.ahead + self._deadline

    def _post(self, message: ToArm) -> None:
        if len(self._outbox) >= _LONGEST_QUEUE:  # the thread that sends is stuck; what is oldest is worth least
            self._outbox.popleft()
            self._link.superseded += 1
        self._outbox.append(message)
        self._wakeup.set()

    def _ask(self, message: Request, patience: float = _PATIENCE_S) -> Answer:
        """Send, and wait for the answer. Raises RobotFault when none comes."""
        self._awaited.add(sequence := message.sequence)
        self._post(message)
        answered = self._news.wait_for(lambda: sequence in self._answers, patience)
        self._awaited.discard(sequence)
        if not answered:
            raise RobotFault(f"{self.spec.name}: no answer from {self.address} within {patience} s")
        return self._answers.pop(sequence)

    # ---- the thread

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        wire = sockets.dealer(context, FROM_ARM, self._keys)
        wire.setsockopt(zmq.LINGER, 200)
        wire.setsockopt(zmq.IMMEDIATE, 1)  # what can't be sent now is worthless later
        monitor = Monitor(wire)
        sockets.connect(wire, self.address)
        poller = zmq.Poller()
        poller.register(wire, zmq.POLLIN)
        poller.register(self._wakeup.fileno(), zmq.POLLIN)
        hello = messages.Hello(messages.SCHEMA, self.holder[:128], messages.agreed(self.spec), self._cameras)
        hello_at = renewed_at = -math.inf
        try:
            while not self._closing.is_set():
                poller.poll(50)
                self._wakeup.clear()
                now = time.monotonic()
                monitor.read()
                with self._news:
                    self._unwelcome = monitor.failed_handshakes > 0
                    if monitor.turned_away and self._keys is not None:
                        self._refused = f"it doesn't allow {self._keys.own.public} the arm"
                    if self._hear(wire) or self._refused:
                        self._news.notify_all()
                    if not self._welcome and now - hello_at > _HELLO_S:
                        hello_at = now
                        self._outbox.appendleft(hello)
                    if self._welcome and now - renewed_at > min(self._ttl / 3, _PING_S):
                        renewed_at = now
                        live = not self._lease_over and now - self._called_at < self._ttl
                        self._outbox.append(messages.Renew(self._next(), self._token if live else None))
                    self._link.forget(now)
                    out, self._outbox = self._outbox, deque()
                    for message in out:
                        if (sequence := getattr(message, "sequence", None)) is not None:
                            self._link.sent(sequence, now)
                for message in out:
                    with contextlib.suppress(zmq.Again):  # it counts as lost
                        wire.send(messages.encode(message), zmq.NOBLOCK)
        except Exception as error:  # must show up in `health`, not end a thread unseen
            with self._news:
                self._fault = f"the link failed: {error!r}"
                self._news.notify_all()
        finally:
            if self._frames is not None:
                self._frames.close()
            monitor.close()
            wire.close()
            context.term()

    def _hear(self, wire: "zmq.Socket[bytes]") -> bool:
        """Take in what came; whether anything did."""
        heard = False
        while True:
            try:
                message = messages.decode_from_arm(wire.recv(zmq.NOBLOCK))
                self._take_in(message, time.monotonic())
            except zmq.Again:
                return heard
            except WireError as error:
                self._fault = str(error)
            heard = True

    def _take_in(self, message: messages.FromArm, now: float) -> None:
        self._link.heard_at = now
        match message:
            case Welcome():
                if self._arm is not None and message.arm != self._arm:
                    self._fault = "the arm process was started anew: close, and connect anew"
                self._arm, self._welcome = message.arm, True
                if self._cameras:
                    self._outbox.append(messages.Share(machine() or "without shared memory"))
            case Shared():
                self._share(message)
            case Refused(known=False):
                self._welcome = False
            case Refused():
                self._refused = message.reason
                if self._arm is not None:
                    self._fault = f"{self.address} refuses: {message.reason}"
            case State():
                self._take_state(message, now)
            case Answer():
                self._link.answered(message.sequence, message.at, now)
                self._take_verdict(message)
                if message.sequence in self._awaited:
                    self._answers[message.sequence] = message

    def _share(self, offer: Shared) -> None:
        """Take the arm's images from its memory, if this process can open it."""
        before, self._frames = self._frames, None
        if before is not None:
            before.close()
        why = offer.memory if isinstance(offer.memory, str) else ""
        if not isinstance(offer.memory, str):
            try:
                self._frames = SharedFrames(offer.memory)
            except NotShared as error:
                why = str(error)
            self._outbox.append(messages.Opened(offer.memory.name, why))
        self._link.frames = f"{self.address.partition(':')[0]} ({why})" if why else "shared memory"

    def _take_verdict(self, answer: Answer) -> None:
        match answer.verdict:
            case "late":
                self._link.late += 1
            case "old":
                self._link.old += 1
            case "lease" if self._token is not None:
                self._lease_over = answer.why

    def _take_state(self, state: State, now: float) -> None:
        self._outbox.append(messages.Heard(state.number))
        position, velocity = state.position.array(), state.velocity.array()
        effort = None if state.effort is None else state.effort.array()
        try:
            images, late = arrays(fetched(state.images, self._frames)), False
        except Overwritten:
            images, late = {}, True
        vectors = [vector for vector in (position, velocity, effort) if vector is not None]
        if any(vector.shape != (self.spec.dim,) or vector.dtype != np.float64 for vector in vectors):
            raise WireError(f"the arm sent vectors that aren't {self.spec.dim} float64 numbers")
        if any(image.shape != self._sizes.get(name) or image.dtype != np.uint8 for name, image in images.items()):
            raise WireError("the arm sent images that aren't its spec's")
        if state.period > self._period:
            if self._period:
                self._link.states_missed += state.period - self._period - 1
            self._period, self._fresh_at = state.period, now
        if late:  # newer ones follow at once: until then the last reading is the newest that is whole
            self._link.images_late += 1
            self._state = state if self._reading is not None else None
            return
        before = self._reading.monotonic if self._reading is not None else -math.inf
        monotonic = min(max(state.monotonic - self._link.ahead, before), now)
        wall = time.time() - (now - monotonic)
        self._state, self._reading = state, Reading(position, velocity, monotonic, wall, images, effort)


register_driver("remote", RemoteRobot)
