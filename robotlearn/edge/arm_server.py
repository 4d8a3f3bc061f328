"""`ArmServer`: lets others command the robot of this process over ZeroMQ, under its leases. Imports no torch."""

import contextlib
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq
from msgspec import structs

from hal.control_loop import ControlLoop
from hal.errors import DriverError, HalError, LeaseError, Stopped
from hal.robot import Command, Image, Reading
from robotlearn.edge import arm_messages as messages
from robotlearn.edge.arm_messages import TO_ARM, Answer, Flat, FromArm, State, Verdict
from robotlearn.edge.local import Tensor, shared, tensors
from robotlearn.edge.shared_frames import FrameRing, FramesWay, NotShared, machine
from robotlearn.errors import WireError
from robotlearn.wire import sockets
from robotlearn.wire.door import Door, ServerKeys
from robotlearn.wire.keys import Allowed, PublicKey
from robotlearn.wire.peers import first_difference
from robotlearn.wire.sockets import Wakeup
from robotlearn.wire.strangers import Strangers

log = logging.getLogger(__name__)

_FRAMES, _PACE_S = 64, 0.0005  # taken in between two looks at the rest; so long a pause when there were so many
_IDLE_S = 0.2  # without a tick it sends its state so often all the same
_IN_FLIGHT = 256 << 10  # [bytes] of states that a client hasn't said it heard; two always may be
_MAX_PEERS, _MAX_STRANGERS = 16, 32
_SWEEP_S = 0.25
_MANY = 1024  # of whom the log tells one by one
_MIN_SLOTS = 8  # of the images' ring
_TOLD_S = 0.5  # so often it says anew how images go


@dataclass(slots=True, eq=False)
class _Peer:
    """One client that said Hello."""

    holder: str
    cameras: tuple[str, ...]
    heard_at: float
    descriptor: int  # of its connection
    key: PublicKey | None  # that it proved, if there are keys
    way: FramesWay
    handled: int = 0  # the newest sequence of its commands
    number: int = 0  # of the newest state that it was sent
    flying: deque[tuple[int, int]] = field(default_factory=deque)  # number and bytes of those that it hasn't heard


class ArmServer:
    """Answers clients on one thread, from `start` to `close`; the control loop never waits for it, nor for a client.

    What a command may do is the loop's to say: its leases and its stops hold for clients as for anyone. A set-point
    is dropped and counted when its sequence isn't larger than the client's last (`old`) or its time is over (`late`).

    Each control period every client gets the newest reading, with the images that it asked for. To one that lags by
    more than 256 kB and two states nothing is sent, counted as `states_dropped`, then the newest: nothing queues up.

    Anyone may press the e-stop, without a lease, even without a Hello. It can be cleared over ipc only, so from this
    machine.

    To a client that shows that it can open memory of this process, images go through that instead of messages.

    At most 16 clients (`clients_refused`), and 32 connections without a Hello, each for 3 s (`strangers_ended`); a
    client that is silent for 3 s is forgotten (`dead`). Frames beyond 64 kB cost their sender the connection
    (`disconnects`). Malformed ones are counted (`bad_frames`), logged once per client, dropped.
    """

    def __init__(
        self,
        loop: ControlLoop,
        endpoint: str,
        *,
        name: str,
        keys: ServerKeys | None = None,
        insecure_public: bool = False,
    ) -> None:
        """Binds at once: ipc://PATH or tcp://HOST:PORT. Call `tick` in the loop's `beat`.

        With keys only who is allowed, with the role `arm`, is heard; each message is asked about anew.

        Raises AddressError (malformed, in use, public without keys and `insecure_public`), ValueError for a loop that
        has no leases or no e-stop.
        """
        if loop.leases is None or loop.estop is None:
            raise ValueError(f"{name}: a robot that anyone on the wire may command needs leases and an e-stop")
        self._loop, self._leases, self._estop, self.name = loop, loop.leases, loop.estop, name
        self._agreed: Flat = messages.agreed(loop.spec)
        self._arm = secrets.randbits(62)
        self._every = max(1, round(loop.spec.dt / loop.spec.dt_driver))
        self.counters: Counter[str] = Counter()
        """set_points, done, and why others weren't (old, late, lease, stopped, fault, refused); states, states_dropped,
        answers_dropped, bad_frames, dead, not_allowed.
        """
        self.frames = ""
        """How images go to the clients that want some: `bench:17: shared memory`; may be read on any thread."""
        self._frames_at = 0.0
        self._ring: FrameRing | None = None
        self._scheme = endpoint.partition(":")[0]
        self._clears = self._scheme == "ipc"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._door = Door(self._context, keys) if keys is not None else None
        self._socket = sockets.router(self._context, TO_ARM, keys)
        # A client that lost its connection comes back under its random identity before the old one is found dead.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._strangers = Strangers(
            self._socket, f"arm {name}", patience_s=TO_ARM.dead_after_s, most=_MAX_STRANGERS
        )
        try:
            self.address = sockets.bind(self._socket, endpoint, insecure_public=insecure_public)
        except BaseException:
            self._strangers.close()
            self._context.destroy(linger=0)
            raise
        self._wakeup = Wakeup()
        self._due = False
        self._period = 0
        self._pushed_at = 0.0
        self._last: Reading | None = None
        self._peers: dict[bytes, _Peer] = {}
        self._complained: set[bytes] = set()  # of whom the log has told
        self._locked_out: set[Allowed] = set()
        self._chosen: set[tuple[bytes, bool]] = set()  # the ways of images that were logged
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"arm server {name}", daemon=True)

    def tick(self) -> None:
        """The loop has made a tick. Takes microseconds."""
        if self._loop.done % self._every == 0:
            self._period += 1
            self._due = True
            self._wakeup.set()

    def start(self) -> None:
        """The loop is connected: clients are heard from now on."""
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def stats(self) -> dict[str, int]:
        """`counters`, with `disconnects` (those for size too: libzmq doesn't tell why), `failed_handshakes`,
        `strangers_ended` (connections that said no Hello), and the clients and connections there are.
        """
        return {
            **self.counters,
            "disconnects": self._strangers.disconnects,
            "failed_handshakes": self._strangers.failed_handshakes,
            "strangers_ended": self._strangers.ended,
            "clients": len(self._peers),
            "connections": self._strangers.connections,
        }

    def close(self) -> None:
        """Idempotent. The loop goes on."""
        self._closing.set()
        self._wakeup.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._context.closed:
            self._strangers.close()
            self._context.destroy(linger=0)
            self._wakeup.close()
            if self._ring is not None:
                self._ring.close()

    # ---- the thread

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._strangers.events, zmq.POLLIN)
        poller.register(self._wakeup.fileno(), zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.questions, zmq.POLLIN)
        swept = 0.0
        try:
            while not self._closing.is_set():
                ready = dict(poller.poll(round(_IDLE_S * 1000)))
                self._wakeup.clear()
                self._strangers.read()
                if self._door is not None:
                    self._attend(self._door, time.monotonic())
                many = self._receive()
                now = time.monotonic()
                if self._due or now - self._pushed_at >= _IDLE_S:
                    self._due, self._pushed_at = False, now
                    self._push(now)
                    self._tell_ways(now)
                if self._strangers.events in ready or now - swept > _SWEEP_S:
                    swept = now
                    self._strangers.sweep({peer.descriptor for peer in self._peers.values()}, now)
                if many:
                    time.sleep(_PACE_S)  # a flood must leave the interpreter to the control loop
        except BaseException as error:  # must show up in `check`, not end a thread unseen
            self._failure = error
            log.exception("%s: the server ended", self.name)

    def _attend(self, door: Door, now: float) -> None:
        """Let in who waits; put out who is not allowed any more, also if it only listens."""
        if door.attend(now):
            for identity, peer in list(self._peers.items()):
                if peer.key is None or not _may(door.keys.allowed.get(peer.key.bytes), peer):
                    self._lock_out(identity, None)

    def _lock_out(self, identity: bytes, holder: Allowed | None) -> None:
        self.counters["not_allowed"] += 1
        if self._peers.pop(identity, None) is not None:
            log.warning("%s: a client is put out: its key isn't allowed (any more)", self.name)
        elif holder is not None and holder not in self._locked_out and len(self._locked_out) < _MANY:
            self._locked_out.add(holder)
            roles = ", ".join(holder.roles)
            log.warning("%s: %s is turned away: it has the role %s, it needs arm", self.name, holder.name, roles)
        self._send(identity, messages.Refused(True, f"{self.name}: its list of keys doesn't allow that key the arm"))

    def _receive(self) -> bool:
        """Take in what came; whether there may be more."""
        for _ in range(_FRAMES):
            try:
                name, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            identity = name.bytes
            try:
                if len(frames) != 1:
                    raise WireError(f"a message of {len(frames)} parts")
                if identity not in self._peers:
                    self._strangers.heard(frames[0])
                holder = self._door.holder(frames[0]) if self._door is not None else None
                if self._door is not None and not _may(holder, self._peers.get(identity)):
                    self._lock_out(identity, holder)
                    continue
                self._take(identity, frames[0], holder.key if holder else None)
            except WireError as error:
                self.counters["bad_frames"] += 1
                if identity not in self._complained and len(self._complained) < _MANY:
                    self._complained.add(identity)
                    log.warning("%s: dropped, and will drop silently from now on: %s", self.name, error)
        return True

    def _take(self, identity: bytes, frame: zmq.Frame, key: PublicKey | None) -> None:
        message, now = messages.decode_to_arm(frame.bytes), time.monotonic()
        peer = self._peers.get(identity)
        if peer is not None:
            peer.heard_at = now
        match message:
            case messages.Press():
                self._answer(identity, message.sequence, *self._press(message))
            case messages.Hello():
                self._welcome(identity, message, self._strangers.heard(frame), key, now)
            case _ if peer is None:
                self._send(identity, messages.Refused(False, "there was no Hello"))
            case messages.Heard():
                while peer.flying and peer.flying[0][0] <= message.number:
                    peer.flying.popleft()
            case messages.Share():
                self._share(identity, peer, message)
            case messages.Opened():
                opened = self._ring is not None and message.name == self._ring.memory.name and not message.why
                # The reason is shown to people: no control characters of a stranger's on their terminals.
                self._choose(identity, peer, opened, ascii(message.why[:200])[1:-1])
            case messages.Acquire():
                self._acquire(identity, peer, message)
            case messages.Clear():
                self._answer(identity, message.sequence, *self._clear(message))
            case messages.SetPoint() | messages.Rest() | messages.Stop():
                verdict, why = self._command(peer, message, now)
                if isinstance(message, messages.SetPoint):
                    self.counters["set_points"] += 1
                    self.counters[verdict] += 1
                self._answer(identity, message.sequence, verdict, why)
            case messages.Renew():
                self._answer(identity, message.sequence, *self._renew(message))
            case messages.Release():
                self._leases.release(message.token)
                self._answer(identity, message.sequence, "done", "")

    def _welcome(
        self, identity: bytes, hello: messages.Hello, descriptor: int, key: PublicKey | None, now: float
    ) -> None:
        reason = ""
        if hello.schema != messages.SCHEMA:
            reason = f"it speaks schema {hello.schema}, this arm {messages.SCHEMA}: use one version on both sides"
        elif (differs := first_difference(self._agreed, hello.spec)) is not None:
            key = differs[0]
            ours, theirs = (repr(spec[key]) if key in spec else "nothing" for spec in (self._agreed, hello.spec))
            reason = f"another spec: {key} is {ours} at the arm and {theirs} at the client"
        elif unknown := [name for name in hello.cameras if name not in {c.name for c in self._loop.spec.cameras}]:
            reason = f"the spec has no camera {unknown[0]!r}"
        elif identity not in self._peers and len(self._peers) >= _MAX_PEERS:
            reason = f"there are {_MAX_PEERS} clients already"
        if reason:
            self.counters["clients_refused"] += 1
            self._send(identity, messages.Refused(True, f"{self.name}: {reason}"))
            return
        before = self._peers.get(identity)
        handled = before.handled if before is not None else 0
        way = FramesWay(self._scheme)
        self._peers[identity] = _Peer(hello.holder, hello.cameras, now, descriptor, key, way, handled)
        self._send(identity, messages.Welcome(self.name, self._agreed, self._arm))

    def _share(self, identity: bytes, peer: _Peer, wish: messages.Share) -> None:
        try:
            if wish.machine != machine():
                raise NotShared("another machine")
            if not peer.cameras:
                raise NotShared("no camera was asked for")
            if self._ring is None:
                size = sum(3 * camera.width * camera.height for camera in self._loop.spec.cameras)
                # As many as the states that may be in flight to one client, and some.
                self._ring = FrameRing(max(_MIN_SLOTS, _IN_FLIGHT // size + 4), size)
        except NotShared as error:
            self._choose(identity, peer, False, str(error))
            self._send(identity, messages.Shared(str(error)))
        else:
            self._send(identity, messages.Shared(self._ring.memory))

    def _choose(self, identity: bytes, peer: _Peer, shared: bool, why: str) -> None:
        peer.way.shared, peer.way.why = shared, why
        if (identity, shared) not in self._chosen and len(self._chosen) < _MANY:
            self._chosen.add((identity, shared))
            log.info("%s: frames for %r: %s", self.name, peer.holder, "shared memory" if shared else f"messages: {why}")

    def _acquire(self, identity: bytes, peer: _Peer, wish: messages.Acquire) -> None:
        try:
            lease = self._leases.acquire(peer.holder, wish.ttl, take=wish.take)
        except LeaseError as error:
            self._answer(identity, wish.sequence, "lease", str(error))
        except OSError as error:
            self._answer(identity, wish.sequence, "refused", f"the lease can't be written down: {error.strerror}")
        else:
            self._send(identity, Answer(wish.sequence, "done", "", time.monotonic(), lease.token))

    def _renew(self, message: messages.Renew) -> tuple[Verdict, str]:
        if message.token is not None:
            try:
                self._leases.renew(message.token)
            except LeaseError as error:
                return "lease", str(error)
        return "done", ""

    def _press(self, message: messages.Press) -> tuple[Verdict, str]:
        try:
            self._estop.press(message.by, message.why)
        except OSError as error:
            return "fault", f"it holds in this process alone, use the switch: {error.strerror}"
        return "done", ""

    def _clear(self, message: messages.Clear) -> tuple[Verdict, str]:
        if not (self._clears and message.on_purpose):
            return "refused", f"clear the e-stop at the robot: robotlearn estop {self.name} --clear"
        self._estop.clear()
        return "done", ""

    def _command(
        self, peer: _Peer, message: messages.SetPoint | messages.Rest | messages.Stop, now: float
    ) -> tuple[Verdict, str]:
        target = message.target.array() if isinstance(message, messages.SetPoint) else None
        if message.sequence <= peer.handled:
            return "old", ""
        peer.handled = message.sequence
        try:
            self._leases.check(message.token)
            if not isinstance(message, messages.Stop) and not now <= message.expires:
                return "late", ""
            if target is not None:
                self._loop.write(Command(target, message.token))
            elif isinstance(message, messages.Rest):
                self._loop.rest()
            else:
                self._loop.stop()
        except LeaseError as error:
            return "lease", str(error)
        except Stopped as error:
            return "stopped", str(error)
        except DriverError as error:
            return "refused", str(error)
        except HalError as error:
            return "fault", str(error)
        return "done", ""

    def _answer(self, identity: bytes, sequence: int, verdict: Verdict, why: str) -> None:
        self._send(identity, Answer(sequence, verdict, why[:1024], time.monotonic()))

    def _push(self, now: float) -> None:
        for identity in [key for key, peer in self._peers.items() if now - peer.heard_at > TO_ARM.dead_after_s]:
            del self._peers[identity]
            self.counters["dead"] += 1
        due = {}
        for identity, peer in self._peers.items():
            if len(peer.flying) >= 2 and sum(size for _, size in peer.flying) > _IN_FLIGHT:
                self.counters["states_dropped"] += 1
            else:
                due[identity] = peer
        if not due:
            return
        state, seen = self._state(now)
        ways = self._images(due, seen)
        for identity, peer in due.items():
            peer.number += 1
            images = ways[peer.way.shared]
            own = {name: images[name] for name in peer.cameras if name in images}
            size = sum(image.size for image in own.values())
            frame = messages.encode(structs.replace(state, number=peer.number, handled=peer.handled, images=own))
            if not peer.way.shared:
                peer.way.sent(size)
            peer.flying.append((peer.number, len(frame) + size * peer.way.shared))
            self._send(identity, frame)
            self.counters["states"] += 1

    def _images(self, peers: Mapping[bytes, _Peer], seen: Mapping[str, Image]) -> dict[bool, dict[str, Tensor]]:
        """What these want of what the cameras see, for messages and (True) in shared memory."""
        ways: dict[bool, dict[str, Image]] = {False: {}, True: {}}
        for peer in peers.values():
            ways[peer.way.shared] |= {name: seen[name] for name in peer.cameras if name in seen}
        through: dict[str, Tensor] = {}
        if ways[True] and self._ring is not None:
            try:
                through = shared(ways[True], self._ring)
            except NotShared as error:
                for identity, peer in peers.items():
                    if peer.way.shared:
                        self._choose(identity, peer, False, str(error))
                ways[False] |= ways[True]
        return {False: tensors(ways[False]), True: through}

    def _tell_ways(self, now: float) -> None:
        if now - self._frames_at >= _TOLD_S:
            self._frames_at = now
            viewers = [peer for peer in self._peers.values() if peer.cameras]
            self.frames = ", ".join(f"{peer.holder}: {peer.way.told()}" for peer in viewers)

    def _state(self, now: float) -> tuple[State, Mapping[str, Image]]:
        loop = self._loop
        with contextlib.suppress(HalError):  # a robot at fault: its last reading, and what is wrong with it
            self._last = loop.read()
        assert self._last is not None
        reading, health = self._last, loop.health()
        state = State(
            number=0,
            period=self._period,
            handled=0,
            position=Tensor.of(reading.position),
            velocity=Tensor.of(reading.velocity),
            effort=None if reading.effort is None else Tensor.of(reading.effort),
            images={},
            monotonic=reading.monotonic,
            at=now,
            activity=loop.activity,
            estopped=loop.estopped,
            health=health.state,
            detail=health.detail,
            telemetry=tensors(health.telemetry),
            holder=self._leases.holder,
        )
        return state, reading.images

    def _send(self, identity: bytes, message: FromArm | bytes) -> None:
        frame = message if isinstance(message, bytes) else messages.encode(message)
        try:
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.Again:
            self.counters["answers_dropped"] += 1
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            if self._peers.pop(identity, None) is not None:
                self.counters["dead"] += 1


def _may(holder: Allowed | None, peer: _Peer | None) -> bool:
    """Whether who holds the key of a message may command here, on a connection that another key may have begun."""
    return holder is not None and "arm" in holder.roles and (peer is None or peer.key == holder.key)
