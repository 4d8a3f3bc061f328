"""The learner's side of the weights: one copy, made while the training loop computes its next gradient."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from typing import Any

import zmq
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire import delta
from robotlearn.wire.chunks import CHUNK_BYTES, WeightsLayout
from robotlearn.wire.layout import ALIGNMENT
from robotlearn.wire.messages import Announce, ChunkOf, Gone, LayoutOf, Pull, encode
from robotlearn.wire.snapshot import Constant, Memory, Snapshot

_LEASE_S = 15.0  # older weights are kept this long after the last pull of them, or word that an edge has them
_REMEMBERED = 8  # sets of weights whose hashes are kept, to tell what an edge has already
_MIN_DELTAS_BYTES = 16 << 20
_DELTA_COST = 256  # bytes that a delta takes beside its own, or the note that it doesn't pay


class _Deltas:
    """Deltas between chunks, by their hashes: each is made once, for all edges. The least used ones go first."""

    def __init__(self) -> None:
        self.max_bytes = _MIN_DELTAS_BYTES
        self._nbytes = 0
        self._made: OrderedDict[tuple[int, bytes, bytes], bytes | None] = OrderedDict()

    def get(self, key: tuple[int, bytes, bytes], make: Callable[[], bytes | None]) -> bytes | None:
        """The delta of that chunk between these hashes, made if need be; None where it doesn't pay."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        made = self._made[key] = make()
        self._nbytes += _DELTA_COST + len(made or b"")
        while self._nbytes > self.max_bytes and len(self._made) > 1:
            _, dropped = self._made.popitem(last=False)
            self._nbytes -= _DELTA_COST + len(dropped or b"")
        return made


class Publisher:
    """Keeps the newest weights for the edges to pull, and older ones while an edge is still pulling them or has them.

    `publish` returns at once. The weights are copied exactly once, into memory that was used before, and hashed and
    sent, on the thread of the `LearnerServer` that this was given to, while the training loop computes its next
    gradient; before it changes them it calls `settle`. It waits for no edge. An edge that is slow skips versions.

    What memory it takes: the newest weights, at most `keep_older` that are being pulled, at most `keep_bases` that
    edges said they have and take deltas to, buffers for the next ones, and the deltas, at most a quarter of one set.
    What does not train is there once.
    """

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, keep_older: int = 2, keep_bases: int = 2) -> None:
        """`keep_older` bounds how many older versions are kept for slow edges, and `keep_bases` how many for deltas;
        each costs the memory of all that trains.
        """
        if chunk_bytes < ALIGNMENT or chunk_bytes % ALIGNMENT:
            raise WireError(f"chunk_bytes is {chunk_bytes}, expected a multiple of {ALIGNMENT}")
        self.announced: Callable[[], None] | None = None  # called after each `publish`, on its thread
        self.published = 0
        self.gone = 0  # pulls of weights that were not kept
        self.bytes_sent = 0
        self.chunks_same = 0  # not sent because the edge had them already
        self.chunks_delta = 0  # sent as a delta
        self.deltas_made = 0
        self._chunk_bytes = chunk_bytes
        self._keep_older, self._keep_bases = keep_older, keep_bases
        self._lock = threading.Lock()
        self._newest: Snapshot | None = None
        self._older: list[Snapshot] = []
        self._held_at: dict[str, Snapshot | None] = {}  # by edge
        self._pinned: Snapshot | None = None
        self.changes = 0  # of what is served to whom
        self._free: list[Memory] = []
        self._deltas = _Deltas()
        self._hashes: dict[int, list[bytes | None]] = {}  # uid to those of its chunks
        self._layout: WeightsLayout | None = None
        self._key: object = None

    # ---- the training loop's side

    def publish(
        self,
        version: int,
        tensors: Mapping[str, NDArray[Any]],
        *,
        constant: Mapping[str, Hashable] | None = None,
        rounded: Container[str] = (),
        ready: Callable[[], None] | None = None,
    ) -> None:
        """Make these the newest weights. They must not change before `settle`; `ready` returns when they are there, for
        weights that are on their way from a GPU.

        `constant` names those that do not train, each with a mark that changes whenever it does: with the same mark it
        is neither copied nor sent again. Of the `rounded` those of float32 and float64 are served as bfloat16.

        Versions only rise. Raises WireError for a version that doesn't rise, and for dtypes that weights can't have.
        """
        newest = self._newest
        if newest is not None and version <= newest.version:
            raise WireError(f"version {version} is published after version {newest.version}; versions only rise")
        self.settle()
        marks = constant or {}
        layout = self._layout_of(tensors, marks, rounded)
        memory = self._take_memory(layout)
        published = Snapshot(version, memory, _constants(layout, marks, newest), dict(tensors), ready)
        with self._lock:
            if newest is not None:
                self._older.append(newest)
                if newest.layout is not layout:
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
            newest.copy()

    def hold(self, edges: Iterable[str], version: int | None) -> None:
        """Serve these edges the weights `version` from now on, and none newer; None: none at all, so far.

        Raises WireError when those weights are not kept any more: hold them when they are the newest.
        """
        with self._lock:
            held = self._kept(version) if version is not None else None
            self._held_at |= dict.fromkeys(edges, held)
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
        return self._pinned is None and self._held_at.get(edge, self) is None

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
            "chunks_delta": self.chunks_delta,
            "deltas_made": self.deltas_made,
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
            newest.advance()
        finally:
            with self._lock:
                newest.memory.in_use -= 1
        return not newest.complete

    def announcement(self, edge: str, credit: int) -> tuple[Announce, LayoutOf] | None:
        """The weights that an edge is served and their layout, None for none; `credit` chunks may go with it."""
        newest = self._served(edge)
        if newest is None:
            return None
        layout = newest.layout
        pushed = min(credit, layout.first_constant)
        announce = Announce(
            newest.version, newest.uid, layout.nbytes, layout.hash, layout.chunk_bytes, pushed, newest.constant_hash()
        )
        return announce, LayoutOf(layout.hash, list(layout.tensors), layout.trained)

    def held(self, uid: int) -> None:
        """An edge has these weights now, and takes deltas to them."""
        with self._lock:
            for kept in self._all():
                if kept.uid == uid:
                    kept.last_held = time.monotonic()

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

    def _chunk(self, found: Snapshot, pull: Pull) -> bytes | zmq.Frame:
        digest = found.digest(pull.chunk)
        if digest == pull.have:
            self.chunks_same += 1
            return encode(ChunkOf(pull.uid, pull.chunk, digest))
        made = self._delta(found, pull.chunk, pull.have, digest) if pull.delta and pull.have is not None else None
        payload, base = (found.payload(pull.chunk), None) if made is None else (memoryview(made), pull.have)
        part = payload[pull.start : pull.start + pull.length]
        self.bytes_sent += len(part)
        self.chunks_delta += base is not None and not pull.start
        frame = found.frame(pull.chunk)
        if base is not None or len(part) < len(payload) or frame is None:
            return b"".join((encode(ChunkOf(pull.uid, pull.chunk, digest, base, pull.start, len(payload))), part))
        whole = zmq.Frame(frame, track=True, copy=False)
        with self._lock:
            found.memory.trackers.append(whole.tracker)
        return whole

    def _delta(self, found: Snapshot, chunk: int, have: bytes, digest: bytes) -> bytes | None:
        """From the chunk that has the hash `have`, if it is kept and a delta pays."""
        with self._lock:
            kept = (old for old in self._all() if old.layout is found.layout)
            base = next((old for old in kept if old.hashes[chunk] == have), None)
            if base is None:
                return None
            base.last_held = time.monotonic()
            base.memory.in_use += 1

        def make() -> bytes | None:
            made = delta.encode(base.payload(chunk), found.payload(chunk), found.layout.width(chunk))
            self.deltas_made += made is not None
            return made

        try:
            return self._deltas.get((chunk, have, digest), make)
        finally:
            with self._lock:
                base.memory.in_use -= 1

    # ---- inside

    def _served(self, edge: str) -> Snapshot | None:
        return self._pinned or self._held_at.get(edge, self._newest)

    def _all(self) -> Iterator[Snapshot]:
        return (one for one in (self._newest, *self._older) if one is not None)

    def _kept(self, version: int) -> Snapshot:
        found = next((one for one in self._all() if one.version == version), None)
        if found is None:
            raise WireError(f"weights of version {version} are not kept any more")
        return found

    def _layout_of(
        self, tensors: Mapping[str, NDArray[Any]], constant: Container[str], rounded: Container[str]
    ) -> WeightsLayout:
        key = [(name, array.shape, array.dtype, name in constant, name in rounded) for name, array in tensors.items()]
        if self._layout is None or key != self._key:
            self._layout, self._key = WeightsLayout.of(tensors, self._chunk_bytes, constant, rounded), key
            self._deltas.max_bytes = max(_MIN_DELTAS_BYTES, self._layout.nbytes // 4)
        return self._layout

    def _take_memory(self, layout: WeightsLayout) -> Memory:
        with self._lock:
            self._free = [memory for memory in self._free if memory.layout is layout]
            for memory in self._free:
                if not memory.busy:
                    self._free.remove(memory)
                    return memory
        return Memory(layout)

    def _retire(self) -> None:
        """Let go of older weights that nobody pulls or has any more, or that are too many; use their memory again."""
        now = time.monotonic()
        held = [old for old in self._older if old is self._pinned or old in self._held_at.values()]
        pulled = [old for old in self._older if now - old.last_pull < _LEASE_S and old not in held]
        bases = [old for old in self._older if now - old.last_held < _LEASE_S and old not in held]
        keep = held + pulled[max(0, len(pulled) - self._keep_older) :] + bases[max(0, len(bases) - self._keep_bases) :]
        self._free.extend(old.memory for old in self._older if old not in keep)
        self._older = [old for old in self._older if old in keep]
        del self._free[: max(0, len(self._free) - self._keep_older - 1)]


def _constants(layout: WeightsLayout, marks: Mapping[str, Hashable], before: Snapshot | None) -> list[Constant]:
    """The chunks of what does not train, those of `before` where they are the same."""
    former = before.constants if before is not None and before.layout is layout else None
    constants = []
    for index, chunk in enumerate(layout.chunks[layout.first_constant :]):
        marked = tuple(marks[layout.tensors[piece.tensor].name] for piece in chunk.pieces)
        if former is not None and former[index].marks == marked:
            constants.append(former[index])
        else:
            constants.append(Constant(layout, layout.first_constant + index, marked))
    return constants
