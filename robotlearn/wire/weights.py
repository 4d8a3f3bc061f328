"""The edge's side of the weights: it learns of the newest ones and pulls what it lacks."""

from __future__ import annotations

import logging
import sys
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
from robotlearn.wire.door import Credentials
from robotlearn.wire.messages import Announce, ChunkOf, Gone, Have, Hello, LayoutOf, Message, Pull, Welcome
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.sockets import Limits

__all__ = ["Publisher", "Weights", "WeightsClient"]
logger = logging.getLogger("robotlearn.wire")
_ASK_S = 1.0
Bytes = NDArray[np.uint8]
_STALLED_S = 30.0


@dataclass(frozen=True, eq=False)
class Weights:
    """One version. The arrays are read-only views that stay valid as long as anyone holds them."""

    version: int
    tensors: Mapping[str, NDArray[Any]]
    incarnation: int  # of the learner that published them


class _Memory:
    """Buffers of former weights, used again: fresh pages from the system cost more than a copy into touched ones."""

    def __init__(self) -> None:
        self._spare: dict[int, list[Bytes]] = {}

    def take(self, nbytes: int) -> Bytes:
        """A buffer that nobody else holds."""
        spare = self._spare.get(nbytes, [])
        while spare:
            buffer = spare.pop()
            if sys.getrefcount(buffer) == 2:  # this name and the call's: nobody has a view of it
                return buffer
        return np.empty(nbytes, np.uint8)

    def give(self, buffers: list[Bytes]) -> None:
        """Buffers that are not needed here any more, though others may hold views of them still."""
        self._spare = {}
        for buffer in buffers:
            self._spare.setdefault(len(buffer), []).append(buffer)


class _Pulling:
    """Weights on their way: chunks that have come, in the order of the layout."""

    def __init__(
        self, announce: Announce, layout: WeightsLayout, held: _Pulling | None, incarnation: int, memory: _Memory
    ) -> None:
        self.announce = announce
        self.layout = layout
        self.incarnation = incarnation
        count = len(layout.chunks)
        self.chunks: list[Bytes | None] = [None] * count
        self.hashes: list[bytes | None] = [None] * count
        self.asked: set[int] = set()
        self.next = 0  # first chunk not asked for
        self.missing = count
        # What we hold of other weights of the same layout: a chunk that is equal is not sent again.
        self.old_chunks = held.merged_chunks() if held is not None and held.layout.hash == layout.hash else None
        self.memory = memory
        self.large = {
            piece.tensor: memory.take(layout.tensors[piece.tensor].nbytes)
            for chunk in layout.chunks
            for piece in chunk.pieces
            if piece.stop - piece.start != layout.tensors[piece.tensor].nbytes
        }

    def merged_chunks(self) -> list[tuple[Bytes, bytes] | None]:
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
        """A chunk has come: copy it to where it stays."""
        chunk = self._place(index)
        if chunk is None:
            chunk = self.memory.take(len(payload))
        # The padding behind a piece of a large tensor is part of the hash, and is all zeros.
        np.copyto(chunk, np.frombuffer(payload, np.uint8, len(chunk)))
        self._set(index, chunk, digest)

    def keep(self, index: int, chunk: Bytes, digest: bytes) -> None:
        """A chunk is as it was in the weights before, where `chunk` is of."""
        place = self._place(index)
        if place is not None:
            place[:] = chunk
        self._set(index, chunk if place is None else place, digest)

    def _place(self, index: int) -> Bytes | None:
        """Where the chunk belongs, beside its neighbours, if it is a piece of a large tensor."""
        first = self.layout.chunks[index].pieces[0]
        whole = self.large.get(first.tensor)
        return whole[first.start : first.stop] if whole is not None else None

    def _set(self, index: int, chunk: Bytes, digest: bytes) -> None:
        self.chunks[index], self.hashes[index] = chunk, digest
        self.missing -= 1

    def buffers(self) -> list[Bytes]:
        """What its chunks lie in."""
        chunks = zip(self.layout.chunks, self.chunks, strict=True)
        small = [data for chunk, data in chunks if data is not None and chunk.pieces[0].tensor not in self.large]
        return [*small, *self.large.values()]

    def tensors(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for chunk, payload in zip(self.layout.chunks, self.chunks, strict=True):
            for piece in chunk.pieces:
                entry = self.layout.tensors[piece.tensor]
                whole = self.large.get(piece.tensor, payload)
                if whole is not None and piece.start == 0:
                    array: NDArray[Any] = np.ndarray(entry.shape, entry.dtype, whole, piece.offset)
                    array.flags.writeable = False
                    arrays[entry.name] = array
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
        keys: Credentials | None = None,
        limits: Limits | None = None,
        window_chunks: int = 6,  # more in flight leave the caches, and come later
        max_bytes: int = 64 << 30,
    ) -> None:
        """`session` is that of the edge's spool. Raises AddressError when the address is malformed."""
        super().__init__(address, contract, limits or Limits(), keys)
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
        self._memory = _Memory()
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
                self._layout = self._layout_of(message)
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
        announce, layout = self._announced, self._layout
        if announce is None or layout is None or self.welcome is None:
            return
        if self._pulling is not None:
            self._held = self._pulling
        try:
            pulling = _Pulling(announce, layout, self._held, self.welcome.incarnation, self._memory)
        except MemoryError:
            logger.error("weights %d have %d bytes, which this machine hasn't", announce.version, announce.nbytes)
            self._announced = self._pulling = None  # asked for anew
            return
        self._pulling = pulling
        pulling.next = min(pushed, len(layout.chunks))
        pulling.asked = set(range(pulling.next))
        self._progress_at = time.monotonic()

    def _layout_of(self, announce: Announce) -> WeightsLayout:
        """The layout of announced weights. Raises WireError when it was not told, or isn't theirs."""
        layout = self._layout
        if layout is None or layout.hash != announce.layout:
            if self._told is None or self._told.hash != announce.layout:
                self._redial(1.0)  # it was damaged on the way, and is told once per connection
                raise WireError("weights are announced whose layout was not told")
            if announce.nbytes > self._max_bytes:
                raise WireError(f"weights of {announce.nbytes} bytes are announced, the limit is {self._max_bytes}")
            layout = WeightsLayout(self._told.tensors, announce.chunk_bytes)
        if layout.hash != announce.layout or layout.nbytes != announce.nbytes or not layout.chunks:
            raise WireError("weights are announced with a layout that does not fit them")
        return layout

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
            pulling.keep(index, old[0], message.hash)
        else:
            good = len(payload) == pulling.layout.chunks[index].length
            if not good or xxhash.xxh3_64_digest(payload) != message.hash:
                self.bad_hashes += 1
                if self.bad_hashes == 1:  # over a line that changes bytes, each version has some
                    version = pulling.announce.version
                    logger.warning("chunk %d of weights %d fails its hash; such are pulled again", index, version)
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
        if self._held is not None:
            self._memory.give(self._held.buffers())
        weights = Weights(pulling.announce.version, pulling.tensors(), pulling.incarnation)
        self._held, self._pulling, self._finished = pulling, None, pulling.announce.uid
        with self._condition:
            self._newest = weights
            self._condition.notify_all()
        logger.debug("weights %d are complete", weights.version)
        self._asked_at = 0.0  # tell it now, with the credit for the next ones
        if self._announced is not None and self._announced.uid != self._finished:
            self._begin()
