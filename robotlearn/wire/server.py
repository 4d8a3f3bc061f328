"""The learner's end of the wire: one ROUTER, one thread for the sockets, one for the intake."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import zmq

from robotlearn.buffer.store import Kind, Outcome, SegmentStore
from robotlearn.errors import RobotlearnError, WireError
from robotlearn.wire import messages, sockets
from robotlearn.wire.door import Door, ServerKeys
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.intake import Arrival, Intake, StoredSegment
from robotlearn.wire.keys import Allowed
from robotlearn.wire.messages import (
    Ack,
    Gone,
    Grant,
    Have,
    Hello,
    Message,
    Pull,
    Refuse,
    Reject,
    Status,
    Want,
    Welcome,
)
from robotlearn.wire.peers import EdgeView, Peer
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.reception import Reception, may
from robotlearn.wire.sockets import Limits, Wakeup
from robotlearn.wire.strangers import Strangers

__all__ = ["EdgeView", "LearnerServer", "StoredSegment"]
logger = logging.getLogger("robotlearn.wire")
_COUNTERS = {"stored": "stored", "duplicate": "duplicates", "invalid": "rejected", "damaged": "damaged"}
# After a round with few records it pauses for so long: rounds that take in more cost less, and free the lock of the
# interpreter for the intake.
_FEW, _PACE_S = 64, 0.0005
_INBOX_BYTES = 1 << 30
_MAX_STRANGERS = 128
_FRAMES = 512  # taken in at most between two looks at everything else
_PUSHED = 64  # chunks at most that wait to go to an edge unasked
_TURN_S = 0.005  # and after so long no more, since one chunk of weights may be much work


class LearnerServer:
    """Binds one address; takes segments in, answers for them, grants episodes, serves weights.

    What bounds it: `max_peers` connections, each with at most `window_bytes` (and one frame) unanswered, and 1 GiB for
    all together, those that are gone included; when that is full, each edge may have an even share of as much again.
    Beside them 128 connections that haven't said HELLO yet, each for `limits.dead_after_s`. Frames beyond
    `max_frame_bytes` cost their sender the connection. What an edge sends beyond its window is dropped and counted; it
    is sent again. Malformed and unknown frames are counted, logged once per peer and dropped. The public methods may be
    called from any thread.

    With keys, only who is allowed comes in, speaks only for the edge of its own name, and does only what its roles say;
    each message is asked about anew, so that a revocation ends a connection at once.
    """

    def __init__(
        self,
        bind: str,
        store: SegmentStore,
        gate: StalenessGate,
        publisher: Publisher,
        *,
        contract: Mapping[str, Any],
        run: str,
        max_frame_bytes: int = 64 << 20,
        window_bytes: int = 16 << 20,
        max_peers: int = 256,
        max_waiting: int = 16384,
        limits: Limits | None = None,
        keys: ServerKeys | None = None,
        insecure_public: bool = False,
    ) -> None:
        """Binds at once. Raises AddressError (malformed, in use, public without keys and `insecure_public`)."""
        self.limits = limits or Limits(max_frame_bytes=max_frame_bytes, messages=256)
        self.window_bytes = window_bytes
        self.run = run
        self.incarnation = secrets.randbits(62)
        self.counters = dict.fromkeys(
            (
                "stored", "duplicates", "rejected", "damaged", "bad_frames", "over_window", "unsent", "refused", "dead",
                "not_allowed",
            ), 0,
        )  # fmt: skip
        self._store, self._gate, self._publisher = store, gate, publisher
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._door = Door(self._context, keys) if keys is not None else None
        self._socket = sockets.router(self._context, self.limits, keys)
        self._strangers = Strangers(
            self._socket, f"learner {run}", patience_s=self.limits.dead_after_s, most=_MAX_STRANGERS
        )
        try:
            self.address = sockets.bind(self._socket, bind, insecure_public=insecure_public)
        except BaseException:
            self._strangers.close()
            self._context.destroy(linger=0)
            raise
        self._wakeup = Wakeup()
        self._reception = Reception(
            gate, self.counters, self._send, contract=contract, max_peers=max_peers,
            dead_after_s=self.limits.dead_after_s,
        )  # fmt: skip
        self._peers, self._edges = self._reception.peers, self._reception.edges
        self._outbox: deque[tuple[list[Arrival], list[Outcome]]] = deque()
        self._arrived: list[Arrival] = []  # records of this round
        self._inbox_bytes = 0  # unanswered, of all connections, former ones too
        self._max_inbox_bytes = max(_INBOX_BYTES, 4 * (window_bytes + self.limits.max_frame_bytes))
        self._changes_announced = 0
        self._pushing: deque[tuple[Peer, int, range]] = deque()  # to whom chunks go unasked: uid, which
        self._grants_due = True
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._intake = Intake(store, self._count, self._answer, max_waiting=max_waiting)
        self._thread = threading.Thread(target=self._loop, name="robotlearn-server", daemon=True)
        gate.changed = self._gate_changed
        publisher.announced = self._wakeup.set

    def start(self) -> None:
        """Start both threads."""
        self._intake.start()
        self._thread.start()

    def close(self) -> None:
        """Stop both threads and wait for them; what was not answered is sent again to the next learner. Idempotent."""
        self._gate.changed = self._publisher.announced = None
        self._intake.close()
        self._stop.set()
        self._wakeup.set()
        if self._thread.is_alive():
            self._thread.join()
        elif not self._context.closed:
            self._release()

    def check(self) -> None:
        """Raise what ended one of the threads, if anything did."""
        for failure in (self._failure, self._intake.failure):
            if failure is not None:
                raise failure

    @property
    def disk_full(self) -> str:
        """Why nothing can be stored now, empty while it can; the edges keep theirs meanwhile."""
        return self._intake.disk_full

    def take_stored(self, timeout: float = 0.0, limit: int | None = None) -> list[StoredSegment]:
        """The segments stored since the last call, each once; waits up to `timeout` seconds for the first.

        Only what is stored now comes here: after a restart, read the earlier ones from the store by their positions.
        """
        taken = self._intake.take(timeout, limit)
        if not taken:
            self.check()
        return taken

    def peers(self) -> list[EdgeView]:
        """All edges that came, by name; of those that are gone the last 1,024."""
        return self._reception.views()

    def stats(self) -> dict[str, int]:
        """Counters since the start.

        Among them `disconnects` (those for size too: libzmq does not tell why), `failed_handshakes` (without a key,
        with one that isn't allowed, or unfinished), `strangers_ended`: connections that this learner ended because they
        said no HELLO, and `not_allowed`: messages beyond what the sender's key may.
        """
        return {
            **self.counters,
            "disconnects": self._strangers.disconnects,
            "failed_handshakes": self._strangers.failed_handshakes,
            "strangers_ended": self._strangers.ended,
            "connections": self._strangers.connections,
            "peers": len(self._peers),
            "waiting": self._intake.waiting,
            "corrupt": self._store.corrupt,
            **{f"weights_{name}": value for name, value in self._publisher.stats().items()},
        }

    # ---- the sockets' thread

    def _gate_changed(self) -> None:
        self._grants_due = True
        self._wakeup.set()

    def _count(self, batch: list[Arrival], outcomes: list[Outcome]) -> None:
        """Take into account what became of these records; on the intake's thread, before anyone can use them."""
        answers: Counter[tuple[str, Kind]] = Counter()
        ended: Counter[tuple[str, int]] = Counter()
        accepted = 0
        with self._reception.lock:  # against a HELLO, which says anew what runs: an end comes before it or is in it
            for arrival, outcome in zip(batch, outcomes, strict=True):
                kind, header = outcome.kind, outcome.header
                if header is None:
                    peer = self._peers.get(arrival.identity)
                    name = peer.hello.edge if peer is not None else ""
                else:
                    name = header.edge
                    if header.last and kind == "stored":
                        accepted += 1
                        edge = self._edges.get(name)
                        live = edge.data.hello if edge is not None and edge.data is not None else None
                        if (
                            live is not None
                            and live.session == header.session
                            and header.sequence >= live.next_sequence
                        ):
                            ended[name, header.session] += 1
                answers[name, kind] += 1
            for (name, kind), count in answers.items():
                self.counters[_COUNTERS[kind]] += count
                edge = self._edges.get(name)
                if edge is not None:
                    edge.answers[kind] += count
            # Accepted before ended, so that for no moment the gate sees fewer than there are. Also from a spool that
            # was filled under another edge's name: the training loop gets it all the same.
            if accepted:
                self._gate.accepted(accepted)
            for (name, session), count in ended.items():
                self._gate.ended(name, session, count)

    def _answer(self, batch: list[Arrival], outcomes: list[Outcome]) -> None:
        self._outbox.append((batch, outcomes))
        self._wakeup.set()

    def _loop(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._strangers.events, self._wakeup.fileno()):
            poller.register(source, zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.questions, zmq.POLLIN)
        swept = time.monotonic()
        copying = False
        try:
            while not self._stop.is_set():
                now = time.monotonic()
                ready = dict(poller.poll(0 if copying or self._pushing else 250))
                self._wakeup.clear()
                if self._strangers.events in ready:
                    self._strangers.read()
                if self._door is not None:
                    self._reception.attend(self._door, now)
                if 0 < self._receive() < _FEW and not copying:
                    time.sleep(_PACE_S)
                while self._outbox:
                    self._send_answers(*self._outbox.popleft())
                self._announce()
                if not self._push():  # it copies what it sends, and edges wait for that
                    copying = self._publisher.advance()
                if self._grants_due:
                    self._grants_due = False
                    self._send_grants()
                # By the time before this round: what came during a stall of this thread is read by now.
                due = now - swept > 0.25
                if due:
                    swept = now
                    self._reception.bury(now)
                if due or self._strangers.events in ready:
                    self._strangers.sweep({peer.descriptor for peer in self._peers.values()}, now)
        except BaseException as error:
            if not isinstance(error, RobotlearnError):
                logger.exception("the learner's server ends")
            self._failure = error
        finally:
            self._release()

    def _release(self) -> None:
        self._strangers.close()
        self._context.destroy(linger=0)
        self._wakeup.close()

    def _receive(self) -> int:
        """Take in what has come; returns how many records were among it."""
        receive, peers = self._socket.recv, self._peers
        now = time.monotonic()
        records = 0
        for _ in range(_FRAMES):
            try:
                identity = receive(zmq.NOBLOCK)
            except zmq.Again:
                break
            # The ROUTER puts the sender's identity in front, and hands over the parts of a message together or not at
            # all; so this never waits.
            frame = receive(zmq.NOBLOCK, copy=False)
            peer = peers.get(identity)
            if peer is not None:
                peer.last_seen = now
            else:
                self._strangers.heard(frame)
            try:
                if frame.more:
                    self._skip_parts()
                    raise WireError("message of several parts, expected one frame")
                holder = None
                if self._door is not None:
                    holder = self._door.holder(frame)
                    if not may(holder, peer):
                        self._reception.lock_out(identity, peer)
                        continue
                records += self._take_in(identity, peer, frame, holder)
            except WireError as error:
                self._reception.bad_frame(peer, error)
            if time.monotonic() - now > _TURN_S:
                break
        if self._arrived:
            self._intake.put(self._arrived)
            self._arrived = []
        return records

    def _skip_parts(self) -> None:
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv(zmq.NOBLOCK, copy=False)

    def _take_in(self, identity: bytes, peer: Peer | None, frame: zmq.Frame, holder: Allowed | None) -> bool:
        """Deal with one frame; returns whether it was a record."""
        data = frame.buffer
        kind = messages.kind_of(data)
        if kind == "unknown":
            raise WireError("frame is neither a record nor a message")
        if kind == "record":
            if peer is None or peer.hello.role != "data":
                self._send(identity, Refuse("hello", "unknown peer, say HELLO first"))
                raise WireError("record before HELLO")
            size, edge = len(data), self._edges[peer.hello.edge]
            bound = self.window_bytes + self.limits.max_frame_bytes
            # Beyond the bound of all together each edge has an even share still, so that nobody starves.
            share = self._max_inbox_bytes // len(self._edges)
            if (peer.unanswered_bytes and peer.unanswered_bytes + size > bound) or (
                self._inbox_bytes + size > self._max_inbox_bytes and edge.unanswered_bytes + size > share
            ):
                self.counters["over_window"] += 1
                return True
            peer.unanswered_bytes += size
            edge.unanswered_bytes += size
            self._inbox_bytes += size
            self._arrived.append(Arrival(identity, data, edge, holder.name if holder is not None else None))
            return True
        message, _ = messages.decode(data)
        if isinstance(message, Hello):
            self._on_hello(identity, message, frame, holder)
        elif peer is None:
            self._send(identity, Refuse("hello", "unknown peer, say HELLO first"))
        elif peer.superseded:
            self._reception.refuse_superseded(peer)
        else:
            self._on_message(peer, message)
        return False

    def _on_hello(self, identity: bytes, hello: Hello, frame: zmq.Frame, holder: Allowed | None) -> None:
        address, descriptor = str(frame.get("Peer-Address")), self._strangers.heard(frame)
        peer = self._reception.greet(identity, hello, address, descriptor, holder)
        if peer is None:
            return
        self._send(
            identity,
            Welcome(
                self.run, self.incarnation, self.limits.max_frame_bytes, self.window_bytes, self._publisher.version
            ),
        )
        if hello.role == "weights":
            self._announce_to(peer)

    def _on_message(self, peer: Peer, message: Message) -> None:
        hello = peer.hello
        match message:
            case Status() if hello.role == "data" and not all(map(math.isfinite, message.rates.values())):
                raise WireError("STATUS holds a rate that is not finite")
            case Status() if hello.role == "data":
                with self._reception.lock:
                    self._edges[hello.edge].status = message
                if message.aborted > peer.aborted:
                    self._gate.ended(hello.edge, hello.session, message.aborted - peer.aborted)
                    peer.aborted = message.aborted
                for session, floor in message.floors:
                    self._store.settle_below(hello.edge, session, floor)
            case Want() if hello.role == "data":
                on_the_way = max(0, peer.granted - message.received)
                if on_the_way and time.monotonic() - peer.granted_at > self.limits.dead_after_s:
                    # Lost: over a line that changes bytes, a message may be dropped while the connection lives.
                    self._gate.ended(hello.edge, hello.session, on_the_way)
                    peer.granted, on_the_way = message.received, 0
                wanted = max(0, message.episodes - on_the_way)
                # While it may have no weights it can't begin, and what was granted to it would lack elsewhere.
                self._gate.want(hello.edge, hello.session, 0 if self._publisher.withheld(hello.edge) else wanted)
            case Have() if hello.role == "weights":
                peer.has_weights, peer.credit, peer.takes_deltas = message.uid, message.credit, message.delta
                if message.delta:
                    self._publisher.held(message.uid)
                if message.uid != self._publisher.served(hello.edge)[1]:
                    self._announce_to(peer)
            case Pull() if hello.role == "weights":
                frame, _ = self._publisher.pull(message)
                self._send_frame(peer.identity, frame)
            case _:
                raise WireError(f"{type(message).__name__} does not belong on a {hello.role} connection")

    # ---- sending

    def _send(self, identity: bytes, message: Message) -> bool:
        return self._send_frame(identity, messages.encode(message))

    def _send_frame(self, identity: bytes, frame: bytes | zmq.Frame) -> bool:
        """Whether it went out; False (counted) when the peer is gone, or takes nothing in."""
        try:
            self._socket.send(identity, zmq.SNDMORE | zmq.NOBLOCK)
            self._socket.send(frame, zmq.NOBLOCK, copy=isinstance(frame, bytes))
            return True
        except (zmq.Again, zmq.ZMQError) as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self.counters["unsent"] += 1
            return False

    def _send_answers(self, batch: list[Arrival], outcomes: list[Outcome]) -> None:
        ranges: dict[bytes, list[list[int]]] = {}
        for arrival, outcome in zip(batch, outcomes, strict=True):
            identity = arrival.identity
            self._inbox_bytes -= len(arrival.data)
            arrival.sender.unanswered_bytes -= len(arrival.data)
            peer = self._peers.get(identity)
            if peer is not None:
                peer.unanswered_bytes -= len(arrival.data)
            header = outcome.header
            if header is None:
                continue  # not to be trusted: the edge sees that it is passed over, and sends it again
            if outcome.kind == "invalid":
                self._send(identity, Reject(header.session, header.sequence, outcome.reason[:1024]))
                continue
            known = ranges.get(identity)
            if known is None:
                ranges[identity] = [[header.session, header.sequence, 1]]
                continue
            last = known[-1]
            if last[1] + last[2] == header.sequence and last[0] == header.session:
                last[2] += 1
            else:
                known.append([header.session, header.sequence, 1])
        for identity, found in ranges.items():
            self._send(identity, Ack([(session, first, count) for session, first, count in found]))

    def _send_grants(self) -> None:
        for grant in self._gate.poll(self._publisher.version):
            edge = self._edges.get(grant.edge)
            peer = edge.data if edge is not None else None
            known = peer is not None and peer.hello.session == grant.session
            # No version that it may not have: it would wait for it.
            version = min(grant.version, self._publisher.served(grant.edge)[0])
            if known and peer is not None and self._send(peer.identity, Grant(grant.episodes, version)):
                peer.granted += grant.episodes
                peer.granted_at = time.monotonic()
            else:
                self._gate.ended(grant.edge, grant.session, grant.episodes)

    def _announce(self) -> None:
        changes = self._publisher.changes
        if changes == self._changes_announced:
            return
        self._changes_announced = changes
        for peer in list(self._peers.values()):
            if peer.hello.role == "weights" and peer.announced != self._publisher.served(peer.hello.edge)[1]:
                self._announce_to(peer)

    def _announce_to(self, peer: Peer) -> None:
        served = self._publisher.announcement(peer.hello.edge, min(peer.credit, _PUSHED - peer.pushing))
        if served is None:
            return
        announce, layout = served
        peer.credit, peer.announced = 0, announce.uid
        if peer.told_layout != layout.hash and self._send(peer.identity, layout):
            peer.told_layout = layout.hash
        if not self._send(peer.identity, announce):
            return  # it asks by itself later (HAVE)
        if announce.pushed:
            peer.pushing += announce.pushed
            self._pushing.append((peer, announce.uid, range(announce.pushed)))

    def _push(self) -> bool:
        """Send one chunk of those that go unasked, in turns, as one may be much work; returns whether there was one."""
        if not self._pushing:
            return False
        peer, uid, chunks = self._pushing.popleft()
        if self._peers.get(peer.identity) is not peer:
            return True
        have = self._publisher.hash_of(peer.has_weights, chunks[0])
        frame, _ = self._publisher.pull(Pull(uid, chunks[0], have, peer.takes_deltas, 0, self.limits.max_frame_bytes))
        if not self._send_frame(peer.identity, frame):
            self._send(peer.identity, Gone(uid))  # it begins anew rather than wait for the rest
            peer.pushing -= len(chunks)
            return True
        peer.pushing -= 1
        if len(chunks) > 1:
            self._pushing.append((peer, uid, chunks[1:]))
        return True
