"""How a set of weights is cut into chunks: a pure function of its tensors, so both ends know it from the layout alone.

A chunk is one or several whole tensors, or a piece of a large one. Whole tensors are used where they arrive, without
another copy; only the pieces of large ones are put together again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.layout import DTYPES, TensorEntry, padded

CHUNK_BYTES = 2 << 20
MAX_CHUNKS = 1 << 16  # 128 GiB in chunks of the usual size; a wild layout must cost little
WHOLE = 2  # tensors up to so many times the chunk size stay whole


class Piece(NamedTuple):
    """Bytes [start, stop) of a tensor, at `offset` in the chunk."""

    tensor: int
    start: int
    stop: int
    offset: int


class Chunk(NamedTuple):
    """One unit of transfer."""

    length: int
    pieces: tuple[Piece, ...]


class WeightsLayout:
    """Names, dtypes and shapes of a set of weights, and the chunks they travel in."""

    def __init__(self, tensors: Sequence[TensorEntry], chunk_bytes: int = CHUNK_BYTES) -> None:
        """Raises WireError naming a tensor that can't be."""
        names = set()
        for entry in tensors:
            if entry.dtype not in DTYPES or entry.encoding != "raw" or entry.name in names:
                raise WireError(f"weights: tensor {entry.name!r} has dtype {entry.dtype!r}, or is there twice")
            if math.prod(entry.shape) * np.dtype(entry.dtype).itemsize != entry.nbytes:
                raise WireError(f"weights: tensor {entry.name!r} of shape {entry.shape} has {entry.nbytes} bytes")
            if math.prod(max(size, 1) for size in entry.shape) >= 2**40:
                # Empty, yet NumPy can't make it: it multiplies the other sizes.
                raise WireError(f"weights: tensor {entry.name!r} has the impossible shape {entry.shape}")
            names.add(entry.name)
        if sum(entry.nbytes // chunk_bytes for entry in tensors) > MAX_CHUNKS:
            raise WireError(f"weights: more than {MAX_CHUNKS} chunks of {chunk_bytes} bytes")
        self.tensors = tuple(tensors)
        self.chunk_bytes = chunk_bytes
        self.nbytes = sum(entry.nbytes for entry in tensors)
        self.chunks = tuple(_cut(self.tensors, chunk_bytes))
        self.hash = xxhash.xxh3_64_digest(msgspec.msgpack.encode((chunk_bytes, self.tensors)))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], chunk_bytes: int = CHUNK_BYTES) -> WeightsLayout:
        """The layout of these arrays, in their order."""
        return cls([TensorEntry(n, a.dtype.str, a.shape, "raw", a.nbytes) for n, a in arrays.items()], chunk_bytes)


def _cut(tensors: Sequence[TensorEntry], chunk_bytes: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    pieces: list[Piece] = []
    length = 0
    for index, entry in enumerate(tensors):
        whole = entry.nbytes <= WHOLE * chunk_bytes
        if pieces and (not whole or length + entry.nbytes > chunk_bytes):
            chunks.append(Chunk(length, tuple(pieces)))
            pieces, length = [], 0
        if whole:
            pieces.append(Piece(index, 0, entry.nbytes, length))
            length += padded(entry.nbytes)
            continue
        for start in range(0, entry.nbytes, chunk_bytes):
            stop = min(start + chunk_bytes, entry.nbytes)
            chunks.append(Chunk(padded(stop - start), (Piece(index, start, stop, 0),)))
    if pieces:
        chunks.append(Chunk(length, tuple(pieces)))
    return chunks
