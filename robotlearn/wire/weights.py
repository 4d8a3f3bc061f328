"""The edge's side of the weights: it learns of the newest ones and pulls what it lacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.arriving import Arriving, BufferPool, Parts, Request
from robotlearn.wire.chunks import WeightsLayout
from robotlearn.wire.connection import Connection
from robotlearn.wire.door import Credentials
from robotlearn.wire.messages import Announce, ChunkOf, Gone, Have, Hello, LayoutOf, Message, Pull, Welcome
from robotlearn.wire.pace import Pace
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.sockets import Limits

__all__ = ["Publisher", "Weights", "WeightsClient"]
logger = logging.getLogger("robotlearn.wire")
_ASK_S = 1.0
_STALLED_S = 30.0


@dataclass(frozen=True, eq=False)
class Weights:
    """One version. The arrays are read-only views that stay valid as long as anyone holds them.

    What does not train is the same memory in all versions that were held one after the other.
    """

    version: int
    tensors: Mapping[str, NDArray[Any]]
    incarnation: int  # of the learner that published them


class WeightsClient(Connection):
    """Keeps an edge supplied with the newest weights, on a thread and a connection of its own.

    It asks for chunks under its own credit (`window_chunks` at once), checks each against its hash, and goes on where
    it was after the connection broke or the learner came back: chunks that it holds already are not sent again. It
    always finishes the version it has begun and then takes the newest, so a slow edge skips versions, never starves.

    It measures the link: so much is on the way as comes in 2 s, large chunks in parts; and where a learner makes deltas
    faster than the link carries whole chunks, it asks for deltas to those that it has.
    """

    role = "weights"

    def __init__(
        self,
        address: str,
        *,
        edge: str,
        session: int,
        contract: Mapping[str, Any],
        keys: Credentials | None = None,
        limits: Limits | None = None,
        window_chunks: int = 6,  # more in flight leave the caches, and come later
        max_bytes: int = 64 << 30,
        limit_mbit: float | None = None,
    ) -> None:
        """`session` is that of the edge's spool; `limit_mbit` what weights may take of the link, in Mbit/s.

        Raises AddressError when the address is malformed.
        """
        super().__init__(address, contract, limits or Limits(), keys)
        self.edge = edge
        self.session = session
        self.bad_hashes = 0  # chunks, and deltas to them, that failed their hash and were pulled again
        self.bytes_received = 0
        self.chunks_delta = 0  # that came as deltas
        self.chunks_same = 0  # not sent because they were held already
        self._window = window_chunks
        self._max_bytes = max_bytes
        self._condition = threading.Condition()
        self._newest: Weights | None = None
        self._told: LayoutOf | None = None
        self._layout: WeightsLayout | None = None
        self._announced: Announce | None = None
        self._pulling: Arriving | None = None
        self._held: Arriving | None = None
        self._pool = BufferPool()
        self._pace = Pace(limit_mbit * 125_000 if limit_mbit is not None else None)
        self._finished = 0  # uid of `_newest`
        self._asked_at = 0.0
        self._progress_at = 0.0

    def newest(self) -> Weights | None:
        """The newest complete weights, None before the first. Never blocks."""
        return self._newest

    def wait(self, version: int, timeout: float) -> Weights | None:
        """Block until weights of at least `version` are here; None after `timeout` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None and self._newest.version >= version, timeout)
            newest = self._newest
        return newest if newest is not None and newest.version >= version else None

    @property
    def announced(self) -> int:
        """The newest version that the learner has told of, -1 before the first."""
        return self._announced.version if self._announced is not None else -1

    def stats(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "version": self._newest.version if self._newest is not None else -1,
            "announced": self.announced,
            "bytes_received": self.bytes_received,
            "chunks_same": self.chunks_same,
            "chunks_delta": self.chunks_delta,
            "bad_hashes": self.bad_hashes,
            "bad_frames": self.bad_frames,
            "connections": self.connections,
            "disconnects": self.disconnects,
        }

    # ---- on the thread

    def _hello(self) -> Hello:
        return Hello(record.SCHEMA, self.edge, self.session, self.role, self.contract, 0, 0)

    def _on_welcome(self, welcome: Welcome) -> None:
        self._asked_at = time.monotonic()  # it announces by itself at first

    def _on_lost(self) -> None:
        if self._pulling is not None:
            # What has come stays: it is held, and matched by its hashes when the learner is back.
            self._held, self._pulling = self._pulling, None
        self._announced = None
        self._pace.forget()

    def _work(self, now: float) -> float:
        if now - self._asked_at >= _ASK_S and self._pulling is None:
            self._asked_at = now
            self._send(Have(self._finished, self._credit(now), self._pace.wants_delta(self._chunk_bytes())))
        pulling = self._pulling
        if pulling is None:
            return _ASK_S
        if pulling.asked and now - self._progress_at > _STALLED_S:  # what was asked for will not come
            logger.warning("weights %d: no chunk for %.0f s; asked for anew", pulling.announce.version, _STALLED_S)
            self._begin()
            return 0.0
        while len(pulling.asked) < self._window and not self._pace.debt_s(now):
            request = pulling.following(self._pace.part)
            if request is None or (pulling.asked and pulling.on_the_way + request.length > self._pace.ahead):
                break
            if not self._pull(pulling, request, now):
                return 0.05
        return min(_ASK_S, self._pace.debt_s(now) or _ASK_S)

    def _pull(self, pulling: Arriving, request: Request, now: float) -> bool:
        index, have = request.chunk, pulling.have(request.chunk)
        parts = pulling.parts.get(index)
        if parts is not None and request.start:
            by_delta = parts.base is not None
        else:
            length = pulling.layout.chunks[index].length
            by_delta = have is not None and self._pace.wants_delta(length) and not self._pace.probes(length, now)
        if not self._send(Pull(pulling.announce.uid, index, have, by_delta, request.start, request.length)):
            return False
        if not pulling.asked:
            self._progress_at = now
        pulling.ask(request, self._pace.asks(now))
        return True

    def _credit(self, now: float) -> int:
        """How many chunks may come unasked: what may be on the way, by the layout of the weights here."""
        if self._layout is None or self._pace.rate is None or self._pace.debt_s(now):
            return 0
        credit, room = 0, self._pace.ahead
        for chunk in self._layout.chunks[: self._window]:
            room -= chunk.length
            if room < 0 or chunk.length > self._pace.part:
                break
            credit += 1
        return credit

    def _chunk_bytes(self) -> int:
        return max((chunk.length for chunk in self._layout.chunks[: self._window]), default=0) if self._layout else 0

    def _on_message(self, message: Message, payload: memoryview) -> None:
        match message:
            case LayoutOf():
                self._told = message
            case Announce():
                self._layout = self._layout_of(message)
                self._announced = message
                if message.uid != self._finished and (
                    self._pulling is None
                    or (self._pulling.announce.uid != message.uid and not self._pulling.begun)
                ):
                    self._begin(message.pushed)
            case ChunkOf():
                self._on_chunk(message, payload)
            case Gone():
                if self._pulling is not None and self._pulling.announce.uid == message.uid:
                    self._held, self._pulling = self._pulling, None
                    self._asked_at = 0.0
                    if self._announced is not None and self._announced.uid != message.uid:
                        self._begin()
            case _:
                raise WireError(f"{type(message).__name__} on the weights connection")

    def _begin(self, pushed: int = 0) -> None:
        """Pull what was announced; its first `pushed` chunks come by themselves."""
        announce, layout = self._announced, self._layout
        if announce is None or layout is None or self.welcome is None:
            return
        parts: dict[int, Parts] = {}
        if self._pulling is not None:
            self._held = self._pulling
        if self._held is not None and self._held.layout.hash == layout.hash:
            parts = self._held.parts
        try:
            pulling = Arriving(announce, layout, self.welcome.incarnation, self._pool, parts)
        except MemoryError:
            logger.error("weights %d have %d bytes, which this machine hasn't", announce.version, announce.nbytes)
            self._announced = self._pulling = None  # asked for anew
            return
        pulling.begin(self._held)
        self._pulling = pulling
        self._progress_at = now = time.monotonic()
        for chunk in range(min(pushed, layout.first_constant)):
            pulling.ask(Request(chunk, 0, layout.chunks[chunk].length), self._pace.asks(now))
        if not pulling.missing:
            self._finish(pulling)

    def _layout_of(self, announce: Announce) -> WeightsLayout:
        """The layout of announced weights. Raises WireError when it was not told, or isn't theirs."""
        layout = self._layout
        if layout is None or layout.hash != announce.layout:
            if self._told is None or self._told.hash != announce.layout:
                self._redial(1.0)  # it was damaged on the way, and is told once per connection
                raise WireError("weights are announced whose layout was not told")
            if announce.nbytes > self._max_bytes:
                raise WireError(f"weights of {announce.nbytes} bytes are announced, the limit is {self._max_bytes}")
            layout = WeightsLayout(self._told.tensors, announce.chunk_bytes, self._told.trained)
        if layout.hash != announce.layout or layout.nbytes != announce.nbytes or not layout.chunks:
            raise WireError("weights are announced with a layout that does not fit them")
        return layout

    def _on_chunk(self, message: ChunkOf, payload: memoryview) -> None:
        pulling = self._pulling
        if pulling is None or pulling.announce.uid != message.uid:
            return  # of weights that we no longer want
        index = message.chunk
        asked = pulling.answered(index, message.start)
        if asked is None or pulling.hashes[index] is not None:
            return
        self._progress_at = now = time.monotonic()
        self._pace.came(asked, len(payload), now, raw=message.base is None)
        self.bytes_received += len(payload)
        length = pulling.layout.chunks[index].length
        try:
            if length and not message.total:
                if not pulling.same(index, message.hash):
                    raise WireError("it is said to be the same as one that is not here")
                self.chunks_same += 1
            elif message.total > length:
                raise WireError("it is larger than can be")
            else:
                whole: memoryview | None = payload
                if message.start or len(payload) < message.total:
                    whole = self._join(pulling, message, payload)
                if whole is None:
                    return
                pulling.put(index, message, whole)
                pulling.parts.pop(index, None)
                self.chunks_delta += message.base is not None
        except WireError as error:
            self._again(pulling, index, error)
            return
        if not pulling.missing:
            self._finish(pulling)

    def _join(self, pulling: Arriving, message: ChunkOf, payload: memoryview) -> memoryview | None:
        """The whole payload of a chunk if this was the last part of it."""
        index = message.chunk
        if not message.start:
            pulling.parts[index] = Parts(message.hash, message.base, bytearray(message.total))
        parts = pulling.parts.get(index)
        if parts is None or not parts.add(message, payload):
            if message.start:  # what had come of it was of other weights
                pulling.restart(index, self._pace.part)
                return None
            raise WireError("its first part is longer than it or empty")
        if parts.got == len(parts.buffer):
            return memoryview(parts.buffer)
        pulling.queue_parts(index, self._pace.part)
        return None

    def _again(self, pulling: Arriving, index: int, error: WireError) -> None:
        """A chunk is not what it should be: pull it whole, as if nothing of it were here."""
        self.bad_hashes += 1
        if self.bad_hashes == 1:  # over a line that changes bytes, each version has some
            version = pulling.announce.version
            logger.warning("chunk %d of weights %d: %s; such are pulled again", index, version, error)
        pulling.forget(index)
        pulling.restart(index, self._pace.part)

    def _finish(self, pulling: Arriving) -> None:
        pulling.old_chunks = None
        pulling.parts.clear()
        self._pace.complete()
        if self._held is not None:
            self._pool.give(self._held.buffers())
        weights = Weights(pulling.announce.version, pulling.tensors(), pulling.incarnation)
        self._held, self._pulling, self._finished = pulling, None, pulling.announce.uid
        with self._condition:
            self._newest = weights
            self._condition.notify_all()
        logger.debug("weights %d are complete", weights.version)
        self._asked_at = 0.0  # tell it now, with the credit for the next ones
        if self._announced is not None and self._announced.uid != self._finished:
            self._begin()
