"""The learner's side of the weights: one copy when they are published, the rest on the server's thread."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash
import zmq
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.chunks import CHUNK_BYTES, WeightsLayout
from robotlearn.wire.layout import ALIGNMENT
from robotlearn.wire.messages import Announce, ChunkOf, Gone, LayoutOf, Pull, encode

_LEASE_S = 15.0  # older weights are kept this long after the last pull of them
_REMEMBERED = 8  # sets of weights whose hashes are kept, to tell what an edge has already
_HEADER = ALIGNMENT  # room in front of each chunk for the CHUNK message, so that both leave as one frame uncopied


class _Memory:
    """A buffer for one set of weights; its pages are touched when it is made, not when weights are published."""

    def __init__(self, layout: WeightsLayout) -> None:
        self.layout = layout
        self.frames: list[memoryview] = []  # of each chunk, header included
        self.trackers: list[zmq.MessageTracker] = []  # of frames that libzmq still reads
        self.hashing = 0  # pulls being answered at this moment
        total = sum(_HEADER + chunk.length for chunk in layout.chunks)
        self._bytes: NDArray[np.uint8] = np.zeros(total, np.uint8)
        self._bytes[::1024] = 0
        self.targets: list[list[tuple[NDArray[Any], int, int]]] = [[] for _ in layout.tensors]
        start = 0
        for chunk in layout.chunks:
            payload = start + _HEADER
            self.frames.append(memoryview(self._bytes)[start : payload + chunk.length])
            for piece in chunk.pieces:
                entry = layout.tensors[piece.tensor]
                begin = payload + piece.offset
                target = self._bytes[begin : begin + piece.stop - piece.start].view(entry.dtype)
                whole = piece.stop - piece.start == entry.nbytes
                itemsize = target.dtype.itemsize
                self.targets[piece.tensor].append(
                    (target.reshape(entry.shape) if whole else target, piece.start // itemsize, piece.stop // itemsize)
                )
            start = payload + chunk.length

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the arrays in: the one copy."""
        for entry, targets in zip(self.layout.tensors, self.targets, strict=True):
            source = arrays[entry.name]
            if len(targets) == 1:
                np.copyto(targets[0][0], source)
                continue
            flat = source.reshape(-1)
            for target, start, stop in targets:
                np.copyto(target, flat[start:stop])

    @property
    def busy(self) -> bool:
        """Whether the server or libzmq still reads from it."""
        self.trackers = [tracker for tracker in self.trackers if not tracker.done]
        return bool(self.trackers or self.hashing)


class _Published:
    """One version, as it is served."""

    def __init__(self, version: int, memory: _Memory) -> None:
        self.version = version
        self.uid = secrets.randbits(62) + 1
        self.memory = memory
        self.hashes: list[bytes | None] = [None] * len(memory.layout.chunks)
        self.last_pull = 0.0


class Publisher:
    """Keeps the newest weights for the edges to pull, and older ones only while an edge is still pulling them.

    `publish` makes exactly one copy, into memory that was used before, and returns; it waits for no edge. Hashing and
    sending happen on the thread of the `LearnerServer` that it was given to. An edge that is slow skips versions.
    """

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, keep_older: int = 2) -> None:
        """`keep_older` bounds how many older versions are kept for slow edges; each costs the memory of a whole set."""
        if chunk_bytes < ALIGNMENT or chunk_bytes % ALIGNMENT:
            raise WireError(f"chunk_bytes is {chunk_bytes}, expected a multiple of {ALIGNMENT}")
        self.announced: Callable[[], None] | None = None  # called after each `publish`, on its thread
        self.published = 0
        self.gone = 0  # pulls of weights that were not kept
        self.bytes_sent = 0
        self.chunks_same = 0  # not sent because the edge had them already
        self._chunk_bytes = chunk_bytes
        self._keep_older = keep_older
        self._lock = threading.Lock()
        self._newest: _Published | None = None
        self._older: list[_Published] = []
        self._free: list[_Memory] = []
        self._hashes: dict[int, list[bytes | None]] = {}  # uid to those of its chunks
        self._layout: WeightsLayout | None = None
        self._key: object = None

    # ---- the training loop's side

    def publish(self, version: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make these the newest weights. Copies them once on the caller's thread; they may change right afterwards.

        Versions only rise. The first call of a run (or with other shapes) also makes the memory; see `prepare`. Raises
        WireError for a version that doesn't rise, and for dtypes that weights can't have.
        """
        newest = self._newest
        if newest is not None and version <= newest.version:
            raise WireError(f"version {version} is published after version {newest.version}; versions only rise")
        memory = self._take_memory(self._layout_of(tensors))
        memory.fill(tensors)
        published = _Published(version, memory)
        with self._lock:
            if self._newest is not None:
                self._older.append(self._newest)
                if self._newest.memory.layout is not memory.layout:
                    self._hashes.clear()
            self._newest = published
            self._hashes[published.uid] = published.hashes
            if len(self._hashes) > _REMEMBERED:
                del self._hashes[next(iter(self._hashes))]
            self.published += 1
            self._retire()
        if self.announced is not None:
            self.announced()

    def prepare(self, tensors: Mapping[str, NDArray[Any]], buffers: int = 3) -> None:
        """Make the memory for weights of these shapes ahead of time, so that the first `publish` is as fast as any."""
        layout = self._layout_of(tensors)
        made = [_Memory(layout) for _ in range(buffers)]
        with self._lock:
            self._free = [memory for memory in self._free if memory.layout is layout] + made

    @property
    def version(self) -> int:
        """The newest version, -1 before the first."""
        return self._newest.version if self._newest is not None else -1

    @property
    def uid(self) -> int:
        """Names the newest weights, 0 before the first; no two published sets share one."""
        return self._newest.uid if self._newest is not None else 0

    def stats(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "published": self.published,
            "gone": self.gone,
            "bytes_sent": self.bytes_sent,
            "chunks_same": self.chunks_same,
            "older_kept": len(self._older),
        }

    # ---- the server's side; one thread

    def announcement(self, credit: int) -> tuple[Announce, LayoutOf] | None:
        """The newest weights and their layout, None before the first `publish`; `credit` chunks may go with it."""
        newest = self._newest
        if newest is None:
            return None
        layout = newest.memory.layout
        pushed = min(credit, len(layout.chunks))
        announce = Announce(newest.version, newest.uid, layout.nbytes, layout.hash, layout.chunk_bytes, pushed)
        return announce, LayoutOf(layout.hash, list(layout.tensors))

    def hash_of(self, uid: int, chunk: int) -> bytes | None:
        """Hash of a chunk of weights that were published lately and have this layout still, if it is known."""
        hashes = self._hashes.get(uid)
        return hashes[chunk] if hashes is not None and chunk < len(hashes) else None

    def pull(self, pull: Pull) -> tuple[bytes | zmq.Frame, int]:
        """The frame that answers a PULL, and the version it is of (-1: gone)."""
        with self._lock:
            found = next((p for p in (self._newest, *self._older) if p is not None and p.uid == pull.uid), None)
            if found is None or pull.chunk >= len(found.hashes):
                self.gone += 1
                return encode(Gone(pull.uid)), -1
            found.last_pull = time.monotonic()
            memory = found.memory
            memory.hashing += 1  # from here on nobody may take the memory for other weights
        try:
            return self._chunk(found, pull), found.version
        finally:
            with self._lock:
                memory.hashing -= 1

    def _chunk(self, found: _Published, pull: Pull) -> bytes | zmq.Frame:
        frame = found.memory.frames[pull.chunk]
        digest = found.hashes[pull.chunk]
        if digest is None:
            digest = xxhash.xxh3_64_digest(frame[_HEADER:])
            header = encode(ChunkOf(pull.uid, pull.chunk, digest, False))
            if len(header) != _HEADER:
                raise WireError(f"the header of a chunk has {len(header)} bytes, not {_HEADER}")
            frame[:_HEADER] = header
            found.hashes[pull.chunk] = digest
        if digest == pull.have:
            self.chunks_same += 1
            return encode(ChunkOf(pull.uid, pull.chunk, digest, True))
        self.bytes_sent += len(frame) - _HEADER
        whole = zmq.Frame(frame, track=True, copy=False)
        found.memory.trackers.append(whole.tracker)
        return whole

    # ---- inside

    def _layout_of(self, tensors: Mapping[str, NDArray[Any]]) -> WeightsLayout:
        key = [(name, array.shape, array.dtype) for name, array in tensors.items()]
        if self._layout is None or key != self._key:
            self._layout, self._key = WeightsLayout.of(tensors, self._chunk_bytes), key
        return self._layout

    def _take_memory(self, layout: WeightsLayout) -> _Memory:
        with self._lock:
            self._free = [memory for memory in self._free if memory.layout is layout]
            for memory in self._free:
                if not memory.busy:
                    self._free.remove(memory)
                    return memory
        return _Memory(layout)

    def _retire(self) -> None:
        """Let go of older weights that nobody pulls any more, or that are too many; their memory is used again."""
        now = time.monotonic()
        leased = [old for old in self._older if now - old.last_pull < _LEASE_S]
        keep = leased[max(0, len(leased) - self._keep_older) :]
        self._free.extend(old.memory for old in self._older if old not in keep)
        self._older = keep
        del self._free[: max(0, len(self._free) - self._keep_older - 1)]
