"""A record: the one encoding of a segment, the same bytes in the edge's log, on the wire and in the learner's log.

    offset  size
         0     8  magic
         8     8  xxh3_64 of everything from offset 16 on
        16     2  schema version
        18     1  kind: 1 segment; 2 a log's own entry (no tensors)
        19     1  flags, 0
        20     4  length of the header
        24     8  length of the body
        32        header: msgpack, typed
                  zeros up to a multiple of 64
                  body: the tensors one after the other, each padded with zeros to a multiple of 64

All numbers are little-endian. A record's length is a multiple of 64, so that records lie aligned in a log.
"""

from __future__ import annotations

import struct
from collections.abc import Buffer
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from msgspec import Meta

from robotlearn.errors import WireError
from robotlearn.wire import layout as layouts
from robotlearn.wire.layout import ALIGNMENT, Layout, TensorEntry, padded
from robotlearn.wire.segment import ARRAYS, CHUNK_INDICES, Segment, check_chunks

MAGIC = b"\x89RLREC\r\n"
SCHEMA = 1
SEGMENT, ENTRY = 1, 2
PREFIX = 32
MAX_HEADER = 1 << 20
MAX_RECORD = 1 << 40

_PREFIX = struct.Struct("<8sQHBBIQ")
_CHECKSUM = struct.Struct("<Q")
_LENGTHS = struct.Struct("<HBBIQ")
_BOOLS = b"\x00\x01"
_SMALL = 16 << 10

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=256)]


class RecordHeader(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a segment's record says of itself before its tensors."""

    edge: Text
    session: Count
    sequence: Count
    robot: Text
    embodiment: Text
    task: Annotated[str, Meta(max_length=4096)]
    episode: Count
    first_step: Count
    steps: Annotated[int, Meta(ge=1, lt=2**31)]
    last: bool  # the episode ends with it
    success: bool  # at any of its steps
    starred: bool  # a person intervened at any of its steps
    version: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # the lowest of its chunks' weights, -1 without chunks
    tensors: msgspec.Raw


class Prefix(NamedTuple):
    """The fixed first bytes of a record."""

    checksum: int
    schema: int
    kind: int
    header_length: int
    body_length: int

    @property
    def length(self) -> int:
        """Bytes of the whole record."""
        return padded(PREFIX + self.header_length) + self.body_length


_HEADER = msgspec.msgpack.Decoder(RecordHeader)
_encoder = msgspec.msgpack.Encoder()


def prefix(buffer: Buffer, offset: int = 0) -> Prefix:
    """Read the fixed first bytes at `offset`; raises WireError when they are not those of a record."""
    try:
        magic, checksum, schema, kind, flags, header_length, body_length = _PREFIX.unpack_from(buffer, offset)
    except struct.error:
        raise WireError("record is cut off within its first bytes") from None
    if magic != MAGIC:
        raise WireError("these bytes are not a record")
    if schema != SCHEMA:
        raise WireError(f"record has schema {schema}, this version reads {SCHEMA}")
    if kind not in (SEGMENT, ENTRY) or flags:
        raise WireError(f"record has kind {kind} and flags {flags}, which this version can't read")
    if header_length > MAX_HEADER or body_length > MAX_RECORD or body_length % ALIGNMENT:
        raise WireError(f"record has impossible lengths: header {header_length}, body {body_length}")
    return Prefix(checksum, schema, kind, header_length, body_length)


def check(buffer: Buffer) -> Prefix:
    """Check that `buffer` is exactly one undamaged record of any kind; raises WireError."""
    view = memoryview(buffer).cast("B")
    fixed = prefix(view)
    if fixed.length != len(view):
        raise WireError(f"record has {len(view)} bytes, its lengths say {fixed.length}")
    if xxhash.xxh3_64_intdigest(view[16:]) != fixed.checksum:
        raise WireError("record fails its checksum")
    return fixed


def pack(kind: int, header: bytes, parts: list[Any], body_length: int) -> bytearray:
    """Put a record together; `parts` are the buffers of the body, padding included."""
    if len(header) > MAX_HEADER:
        raise WireError(f"record's header has {len(header)} bytes, at most {MAX_HEADER} are allowed")
    fixed = _PREFIX.pack(MAGIC, 0, SCHEMA, kind, 0, len(header), body_length)
    record = bytearray().join((fixed, header, bytes(-(PREFIX + len(header)) % ALIGNMENT), *parts))
    with memoryview(record) as view:
        _CHECKSUM.pack_into(record, 8, xxhash.xxh3_64_intdigest(view[16:]))
    return record


# ---- encode

_Key = tuple[Any, ...]
_layouts: dict[_Key, Layout] = {}
# Neighbours share a dtype wherever they can, see `Layout.floats`.
_ORDER = tuple(ARRAYS)
_FLOAT32 = np.dtype("<f4")


def encode(segment: Segment, *, session: int | None = None, sequence: int | None = None) -> bytearray:
    """The record of a segment; `session` and `sequence` stand in for the segment's own where given.

    Raises WireError naming the array whose dtype or shape is wrong; the values are checked by whoever receives it.
    """
    observations = segment.observations
    names = sorted(observations, key=lambda name: (observations[name].dtype != _FLOAT32, name))
    arrays: list[np.ndarray[Any, Any]] = [getattr(segment, name) for name in _ORDER]
    arrays[8:8] = [observations[name] for name in names]  # after the other float32
    try:
        key: _Key = (tuple(names), *[(array.shape, array.dtype) for array in arrays])
    except AttributeError:
        segment.dimensions()  # says which it is
        raise
    layout = _layouts.get(key)
    if layout is None:
        layout = _make_layout(segment, names, arrays)
        if len(_layouts) >= layouts.MAX_CACHED:
            _layouts.clear()
        _layouts[key] = layout
    version = segment.chunk_version
    header = _encoder.encode(
        RecordHeader(
            edge=segment.edge,
            session=segment.session if session is None else session,
            sequence=segment.sequence if sequence is None else sequence,
            robot=segment.robot,
            embodiment=segment.embodiment,
            task=segment.task,
            episode=segment.episode,
            first_step=segment.first_step,
            steps=layout.dims.steps,
            last=segment.last,
            success=b"\x01" in segment.success.tobytes(),
            starred=b"\x01" in segment.intervention.tobytes(),
            version=min(version.tolist()) if len(version) else -1,
            tensors=layout.table,
        )
    )
    parts: list[Any] = []
    for array in arrays:
        size = array.nbytes
        parts.append(array.tobytes() if size <= _SMALL else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if size % ALIGNMENT:
            parts.append(bytes(-size % ALIGNMENT))
    return pack(SEGMENT, header, parts, layout.body_length)


def _make_layout(segment: Segment, names: list[str], arrays: list[np.ndarray[Any, Any]]) -> Layout:
    segment.dimensions()
    order = [*_ORDER[:8], *names, *_ORDER[8:]]
    return Layout(
        [TensorEntry(n, a.dtype.str, a.shape, "raw", a.nbytes) for n, a in zip(order, arrays, strict=True)]
    )


# ---- decode


def peek(buffer: Buffer) -> RecordHeader:
    """The header of a segment's record, without looking at its tensors or its checksum; cheap. Raises WireError."""
    view = memoryview(buffer).cast("B")
    fixed = prefix(view)
    if fixed.kind != SEGMENT:
        raise WireError("record is a log's own entry, not a segment")
    if fixed.length != len(view):
        raise WireError(f"record has {len(view)} bytes, its lengths say {fixed.length}")
    try:
        return _HEADER.decode(view[PREFIX : PREFIX + fixed.header_length])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"record's header is malformed: {error}") from None


def verify(buffer: Buffer) -> RecordHeader:
    """Check everything about a segment's record but build no arrays; returns its header. Raises WireError.

    Checksum, header, tensor table, finite numbers, booleans that are 0 or 1, ends, chunks inside their bounds, and that
    the header says of the arrays what they say themselves.
    """
    view = memoryview(buffer).cast("B")
    check(view)
    header = peek(view)
    verify_checked(view, header)
    return header


def verify_checked(buffer: Buffer, header: RecordHeader) -> None:
    """The part of `verify` that follows `check` and `peek`, which gave `header`. Raises WireError."""
    view = memoryview(buffer).cast("B")
    layout, body = _body(view, header)
    for dtype, offset, size in layout.floats:
        if not np.isfinite(np.frombuffer(view, dtype, size // dtype.itemsize, body + offset)).all():
            raise WireError(_not_finite(view, layout, body))
    for _, offset, size in layout.bools:
        if bytes(view[body + offset : body + offset + size]).strip(_BOOLS):
            raise WireError("segment: a boolean is neither 0 nor 1")
    steps, at = layout.dims.steps, layout.where
    ends = []
    for name in ("terminated", "truncated"):
        flags = bytes(view[body + at[name] : body + at[name] + steps])
        end = flags.find(1)
        if 0 <= end < steps - 1:
            raise WireError(f"segment: {name} is set before the last step; a segment is a piece of one episode")
        ends.append(end >= 0)
    said = (header.steps, header.last, header.success, header.starred)
    success, starred = (1 in view[body + at[name] : body + at[name] + steps] for name in ("success", "intervention"))
    if said != (steps, any(ends), success, starred):
        raise WireError("record's header contradicts its arrays (steps, last, success or starred)")
    count = layout.dims.chunks
    if count:
        indices = (view[body + at[name] : body + at[name] + 4 * count].cast("i").tolist() for name in CHUNK_INDICES)
        check_chunks(*indices, layout.dims)
        versions = view[body + at["chunk_version"] : body + at["chunk_version"] + 8 * count].cast("q").tolist()
    if header.version != (min(versions) if count else -1):
        raise WireError("record's header contradicts its arrays (version)")


def decode(buffer: Buffer, verify: bool = True) -> Segment:
    """The segment in a record; its arrays are read-only views of `buffer`, which they keep alive. Raises WireError.

    `verify=False` is for bytes that were verified before and are read again from a log that checks its own checksums.
    """
    view = memoryview(buffer).cast("B").toreadonly()
    header = _verify(view) if verify else peek(view)
    layout, body = _body(view, header)
    arrays: dict[str, Any] = {t.name: np.ndarray(t.shape, t.dtype, view, body + t.offset) for t in layout.arrays}
    observations: dict[str, np.ndarray[Any, Any]] = {
        t.name: np.ndarray(t.shape, t.dtype, view, body + t.offset) for t in layout.observations
    }
    return Segment(
        edge=header.edge,
        session=header.session,
        sequence=header.sequence,
        robot=header.robot,
        embodiment=header.embodiment,
        task=header.task,
        episode=header.episode,
        first_step=header.first_step,
        observations=observations,
        **arrays,
    )


_verify = verify


def _body(view: memoryview, header: RecordHeader) -> tuple[Layout, int]:
    """The layout of a peeked record and where its body starts; after this every tensor lies inside the record."""
    layout = layouts.parse(bytes(header.tensors))
    body = len(view) - layout.body_length
    _, _, _, header_length, body_length = _LENGTHS.unpack_from(view, 16)
    if body_length != layout.body_length:
        raise WireError(f"record's body has {body_length} bytes, its tensors need {layout.body_length}")
    if body != padded(PREFIX + header_length):
        raise WireError("record's body does not start where its header ends")
    return layout, body


def _not_finite(view: memoryview, layout: Layout, body: int) -> str:
    for t in (*layout.arrays, *layout.observations):
        if t.dtype.kind == "f" and not np.isfinite(np.ndarray(t.shape, t.dtype, view, body + t.offset)).all():
            return f"segment: {t.name} holds a number that is not finite"
    return "segment: the padding between its arrays is not zero"
