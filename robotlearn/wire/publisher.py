"""The learner's side of the weights: one copy, made while the training loop computes its next gradient."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """A buffer for one set of weights."""

    def __init__(self, layout: WeightsLayout) -> None:
        self.layout = layout
        self.frames: list[memoryview] = []  # of each chunk, header included
        self.trackers: list[zmq.MessageTracker] = []  # of frames that libzmq still reads
        self.in_use = 0  # chunks being copied, hashed or sent at this moment by the server's thread
        total = sum(_HEADER + chunk.length for chunk in layout.chunks)
        self._bytes: NDArray[np.uint8] = np.zeros(total, np.uint8)
        self._targets: list[list[tuple[str, NDArray[Any], slice | None]]] = []
        start = 0
        for chunk in layout.chunks:
            payload = start + _HEADER
            self.frames.append(memoryview(self._bytes)[start : payload + chunk.length])
            self._targets.append([])
            for piece in chunk.pieces:
                entry = layout.tensors[piece.tensor]
                begin = payload + piece.offset
                target = self._bytes[begin : begin + piece.stop - piece.start].view(entry.dtype)
                part = slice(piece.start // target.itemsize, piece.stop // target.itemsize)
                whole = piece.stop - piece.start == entry.nbytes
                self._targets[-1].append(
                    (entry.name, target.reshape(entry.shape), None) if whole else (entry.name, target, part)
                )
            start = payload + chunk.length

    def fill(self, chunk: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy in what belongs to one chunk."""
        for name, target, part in self._targets[chunk]:
            source = arrays[name]
            if part is not None:
                # `reshape` would copy the whole of what does not lie in order, for each part anew.
                source = source.reshape(-1)[part] if source.flags.c_contiguous else source.flat[part]
            np.copyto(target, source)

    @property
    def busy(self) -> bool:
        """Whether the server or libzmq still reads from it."""
        self.trackers = [tracker for tracker in self.trackers if not tracker.done]
        return bool(self.trackers or self.in_use)


class _Published:
    """One version, as it is served. Its chunks are copied in their order, by whichever thread needs the next one."""

    def __init__(self, version: int, memory: _Memory, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.version = version
        self.uid = secrets.randbits(62) + 1
        self.memory = memory
        self.copied = 0  # chunks
        self.hashes: list[bytes | None] = [None] * len(memory.layout.chunks)
        self.last_pull = 0.0
        self._arrays = arrays
        self._copying = threading.Lock()

    @property
    def complete(self) -> bool:
        return self.copied == len(self.hashes)

    def copy(self, chunks: int) -> None:
        """Copy until at least so many chunks are copied."""
        while self.copied < chunks:
            with self._copying:
                if self.copied < chunks:
                    self.memory.fill(self.copied, self._arrays)
                    self.copied += 1
                    if self.complete:
                        self._arrays = {}

    def digest(self, chunk: int) -> bytes:
        """The hash of a chunk, which is copied first if it is not yet; only on the server's thread."""
        digest = self.hashes[chunk]
        if digest is None:
            self.copy(chunk + 1)
            frame = self.memory.frames[chunk]
            digest = xxhash.xxh3_64_digest(frame[_HEADER:])
            header = encode(ChunkOf(self.uid, chunk, digest, False))
            if len(header) != _HEADER:
                raise WireError(f"the header of a chunk has {len(header)} bytes, not {_HEADER}")
            frame[:_HEADER] = header
            self.hashes[chunk] = digest
        return digest


class Publisher:
    """Keeps the newest weights for the edges to pull, and older ones only while an edge is still pulling them.

    `publish` returns at once. The weights are copied exactly once, into memory that was used before, and hashed and
    sent, on the thread of the `LearnerServer` that this was given to, while the training loop computes its next
    gradient; before it changes them it calls `settle`. It waits for no edge. An edge that is slow skips versions.
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
        self._held: dict[str, _Published | None] = {}  # by edge
        self._pinned: _Published | None = None
        self.changes = 0  # of what is served to whom
        self._free: list[_Memory] = []
        self._hashes: dict[int, list[bytes | None]] = {}  # uid to those of its chunks
        self._layout: WeightsLayout | None = None
        self._key: object = None

    # ---- the training loop's side

    def publish(self, version: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make these the newest weights. They must not change before `settle`.

        Versions only rise. Raises WireError for a version that doesn't rise, and for dtypes that weights can't have.
        """
        newest = self._newest
        if newest is not None and version <= newest.version:
            raise WireError(f"version {version} is published after version {newest.version}; versions only rise")
        self.settle()
        memory = self._take_memory(self._layout_of(tensors))
        published = _Published(version, memory, dict(tensors))
        with self._lock:
            if newest is not None:
                self._older.append(newest)
                if newest.memory.layout is not memory.layout:
                    self._hashes.clear()
            self._newest = published
            self._hashes[published.uid] = published.hashes
            if len(self._hashes) > _REMEMBERED:
                del self._hashes[next(iter(self._hashes))]
            self.published += 1
            self.changes += 1
            self._retire()
        if self.announced is not None:
            self.announced()

    def settle(self) -> None:
        """Return when the tensors that were published last may change: when all of them are copied."""
        newest = self._newest
        if newest is not None:
            newest.copy(len(newest.hashes))

    def hold(self, edges: Iterable[str], version: int | None) -> None:
        """Serve these edges the weights `version` from now on, and none newer; None: none at all, so far.

        Raises WireError when those weights are not kept any more: hold them when they are the newest.
        """
        with self._lock:
            held = self._kept(version) if version is not None else None
            self._held |= dict.fromkeys(edges, held)
            self.changes += 1
        if self.announced is not None:
            self.announced()

    def pin(self, version: int | None) -> None:
        """Serve every edge the weights `version`, whatever is newer or held for it; None: no longer. As `hold`."""
        with self._lock:
            self._pinned = self._kept(version) if version is not None else None
            self.changes += 1
        if self.announced is not None:
            self.announced()

    def served(self, edge: str) -> tuple[int, int]:
        """(version, uid) of what an edge is served now; (-1, 0): nothing."""
        served = self._served(edge)
        return (served.version, served.uid) if served is not None else (-1, 0)

    def withheld(self, edge: str) -> bool:
        """Whether an edge may have no weights at all, so far."""
        return self._pinned is None and self._held.get(edge, self) is None

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

    def advance(self) -> bool:
        """Copy and hash one chunk of the newest weights, if some are left to be copied; returns whether more are."""
        with self._lock:
            newest = self._newest
            if newest is None or newest.complete:
                return False
            newest.memory.in_use += 1
        try:
            newest.digest(min(newest.copied, len(newest.hashes) - 1))
        finally:
            with self._lock:
                newest.memory.in_use -= 1
        return not newest.complete

    def announcement(self, edge: str, credit: int) -> tuple[Announce, LayoutOf] | None:
        """The weights that an edge is served and their layout, None for none; `credit` chunks may go with it."""
        newest = self._served(edge)
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
            found = next((one for one in self._all() if one.uid == pull.uid), None)
            if found is None or pull.chunk >= len(found.hashes):
                self.gone += 1
                return encode(Gone(pull.uid)), -1
            found.last_pull = time.monotonic()
            memory = found.memory
            memory.in_use += 1  # from here on nobody may take the memory for other weights
        try:
            return self._chunk(found, pull), found.version
        finally:
            with self._lock:
                memory.in_use -= 1

    def _chunk(self, found: _Published, pull: Pull) -> bytes | zmq.Frame:
        digest = found.digest(pull.chunk)
        if digest == pull.have:
            self.chunks_same += 1
            return encode(ChunkOf(pull.uid, pull.chunk, digest, True))
        frame = found.memory.frames[pull.chunk]
        self.bytes_sent += len(frame) - _HEADER
        whole = zmq.Frame(frame, track=True, copy=False)
        with self._lock:
            found.memory.trackers.append(whole.tracker)
        return whole

    # ---- inside

    def _served(self, edge: str) -> _Published | None:
        return self._pinned or self._held.get(edge, self._newest)

    def _all(self) -> Iterator[_Published]:
        return (one for one in (self._newest, *self._older) if one is not None)

    def _kept(self, version: int) -> _Published:
        found = next((one for one in self._all() if one.version == version), None)
        if found is None:
            raise WireError(f"weights of version {version} are not kept any more")
        return found

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
        held = [old for old in self._older if old is self._pinned or old in self._held.values()]
        leased = [old for old in self._older if now - old.last_pull < _LEASE_S and old not in held]
        keep = [*held, *leased[max(0, len(leased) - self._keep_older) :]]
        self._free.extend(old.memory for old in self._older if old not in keep)
        self._older = keep
        del self._free[: max(0, len(self._free) - self._keep_older - 1)]
