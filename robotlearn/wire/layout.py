"""The tensor table of a record: names, dtypes, shapes and encodings, checked once per distinct table and cached.

Segments of one run repeat a few tables over and over. So a table is parsed and checked the first time its bytes are
seen; afterwards it costs one lookup. The cache is bounded: a peer that sends ever new tables only slows itself.
What differs from segment to segment, the lengths of what is encoded, is therefore in the body and not in the table.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from robotlearn.errors import WireError
from robotlearn.wire.encodings import CODECS, MAX_PIXEL_BYTES, RAW, ZSTD, is_images
from robotlearn.wire.segment import ARRAYS, CHUNK_INDICES, Dimensions, check_arrays

ALIGNMENT = 64
MAX_TENSORS = 256
MAX_CACHED = 256
MAX_CACHED_BYTES = 64 << 10  # a larger table is parsed each time, so that the cache stays small whatever comes
MAX_BLOCK = 16 << 20  # bytes of all arrays that are compressed together; a longer segment's stay raw
DTYPES = frozenset(("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1"))

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**40)], ...], Meta(max_length=8)]


class TensorEntry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One tensor as the header of a record describes it."""

    name: Name
    dtype: Annotated[str, Meta(max_length=8)]
    shape: Shape
    encoding: Annotated[str, Meta(max_length=16)]  # see robotlearn.wire.encodings
    nbytes: Annotated[int, Meta(ge=0, lt=2**40)]  # decoded, without the padding to the alignment


_TABLE = msgspec.msgpack.Decoder(Annotated[list[TensorEntry], Meta(max_length=MAX_TENSORS)])


class Tensor(NamedTuple):
    """Where one tensor lies: `offset` counts from the start of the body where it is raw, of the block where it is zstd.

    Encoded images have no offset; they follow one another.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    encoding: str


class Layout:
    """A checked table: the tensors of one segment, where each lies in the body, and the sizes they agree on.

    The body is made of the raw tensors and then of the encoded parts: the block, if there is one, in which all zstd
    tensors are compressed together, and the encoded images in the order of the table. What must be checked (indices,
    booleans, floats) lies all in the body or all in the block.

    Attributes:
        raw_bytes, block_bytes: lengths of the raw tensors and of the decompressed block, paddings included.
        images: the tensors that are encoded images. parts: how many encoded parts there are.
        checked_bytes: length of what must be checked: `block_bytes` if there is a block, else `raw_bytes`.
    """

    __slots__ = (
        "arrays",
        "block_bytes",
        "block_pads",
        "checked_bytes",
        "dims",
        "floats",
        "images",
        "known",
        "marks",
        "observations",
        "parts",
        "planes",
        "raw_bytes",
        "raw_pads",
        "table",
        "versions",
        "where",
    )

    def __init__(self, entries: list[TensorEntry]) -> None:
        """Raises WireError naming the tensor at fault."""
        arrays: dict[str, Tensor] = {}
        observations: dict[str, Tensor] = {}
        ends = {RAW: 0, ZSTD: 0}
        for entry in entries:
            if entry.dtype not in DTYPES:
                raise WireError(f"tensor {entry.name!r} has dtype {entry.dtype!r}, which a record can't hold")
            if entry.encoding not in (RAW, ZSTD, *CODECS):
                raise WireError(f"tensor {entry.name!r} is encoded as {entry.encoding!r}, unknown to this version")
            dtype = np.dtype(entry.dtype)
            if math.prod(entry.shape) * dtype.itemsize != entry.nbytes:
                raise WireError(f"tensor {entry.name!r} of shape {entry.shape} has {entry.nbytes} bytes")
            if math.prod(max(size, 1) for size in entry.shape) * dtype.itemsize >= 2**40:
                # Empty, yet NumPy can't make it: it multiplies the other sizes.
                raise WireError(f"tensor {entry.name!r} has the impossible shape {entry.shape}")
            offset = ends.get(entry.encoding, 0)
            tensor = Tensor(entry.name, dtype, entry.shape, offset, entry.nbytes, entry.encoding)
            if entry.name in arrays or entry.name in observations:
                raise WireError(f"tensor {entry.name!r} is there twice")
            if entry.encoding in CODECS and (entry.name in ARRAYS or not is_images(entry.dtype, entry.shape)):
                raise WireError(f"tensor {entry.name!r} is encoded as {entry.encoding!r} and isn't a row of images")
            (arrays if entry.name in ARRAYS else observations)[entry.name] = tensor
            if entry.encoding in ends:
                ends[entry.encoding] = offset + padded(entry.nbytes)
        self.dims: Dimensions = check_arrays(
            {name: (tensor.dtype.str, tensor.shape) for name, tensor in arrays.items()},
            {name: (tensor.dtype.str, tensor.shape) for name, tensor in observations.items()},
        )
        self.arrays = tuple(arrays.values())
        self.observations = tuple(observations.values())
        self.raw_bytes, self.block_bytes = ends[RAW], ends[ZSTD]
        together = (*self.arrays, *self.observations)
        raw, block = (_in_order(t for t in together if t.encoding == encoding) for encoding in (RAW, ZSTD))
        self.images = tuple(tensor for tensor in together if tensor.encoding in CODECS)
        if self.block_bytes > MAX_BLOCK:
            raise WireError(f"segment: its compressed arrays are {self.block_bytes} bytes, at most {MAX_BLOCK} may be")
        if sum(tensor.nbytes for tensor in self.images) > MAX_PIXEL_BYTES:
            raise WireError(f"segment: its encoded images are more than {MAX_PIXEL_BYTES} bytes of pixels")
        for tensor in raw if block else ():
            if tensor.name in ARRAYS or tensor.dtype.kind not in "ui":
                raise WireError(f"tensor {tensor.name!r} is raw where others are compressed; only integers may be")
        checked = block or raw
        self.parts = len(self.images) + bool(block)
        self.checked_bytes = self.block_bytes or self.raw_bytes
        self.where = {name: tensor.offset for name, tensor in arrays.items()}
        self.table = msgspec.Raw(msgspec.msgpack.encode(entries))
        # With room for each tensor before its padding.
        self.raw_pads, self.block_pads = _pads(raw), _pads(block)
        self.planes = tuple(_spans(block, lambda tensor: str(tensor.dtype.itemsize)))
        self.floats = tuple(_spans(checked, lambda tensor: tensor.dtype.str if tensor.dtype.kind == "f" else ""))
        # What tells where chunks and episode begin and end: the index arrays of the chunks, and all booleans.
        self.marks = tuple(_spans(checked, lambda t: "mark" * (t.name in CHUNK_INDICES or t.dtype.kind == "b")))
        self.versions = struct.Struct(f"<{self.dims.chunks}q")
        # Marks that were found good, to (last, success, starred): most segments repeat those of an earlier one.
        self.known: dict[bytes, tuple[bool, bool, bool]] = {}


def _in_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=lambda tensor: tensor.offset)


def _pads(tensors: list[Tensor]) -> list[bytes]:
    return [part for tensor in tensors for part in (b"", bytes(-tensor.nbytes % ALIGNMENT))]


def _spans(tensors: list[Tensor], kind: Callable[[Tensor], str]) -> Iterator[tuple[str, int, int]]:
    """Runs of neighbouring tensors of one kind, as (kind, offset, bytes): each can be looked at in one go.

    Tensors of kind "" are in none. A run includes the padding between its tensors (zeros), not that after its last.
    """
    for name, run in itertools.groupby(tensors, kind):
        members = list(run)
        if name:
            yield name, members[0].offset, members[-1].offset + members[-1].nbytes - members[0].offset


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment."""
    return -nbytes % ALIGNMENT + nbytes


_cache: dict[bytes, Layout] = {}


def parse(table: bytes) -> Layout:
    """The layout that the bytes of a table describe; raises WireError when they describe none. Any thread."""
    layout = _cache.get(table)
    if layout is None:
        try:
            entries = _TABLE.decode(table)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(f"tensor table is malformed: {error}") from None
        layout = Layout(entries)
        if len(table) <= MAX_CACHED_BYTES:
            if len(_cache) >= MAX_CACHED:
                _cache.clear()
            _cache[table] = layout
    return layout
