"""How a set of weights is cut into chunks: a pure function of its tensors, so both ends know it from the layout alone.

A chunk is one or several whole tensors, or a piece of a large one. Whole tensors are used where they arrive, without
another copy; only the pieces of large ones are put together again. Tensors that do not train lie behind all others, in
chunks of their own, which are the same in all versions.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.layout import ALIGNMENT, DTYPES, TensorEntry, padded

CHUNK_BYTES = 2 << 20
MAX_CHUNKS = 1 << 16  # 128 GiB in chunks of the usual size; a wild layout must cost little
WHOLE = 2  # tensors up to so many times the chunk size stay whole

BF16 = np.dtype([("bf16", "<u2")])
"""bfloat16, which NumPy lacks: the upper half of a float32. `array["bf16"]` are the bits."""
_NAMES = {dtype: dtype for dtype in DTYPES} | {"bf16": BF16}


def to_bf16(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Round float32 or float64 (by way of float32) to nearest, ties to even, into an array of BF16."""
    numbers = np.ascontiguousarray(source, np.float32)
    bits = numbers.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF)
    rounded += bits >> np.uint32(16) & np.uint32(1)
    rounded >>= np.uint32(16)
    nan = np.isnan(numbers)
    if nan.any():  # rounded, it could become an infinity
        rounded = np.where(nan, bits >> 16 | 0x40, rounded)
    np.copyto(target["bf16"], rounded, casting="unsafe")


def from_bf16(source: NDArray[Any], target: NDArray[np.float32]) -> None:
    """The same numbers as float32, exactly."""
    np.left_shift(source["bf16"], 16, out=target.view(np.uint32), dtype=np.uint32)


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

    def __init__(
        self, tensors: Sequence[TensorEntry], chunk_bytes: int = CHUNK_BYTES, trained: int | None = None
    ) -> None:
        """Of the tensors the first `trained` (None: all) train. Raises WireError naming a tensor that can't be."""
        if chunk_bytes < ALIGNMENT or chunk_bytes % ALIGNMENT:
            raise WireError(f"chunk_bytes is {chunk_bytes}, expected a multiple of {ALIGNMENT}")
        names = set()
        for entry in tensors:
            if entry.dtype not in _NAMES or entry.encoding != "raw" or entry.name in names:
                raise WireError(f"weights: tensor {entry.name!r} has dtype {entry.dtype!r}, or is there twice")
            if math.prod(entry.shape) * dtype_of(entry).itemsize != entry.nbytes:
                raise WireError(f"weights: tensor {entry.name!r} of shape {entry.shape} has {entry.nbytes} bytes")
            if math.prod(max(size, 1) for size in entry.shape) >= 2**40:
                # Empty, yet NumPy can't make it: it multiplies the other sizes.
                raise WireError(f"weights: tensor {entry.name!r} has the impossible shape {entry.shape}")
            names.add(entry.name)
        if sum(entry.nbytes // chunk_bytes for entry in tensors) > MAX_CHUNKS:
            raise WireError(f"weights: more than {MAX_CHUNKS} chunks of {chunk_bytes} bytes")
        self.tensors = tuple(tensors)
        self.trained = len(self.tensors) if trained is None else min(trained, len(self.tensors))
        self.chunk_bytes = chunk_bytes
        self.nbytes = sum(entry.nbytes for entry in tensors)
        changing = _cut(self.tensors[: self.trained], 0, chunk_bytes)
        self.first_constant = len(changing)  # chunks from there on are of what does not train
        self.chunks = (*changing, *_cut(self.tensors[self.trained :], self.trained, chunk_bytes))
        self.hash = xxhash.xxh3_64_digest(msgspec.msgpack.encode((chunk_bytes, self.trained, self.tensors)))

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        chunk_bytes: int = CHUNK_BYTES,
        constant: Container[str] = (),
        rounded: Container[str] = (),
    ) -> WeightsLayout:
        """The layout of these arrays, in their order but for the `constant` ones, which come last. Of the `rounded`
        those of float32 and float64 become BF16.
        """
        entries = [_entry(name, array, name in rounded) for name, array in arrays.items()]
        trained = [entry for entry in entries if entry.name not in constant]
        return cls([*trained, *(entry for entry in entries if entry.name in constant)], chunk_bytes, len(trained))

    def width(self, chunk: int) -> int:
        """Bytes of a number in that chunk, by its largest piece."""
        largest = max(self.chunks[chunk].pieces, key=lambda piece: piece.stop - piece.start)
        return dtype_of(self.tensors[largest.tensor]).itemsize


def dtype_of(entry: TensorEntry) -> np.dtype[Any]:
    """NumPy's dtype of a tensor."""
    return np.dtype(_NAMES[entry.dtype])


def _entry(name: str, array: NDArray[Any], rounded: bool) -> TensorEntry:
    if array.dtype == BF16 or (rounded and array.dtype in (np.float32, np.float64)):
        return TensorEntry(name, "bf16", array.shape, "raw", array.size * BF16.itemsize)
    return TensorEntry(name, array.dtype.str, array.shape, "raw", array.nbytes)


def _cut(tensors: Sequence[TensorEntry], first: int, chunk_bytes: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    pieces: list[Piece] = []
    length = 0
    for index, entry in enumerate(tensors, first):
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
