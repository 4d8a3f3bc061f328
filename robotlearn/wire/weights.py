"""The edge's side of the weights: it learns of the newest ones and pulls what it lacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.chunks import WeightsLayout
from robotlearn.wire.connection import Connection
from robotlearn.wire.messages import Announce, ChunkOf, Gone, Have, Hello, LayoutOf, Message, Pull, Welcome
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.sockets import Limits

__all__ = ["Publisher", "Weights", "WeightsClient"]
logger = logging.getLogger("robotlearn.wire")
_ASK_S = 1.0
_STALLED_S = 30.0


@dataclass(frozen=True, eq=False)
class Weights:
    """One version. The arrays are read-only views that stay valid as long as anyone holds them."""

    version: int
    tensors: Mapping[str, NDArray[Any]]
    incarnation: int  # of the learner that published them


class _Pulling:
    """Weights on their way: chunks that have come, in the order of the layout."""

    def __init__(self, announce: Announce, layout: WeightsLayout, held: _Pulling | None, incarnation: int) -> None:
        self.announce = announce
        self.layout = layout
        self.incarnation = incarnation
        count = len(layout.chunks)
        self.chunks: list[memoryview | None] = [None] * count
        self.hashes: list[bytes | None] = [None] * count
        self.asked: set[int] = set()
        self.next = 0  # first chunk not asked for
        self.missing = count
        # What we hold of other weights of the same layout: a chunk that is equal is not sent again.
        self.old_chunks = held.merged_chunks() if held is not None and held.layout.hash == layout.hash else None
        self.large = {
            piece.tensor: np.empty(layout.tensors[piece.tensor].nbytes, np.uint8)
            for chunk in layout.chunks
            for piece in chunk.pieces
            if piece.stop - piece.start != layout.tensors[piece.tensor].nbytes
        }

    def merged_chunks(self) -> list[tuple[memoryview, bytes] | None]:
        """Every chunk that is held, own ones first."""
        merged = list(self.old_chunks or [None] * len(self.chunks))
        for index, (chunk, digest) in enumerate(zip(self.chunks, self.hashes, strict=True)):
            if chunk is not None and digest is not None:
                merged[index] = (chunk, digest)
        return merged

    def have(self, index: int) -> bytes | None:
        old = self.old_chunks[index] if self.old_chunks is not None else None
        return old[1] if old is not None else None

    def put(self, index: int, payload: memoryview, digest: bytes) -> None:
        chunk = self.layout.chunks[index]
        first = chunk.pieces[0]
        if first.tensor in self.large:  # a piece of a large tensor is put to its neighbours
            whole = self.large[first.tensor]
            whole[first.start : first.stop] = np.frombuffer(payload, np.uint8, first.stop - first.start)
            # The padding behind it is part of the hash, and is all zeros.
            payload = memoryview(whole)[first.start : first.stop].toreadonly()
        self.chunks[index] = payload
        self.hashes[index] = digest
        self.missing -= 1

    def tensors(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for chunk, payload in zip(self.layout.chunks, self.chunks, strict=True):
            for piece in chunk.pieces:
                entry = self.layout.tensors[piece.tensor]
                if piece.tensor in self.large:
                    if piece.start == 0:
                        whole: NDArray[Any] = self.large[piece.tensor].view(entry.dtype).reshape(entry.shape)
                        whole.flags.writeable = False
                        arrays[entry.name] = whole
                elif payload is not None:
                    arrays[entry.name] = np.ndarray(entry.shape, entry.dtype, payload, piece.offset)
        return arrays


class WeightsClient(Connection):
    """Keeps an edge supplied with the newest weights, on a thread and a connection of its own.

    It asks for chunks under its own credit (`window_chunks` at once), checks each against its hash, and goes on where
    it was after the connection broke or the learner came back: chunks that it holds already are not sent again. It
    always finishes the version it has begun and then takes the newest, so a slow edge skips versions, never starves.
    """

    role = "weights"

    def __init__(
        self,
        address: str,
        *,
        edge: str,
        session: int,
        contract: Mapping[str, Any],
        limits: Limits | None = None,
        window_chunks: int = 8,
        max_bytes: int = 64 << 30,
    ) -> None:
        """`session` is that of the edge's spool. Raises AddressError when the address is malformed."""
        super().__init__(address, contract, limits or Limits())
        self.edge = edge
        self.session = session
        self.bad_hashes = 0  # chunks that failed their hash and were pulled again
        self.bytes_received = 0
        self.chunks_same = 0  # chunks not sent because they were held already
        self._window = window_chunks
        self._max_bytes = max_bytes
        self._condition = threading.Condition()
        self._newest: Weights | None = None
        self._told: LayoutOf | None = None
        self._layout: WeightsLayout | None = None
        self._announced: Announce | None = None
        self._pulling: _Pulling | None = None
        self._held: _Pulling | None = None
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

    def _work(self, now: float) -> float:
        if now - self._asked_at >= _ASK_S and self._pulling is None:
            self._asked_at = now
            self._send(Have(self._finished, self._window))
        pulling = self._pulling
        if pulling is not None:
            if now - self._progress_at > _STALLED_S:  # a chunk that was asked for will not come
                logger.warning("weights %d: no chunk for %.0f s; asked for anew", pulling.announce.version, _STALLED_S)
                self._begin()
                return 0.0
            chunks = pulling.layout.chunks
            while len(pulling.asked) < self._window and pulling.next < len(chunks):
                if not self._send(Pull(pulling.announce.uid, pulling.next, pulling.have(pulling.next))):
                    return 0.05
                pulling.asked.add(pulling.next)
                pulling.next += 1
        return _ASK_S

    def _on_message(self, message: Message, payload: memoryview) -> None:
        match message:
            case LayoutOf():
                self._told = message
            case Announce():
                self._announced = message
                if message.uid != self._finished and (
                    self._pulling is None
                    or (self._pulling.announce.uid != message.uid and not any(self._pulling.hashes))
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
        announce = self._announced
        if announce is None or self.welcome is None:
            return
        layout = self._layout
        if layout is None or layout.hash != announce.layout:
            if self._told is None or self._told.hash != announce.layout:
                raise WireError("weights are announced whose layout was not told")
            if announce.nbytes > self._max_bytes:
                raise WireError(f"weights of {announce.nbytes} bytes are announced, the limit is {self._max_bytes}")
            layout = WeightsLayout(self._told.tensors, announce.chunk_bytes)
            if layout.hash != announce.layout or layout.nbytes != announce.nbytes:
                raise WireError("weights are announced with a layout that does not fit them")
            self._layout = layout
        if self._pulling is not None:
            self._held = self._pulling
        self._pulling = pulling = _Pulling(announce, layout, self._held, self.welcome.incarnation)
        pulling.next = min(pushed, len(layout.chunks))
        pulling.asked = set(range(pulling.next))
        self._progress_at = time.monotonic()

    def _on_chunk(self, message: ChunkOf, payload: memoryview) -> None:
        pulling = self._pulling
        if pulling is None or pulling.announce.uid != message.uid or message.chunk not in pulling.asked:
            return  # of weights that we no longer want
        index = message.chunk
        pulling.asked.discard(index)
        self._progress_at = time.monotonic()
        old = pulling.old_chunks[index] if pulling.old_chunks is not None else None
        if message.same and old is not None and old[1] == message.hash:
            self.chunks_same += 1
            pulling.put(index, old[0], message.hash)
        else:
            good = len(payload) == pulling.layout.chunks[index].length
            if not good or xxhash.xxh3_64_digest(payload) != message.hash:
                self.bad_hashes += 1
                logger.warning("chunk %d of weights %d fails its hash; pulled again", index, pulling.announce.version)
                if self._send(Pull(message.uid, index, None)):
                    pulling.asked.add(index)
                else:
                    self._redial(0.1)
                return
            self.bytes_received += len(payload)
            pulling.put(index, payload, message.hash)
        if not pulling.missing:
            self._finish(pulling)

    def _finish(self, pulling: _Pulling) -> None:
        pulling.old_chunks = None
        weights = Weights(pulling.announce.version, pulling.tensors(), pulling.incarnation)
        self._held, self._pulling, self._finished = pulling, None, pulling.announce.uid
        with self._condition:
            self._newest = weights
            self._condition.notify_all()
        logger.debug("weights %d are complete", weights.version)
        self._asked_at = 0.0  # tell it now, with the credit for the next ones
        if self._announced is not None and self._announced.uid != self._finished:
            self._begin()
