"""The learner's copy of one set of weights, as the chunks that the edges pull."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
import zmq
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.chunks import BF16, WeightsLayout, dtype_of, to_bf16
from robotlearn.wire.layout import ALIGNMENT
from robotlearn.wire.messages import ChunkOf, encode

HEADER = ALIGNMENT  # room in front of each chunk for the CHUNK message, so that both leave as one frame uncopied

Arrays = Mapping[str, NDArray[Any]]


class _Filling:
    """Where the tensors of one chunk are copied to."""

    def __init__(self, layout: WeightsLayout, chunk: int, payload: NDArray[np.uint8]) -> None:
        self._targets: list[tuple[str, NDArray[Any], slice | None]] = []
        for piece in layout.chunks[chunk].pieces:
            entry = layout.tensors[piece.tensor]
            target = payload[piece.offset : piece.offset + piece.stop - piece.start].view(dtype_of(entry))
            part = slice(piece.start // target.itemsize, piece.stop // target.itemsize)
            whole = piece.stop - piece.start == entry.nbytes
            self._targets.append(
                (entry.name, target.reshape(entry.shape), None) if whole else (entry.name, target, part)
            )

    def fill(self, arrays: Arrays) -> None:
        """Copy in what belongs to the chunk, rounded where it is served so."""
        for name, target, part in self._targets:
            source = arrays[name]
            if part is not None:
                # `reshape` would copy the whole of what does not lie in order, for each part anew.
                source = source.reshape(-1)[part] if source.flags.c_contiguous else source.flat[part]
            if target.dtype == BF16 and source.dtype != BF16:
                to_bf16(source, target)
            else:
                np.copyto(target, source)


class Memory:
    """A buffer for what trains in one set of weights; used again for others."""

    def __init__(self, layout: WeightsLayout) -> None:
        self.layout = layout
        self.frames: list[memoryview] = []  # of each chunk, header included
        self.trackers: list[zmq.MessageTracker] = []  # of frames that libzmq still reads
        self.in_use = 0  # chunks being copied, hashed, compared or sent at this moment by the server's thread
        chunks = layout.chunks[: layout.first_constant]
        buffer: NDArray[np.uint8] = np.zeros(sum(HEADER + chunk.length for chunk in chunks), np.uint8)
        self._fillings: list[_Filling] = []
        start = 0
        for index, chunk in enumerate(chunks):
            stop = start + HEADER + chunk.length
            self.frames.append(memoryview(buffer)[start:stop])
            self._fillings.append(_Filling(layout, index, buffer[start + HEADER : stop]))
            start = stop

    def fill(self, chunk: int, arrays: Arrays) -> None:
        """Copy in what belongs to one chunk."""
        self._fillings[chunk].fill(arrays)

    @property
    def busy(self) -> bool:
        """Whether the server or libzmq still reads from it."""
        self.trackers = [tracker for tracker in self.trackers if not tracker.done]
        return bool(self.trackers or self.in_use)


class Constant:
    """A chunk of what does not train, shared by all versions for which its marks are the same."""

    def __init__(self, layout: WeightsLayout, chunk: int, marks: tuple[Hashable, ...]) -> None:
        self.marks = marks
        self.payload: NDArray[np.uint8] = np.zeros(layout.chunks[chunk].length, np.uint8)
        self.filled = False
        self.hash: bytes | None = None
        self._filling = _Filling(layout, chunk, self.payload)

    def fill(self, arrays: Arrays) -> None:
        """Copy it in."""
        self._filling.fill(arrays)
        self.filled = True


class Snapshot:
    """One version, as it is served. Its chunks are copied in their order, by whichever thread needs the next one."""

    def __init__(
        self,
        version: int,
        memory: Memory,
        constants: Sequence[Constant],
        arrays: Arrays,
        ready: Callable[[], None] | None = None,
    ) -> None:
        self.version = version
        self.uid = secrets.randbits(62) + 1
        self.memory = memory
        self.layout = memory.layout
        self.constants = constants
        self.hashes: list[bytes | None] = [None] * len(self.layout.chunks)
        self.last_pull = float("-inf")
        self.last_held = float("-inf")  # when an edge said last that it has these, and takes deltas to them
        self._first_constant = self.layout.first_constant
        new = (self._first_constant + i for i, constant in enumerate(constants) if not constant.filled)
        self._order = [*range(self._first_constant), *new]  # in which it is copied
        self.copied = 0  # of these
        self._arrays = arrays
        self._ready = ready  # returns when the arrays hold what they should
        self._copying = threading.Lock()

    @property
    def complete(self) -> bool:
        return self.copied == len(self._order)

    def copy(self, chunk: int | None = None) -> None:
        """Copy until that chunk is here; None: all of them."""
        while not self._here(chunk):
            with self._copying:
                if not self._here(chunk):
                    if self._ready is not None:
                        self._ready()
                        self._ready = None
                    following = self._order[self.copied]
                    if following < self._first_constant:
                        self.memory.fill(following, self._arrays)
                    else:
                        self.constants[following - self._first_constant].fill(self._arrays)
                    self.copied += 1
                    if self.complete:
                        self._arrays = {}

    def _here(self, chunk: int | None) -> bool:
        if chunk is None:
            return self.complete
        if chunk < self._first_constant:
            return self.copied > chunk
        return self.constants[chunk - self._first_constant].filled

    def advance(self) -> None:
        """Copy and hash the next chunk that isn't yet."""
        if not self.complete:
            self.digest(self._order[min(self.copied, len(self._order) - 1)])

    def digest(self, chunk: int) -> bytes:
        """The hash of a chunk, which is copied first if it is not yet; only on the server's thread."""
        digest = self.hashes[chunk]
        if digest is None:
            self.copy(chunk)
            if chunk >= self._first_constant:
                constant = self.constants[chunk - self._first_constant]
                if constant.hash is None:
                    constant.hash = xxhash.xxh3_64_digest(constant.payload)
                digest = constant.hash
            else:
                frame = self.memory.frames[chunk]
                digest = xxhash.xxh3_64_digest(frame[HEADER:])
                header = encode(ChunkOf(self.uid, chunk, digest, None, 0, len(frame) - HEADER))
                if len(header) != HEADER:
                    raise WireError(f"the header of a chunk has {len(header)} bytes, not {HEADER}")
                frame[:HEADER] = header
            self.hashes[chunk] = digest
        return digest

    def payload(self, chunk: int) -> memoryview:
        """The bytes of a chunk that is copied."""
        if chunk >= self._first_constant:
            return memoryview(self.constants[chunk - self._first_constant].payload)
        return self.memory.frames[chunk][HEADER:]

    def frame(self, chunk: int) -> memoryview | None:
        """The whole CHUNK message of a chunk that is hashed; None of a constant one, which has no room for it."""
        return self.memory.frames[chunk] if chunk < self._first_constant else None

    def constant_hash(self) -> bytes | None:
        """The hash of the hashes of all constant chunks; None if there are none, or they are not all known yet."""
        hashes = [constant.hash for constant in self.constants]
        return combined(hashes) if hashes else None


def combined(hashes: Sequence[bytes | None]) -> bytes | None:
    """One hash for many; None if one of them is."""
    known = [digest for digest in hashes if digest is not None]
    return xxhash.xxh3_64_digest(b"".join(known)) if len(known) == len(hashes) else None
