"""The edge's copy of a set of weights, while its chunks come and after."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire import delta
from robotlearn.wire.chunks import WeightsLayout, dtype_of
from robotlearn.wire.layout import padded
from robotlearn.wire.messages import Announce, ChunkOf
from robotlearn.wire.pace import Asked
from robotlearn.wire.snapshot import combined

Bytes = NDArray[np.uint8]


class BufferPool:
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


@dataclass(frozen=True)
class Request:
    """A chunk or a part of one."""

    chunk: int
    start: int
    length: int


@dataclass
class Parts:
    """The payload of a chunk of which the first parts have come."""

    hash: bytes
    base: bytes | None
    buffer: bytearray
    got: int = 0

    def add(self, message: ChunkOf, payload: memoryview) -> bool:
        """Take in the part that follows; False where it is none of this payload."""
        fits = (message.hash, message.base, message.total) == (self.hash, self.base, len(self.buffer))
        if not fits or message.start != self.got or not 0 < len(payload) <= len(self.buffer) - self.got:
            return False
        self.buffer[self.got : self.got + len(payload)] = payload
        self.got += len(payload)
        return True


@dataclass(eq=False)
class Arriving:
    """Weights on their way: chunks that have come, in the order of the layout. What is equal to `held` is shared."""

    announce: Announce
    layout: WeightsLayout
    incarnation: int
    pool: BufferPool
    parts: dict[int, Parts] = field(default_factory=dict)  # of former tries too

    def __post_init__(self) -> None:
        count = len(self.layout.chunks)
        self.chunks: list[Bytes | None] = [None] * count
        self.hashes: list[bytes | None] = [None] * count
        self.asked: dict[tuple[int, int], tuple[Request, Asked]] = {}  # by chunk and start
        self.on_the_way = 0  # bytes that the requests may bring
        self.again: deque[Request] = deque()  # to ask for before the next chunk
        self.next = 0  # first chunk not asked for
        self.missing = count
        self.old_chunks: list[tuple[Bytes, bytes] | None] | None = None
        self.large: dict[int, Bytes] = {}

    def begin(self, held: Arriving | None) -> None:
        """Make room for all chunks; `held` are other weights, of which equal chunks are not sent again."""
        if held is not None and held.layout.hash == self.layout.hash:
            self.old_chunks = held.merged_chunks()
        constant = range(self.layout.first_constant, len(self.layout.chunks))
        old = [self._old(chunk) for chunk in constant]
        told = self.announce.constant
        known = told is not None and told == combined([one[1] if one else None for one in old])
        for chunk in self.layout.chunks:
            for piece in chunk.pieces:
                entry = self.layout.tensors[piece.tensor]
                if piece.stop - piece.start != entry.nbytes and piece.tensor not in self.large:
                    shared = None
                    if known and piece.tensor >= self.layout.trained and held is not None and held.holds_constant:
                        shared = held.large[piece.tensor]
                    self.large[piece.tensor] = self.pool.take(padded(entry.nbytes)) if shared is None else shared
        if known:
            for index, one in zip(constant, old, strict=True):
                if one is not None:
                    self.keep(index, *one)

    @property
    def begun(self) -> bool:
        """Whether any of it has come, beside what does not train."""
        return bool(self.parts) or any(self.hashes[: self.layout.first_constant])

    @property
    def holds_constant(self) -> bool:
        """Whether all that does not train is in its own memory."""
        return all(self.hashes[self.layout.first_constant :])

    def merged_chunks(self) -> list[tuple[Bytes, bytes] | None]:
        """Every chunk that is held, own ones first."""
        merged = list(self.old_chunks or [None] * len(self.chunks))
        for index, (chunk, digest) in enumerate(zip(self.chunks, self.hashes, strict=True)):
            if chunk is not None and digest is not None:
                merged[index] = (chunk, digest)
        return merged

    def _old(self, index: int) -> tuple[Bytes, bytes] | None:
        return self.old_chunks[index] if self.old_chunks is not None else None

    def have(self, index: int) -> bytes | None:
        """Hash of what is held of other weights in place of a chunk."""
        old = self._old(index)
        return old[1] if old is not None else None

    def following(self, most: int) -> Request | None:
        """What to ask for next, in parts of at most `most` bytes; it stays the next until it is `ask`ed for."""
        if self.again:
            return self.again[0]
        while self.next < len(self.chunks) and self.chunks[self.next] is not None:
            self.next += 1
        if self.next == len(self.chunks):
            return None
        parts = self.parts.get(self.next)
        length = self.layout.chunks[self.next].length
        return Request(self.next, parts.got if parts is not None else 0, max(1, min(most, length)))

    def ask(self, request: Request, asked: Asked) -> None:
        """It was asked for."""
        self.asked[request.chunk, request.start] = request, asked
        self.on_the_way += request.length
        if self.again and self.again[0] is request:
            self.again.popleft()
        else:
            self.next = max(self.next, request.chunk + 1)

    def answered(self, chunk: int, start: int) -> Asked | None:
        """Its answer is here; None if it was not asked for."""
        found = self.asked.pop((chunk, start), None)
        if found is None:
            return None
        self.on_the_way -= found[0].length
        return found[1]

    def forget(self, index: int) -> None:
        """What is here in place of a chunk is of no use."""
        if self.old_chunks is not None:
            self.old_chunks[index] = None

    def restart(self, index: int, most: int) -> None:
        """Ask for a chunk from its beginning, once what is asked for of it has come: what came of it does not fit."""
        self.parts.pop(index, None)
        self.again = deque(request for request in self.again if request.chunk != index)
        if not any(asked == index for asked, _ in self.asked):
            self.again.appendleft(Request(index, 0, max(1, min(most, self.layout.chunks[index].length))))

    def queue_parts(self, chunk: int, most: int) -> None:
        """Ask for what is left of a chunk, unless it is asked for."""
        parts = self.parts[chunk]
        queued = any(request.chunk == chunk for request in self.again)
        if not queued and not any(asked == chunk for asked, _ in self.asked):
            left = range(parts.got, len(parts.buffer), most)
            self.again.extendleft(Request(chunk, start, most) for start in reversed(left))

    def put(self, index: int, message: ChunkOf, payload: memoryview) -> None:
        """A chunk has come whole: put it where it stays. Raises WireError when it is not what its hash says."""
        length = self.layout.chunks[index].length
        place = self._place(index)
        if message.base is None:
            if len(payload) != length or xxhash.xxh3_64_digest(payload) != message.hash:
                raise WireError("it fails its hash")
            chunk = self.pool.take(length) if place is None else place
            np.copyto(chunk, np.frombuffer(payload, np.uint8, length))
        else:
            old = self._old(index)
            if old is None or old[1] != message.base:
                raise WireError("it is a delta to another chunk than the one here")
            chunk = self.pool.take(length) if place is None else place
            delta.apply(old[0], payload, chunk)
            if xxhash.xxh3_64_digest(chunk) != message.hash:
                raise WireError("it is a delta whose result fails its hash")
        self._set(index, chunk, message.hash)

    def same(self, index: int, digest: bytes) -> bool:
        """A chunk is as it was in other weights; False if it isn't held."""
        old = self._old(index)
        if old is None or old[1] != digest:
            return False
        self.keep(index, *old)
        return True

    def keep(self, index: int, chunk: Bytes, digest: bytes) -> None:
        """A chunk is as it was in the weights before, where `chunk` is of."""
        place = self._place(index)
        if place is not None and not np.may_share_memory(place, chunk):
            place[:] = chunk
        self._set(index, chunk if place is None else place, digest)

    def _place(self, index: int) -> Bytes | None:
        """Where the chunk belongs, beside its neighbours, if it is a piece of a large tensor."""
        chunk = self.layout.chunks[index]
        first = chunk.pieces[0]
        whole = self.large.get(first.tensor)
        return whole[first.start : first.start + chunk.length] if whole is not None else None

    def _set(self, index: int, chunk: Bytes, digest: bytes) -> None:
        self.chunks[index], self.hashes[index] = chunk, digest
        self.missing -= 1

    def buffers(self) -> list[Bytes]:
        """What its chunks lie in."""
        chunks = zip(self.layout.chunks, self.chunks, strict=True)
        small = [data for chunk, data in chunks if data is not None and chunk.pieces[0].tensor not in self.large]
        return [*small, *self.large.values()]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read-only views by name."""
        arrays: dict[str, NDArray[Any]] = {}
        for chunk, payload in zip(self.layout.chunks, self.chunks, strict=True):
            for piece in chunk.pieces:
                entry = self.layout.tensors[piece.tensor]
                whole = self.large.get(piece.tensor, payload)
                if whole is not None and piece.start == 0:
                    array: NDArray[Any] = np.ndarray(entry.shape, dtype_of(entry), whole, piece.offset)
                    array.flags.writeable = False
                    arrays[entry.name] = array
        return arrays
