"""Who is at the learner: peers come in by their HELLO, are told what is wrong with it, and go when they fall silent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.door import Door
from robotlearn.wire.gate import StalenessGate
from robotlearn.wire.keys import Allowed, Role
from robotlearn.wire.messages import Hello, Message, Refuse
from robotlearn.wire.peers import Edge, EdgeView, Peer, first_difference

logger = logging.getLogger("robotlearn.wire")
_MANY = 1024  # refusals that the log tells one by one
_MAX_GONE = 1024  # edges without a connection that are still shown


class Reception:
    """The tables of a learner's peers (connections that said HELLO) and edges (by name, over all their connections).

    It belongs to the thread of the server's sockets; other threads read the tables under `lock`. `send` hands a message
    to an identity, `counters` are the server's.
    """

    def __init__(
        self,
        gate: StalenessGate,
        counters: dict[str, int],
        send: Callable[[bytes, Message], bool],
        *,
        contract: Mapping[str, Any],
        max_peers: int,
        dead_after_s: float,
    ) -> None:
        self.lock = threading.Lock()
        self.peers: dict[bytes, Peer] = {}
        self.edges: dict[str, Edge] = {}
        self._told: set[tuple[str, str]] = set()  # refusals, by edge and what differs
        self._gate = gate
        self._counters = counters
        self._send = send
        self._contract = dict(contract)
        self._max_peers = max_peers
        self._dead_after = dead_after_s

    # ---- coming

    def greet(
        self, identity: bytes, hello: Hello, address: str, descriptor: int, holder: Allowed | None
    ) -> Peer | None:
        """Let in who said HELLO; None when it is refused, which it is told."""
        refusal = self._refusal(identity, hello) or (_not_allowed(holder, hello) if holder is not None else None)
        if refusal is not None:
            self._counters["refused"] += 1
            self._send(identity, refusal)
            why = (hello.edge, refusal.key)
            if why not in self._told and len(self._told) < _MANY:
                self._told.add(why)
                logger.warning(
                    "edge %s at %s is refused: %s: %s; more of that is only counted", hello.edge, address, refusal.key,
                    refusal.reason,
                )  # fmt: skip
            return None
        peer = Peer(identity, hello, address, descriptor, holder)
        known = self.peers.get(identity)
        if known is not None:  # it says HELLO again; what it sent before is still to be answered
            peer.unanswered_bytes = known.unanswered_bytes
        before = None
        with self.lock:
            self.peers[identity] = peer
            if hello.role == "data":
                edge = self.edges.get(hello.edge) or self._new_edge(hello.edge)
                before, edge.data = edge.data, peer
                edge.address, edge.session = address, hello.session
                self._gate.running(hello.edge, hello.session, hello.running)
        if hello.role == "data" and before is not None and before.identity != identity:
            # The same session again: a new connection of the same edge. Another one: its successor takes over.
            if before.hello.session == hello.session:
                self.peers.pop(before.identity, None)
            elif before.identity in self.peers:
                logger.warning("edge %s came anew from %s; its former session is over", hello.edge, address)
                before.superseded = True
                self.refuse_superseded(before)
        return peer

    def _new_edge(self, name: str) -> Edge:
        gone = [edge for edge in self.edges.values() if edge.data is None]
        if len(gone) >= _MAX_GONE:
            del self.edges[min(gone, key=lambda edge: edge.last_seen).name]
        edge = self.edges[name] = Edge(name)
        return edge

    def _refusal(self, identity: bytes, hello: Hello) -> Refuse | None:
        if hello.schema != record.SCHEMA:
            return Refuse("schema", f"the learner reads schema {record.SCHEMA}, the edge writes {hello.schema}")
        difference = first_difference(self._contract, hello.contract)
        if difference is not None:
            return Refuse(*difference)
        known = self.peers.get(identity)
        if known is not None and (known.hello.edge, known.hello.session, known.hello.role) != (
            hello.edge, hello.session, hello.role,
        ):  # fmt: skip
            return Refuse("session", "this connection said HELLO for another edge before")
        if identity not in self.peers and len(self.peers) >= self._max_peers:
            return Refuse("peers", f"the learner has {len(self.peers)} connections, which is its limit")
        return None

    def refuse_superseded(self, peer: Peer) -> None:
        """Tell a connection that another edge came under its name."""
        self._send(peer.identity, Refuse("session", f"another edge took over the name {peer.hello.edge!r}; rename one"))

    # ---- going

    def attend(self, door: Door, now: float) -> None:
        """Let in who waits; put out who is not allowed any more, also if it says nothing and only listens."""
        if door.attend(now):
            for peer in list(self.peers.values()):
                holder = door.keys.allowed.get(peer.holder.key.bytes) if peer.holder is not None else None
                if not may(holder, peer):
                    self.lock_out(peer.identity, peer)

    def lock_out(self, identity: bytes, peer: Peer | None) -> None:
        """Somebody says what its key doesn't allow: tell it, and forget the connection."""
        self._counters["not_allowed"] += 1
        self._send(identity, Refuse("key", "the learner doesn't allow its key (any more) what it asks for"))
        if peer is not None:
            logger.warning("edge %s (%s) is put out: its key may no longer", peer.hello.edge, peer.address)
            self._forget(peer)

    def bury(self, now: float) -> None:
        """Forget the peers from which nothing came for too long; what a dead edge was running is freed."""
        for peer in [p for p in self.peers.values() if now - p.last_seen > self._dead_after]:
            freed = self._forget(peer)
            if freed is None:
                continue
            self._counters["dead"] += 1
            logger.warning(
                "edge %s (%s) is silent for %.0f s and counts as dead; %d running episodes are freed",
                peer.hello.edge,
                peer.address,
                now - peer.last_seen,
                freed,
            )

    def _forget(self, peer: Peer) -> int | None:
        """Let a connection go; returns how many running episodes that frees, None when its edge has a newer one."""
        with self.lock:
            self.peers.pop(peer.identity, None)
            edge = self.edges.get(peer.hello.edge)
            if edge is None or edge.data is not peer:
                return None
            edge.data, edge.last_seen = None, peer.last_seen
        return self._gate.freed(peer.hello.edge)

    # ---- meanwhile

    def bad_frame(self, peer: Peer | None, error: WireError) -> None:
        """Count a frame that makes no sense; the log tells once per peer."""
        self._counters["bad_frames"] += 1
        if peer is None:
            if self._counters["bad_frames"] == 1:
                logger.warning("a frame of an unknown peer is dropped: %s", error)
            return
        with self.lock:
            edge = self.edges.get(peer.hello.edge)
            if edge is not None:
                edge.bad_frames += 1
        if not peer.complained:
            peer.complained = True
            logger.warning("a frame of edge %s (%s) is dropped: %s", peer.hello.edge, peer.address, error)

    def views(self) -> list[EdgeView]:
        """All edges that came, by name; of those that are gone the last 1,024. Any thread."""
        now = time.monotonic()
        with self.lock:
            edges = sorted(self.edges.values(), key=lambda edge: edge.name)
            return [self._view(edge, now) for edge in edges]

    def _view(self, edge: Edge, now: float) -> EdgeView:
        seen = edge.data.last_seen if edge.data is not None else edge.last_seen
        status, answers = edge.status, edge.answers
        return EdgeView(
            edge.name, edge.session, edge.address, edge.data is not None, now - seen,
            self._gate.running_at(edge.name), self._gate.wanted_by(edge.name),
            answers["stored"], answers["duplicate"], answers["invalid"], answers["damaged"], edge.bad_frames,
            status.version if status else -1, status.state if status else "", status.waits_for if status else "",
            dict(status.counts) if status else {}, dict(status.rates) if status else {},
        )  # fmt: skip


_NEEDED: dict[str, tuple[Role, ...]] = {"data": ("edge",), "weights": ("edge", "weights")}
"""Of which roles each kind of connection needs one."""


def may(holder: Allowed | None, peer: Peer | None) -> bool:
    """Whether who holds the key of a message may send it on that connection, which another key may have begun."""
    if holder is None or peer is None:
        return holder is not None
    began = peer.holder is not None and peer.holder.key == holder.key
    return began and _not_allowed(holder, peer.hello) is None


def _not_allowed(holder: Allowed, hello: Hello) -> Refuse | None:
    """Why that key may not say that HELLO, if it may not."""
    if hello.edge != holder.name:
        return Refuse("key", f"its key is that of {holder.name!r}, it says that it is {hello.edge!r}")
    needed = _NEEDED[hello.role]
    if not any(role in needed for role in holder.roles):
        return Refuse("key", f"{holder.name!r} has the role {', '.join(holder.roles)}, it needs {needed[0]}")
    return None
