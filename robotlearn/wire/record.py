"""A record: the one encoding of a segment, the same bytes in the edge's log, on the wire and in the learner's log.

    offset  size
         0     8  magic
         8     8  xxh3_64 of everything from offset 16 on
        16     2  schema version
        18     1  kind: 1 segment; 2 a log's own entry (no tensors); 3 a hole in a log, which readers step over
        19     1  flags, 0
        20     4  length of the header
        24     8  length of the body
        32        header: msgpack, typed
                  zeros up to a multiple of 64
                  body: the raw tensors one after the other, then the encoded parts (see `Layout`), each with its length
                  (8 bytes) before it; each padded with zeros to a multiple of 64

Schema 1 had raw tensors only, schema 2 no groups; their records are read too. All numbers are little-endian. A record's
length is a multiple of 64, so that records lie aligned in a log.
"""

from __future__ import annotations

import struct
from collections.abc import Buffer, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from msgspec import Meta

from robotlearn.errors import WireError
from robotlearn.wire import encodings as codecs
from robotlearn.wire import layout as layouts
from robotlearn.wire.encodings import CODECS, RAW, ZSTD, Encodings, ImageEncoding
from robotlearn.wire.layout import ALIGNMENT, Layout, Tensor, TensorEntry, padded
from robotlearn.wire.packing import pack as pack_block
from robotlearn.wire.packing import unpack
from robotlearn.wire.segment import ARRAYS, CHUNK_INDICES, Group, Segment, check_chunks

MAGIC = b"\x89RLREC\r\n"
SCHEMA = 3
READS = (1, 2, 3)
SEGMENT, ENTRY, HOLE = 1, 2, 3
PREFIX = 32
MAX_HEADER = 1 << 20
MAX_RECORD = 1 << 40

_PREFIX = struct.Struct("<8sQHBBIQ")
_CHECKSUM = struct.Struct("<Q")
_LENGTH = struct.Struct("<Q")
_KIND = 18  # where it stands
_SMALL = 16 << 10
_ALIKE_BYTES, _ALIKE = 64 << 10, 256  # larger records are verified one by one, others so many at a time
_PAYS = 0.9  # arrays that don't become smaller than this share stay raw: reading them again then costs nothing
_AS_THEY_ARE = Encodings(RAW)
_CACHED_MARKS = 4096  # booleans and indices of more bytes are checked anew each time

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_MAX_TEXT, _MAX_TASK = 256, 4096
Text = Annotated[str, Meta(max_length=_MAX_TEXT)]


class RecordHeader(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a segment's record says of itself before its tensors."""

    edge: Text
    session: Count
    sequence: Count
    robot: Text
    embodiment: Text
    task: Annotated[str, Meta(max_length=_MAX_TASK)]
    episode: Count
    first_step: Count
    steps: Annotated[int, Meta(ge=1, lt=2**31)]
    last: bool  # the episode ends with it
    success: bool  # at any of its steps
    starred: bool  # a person intervened at any of its steps
    version: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # the lowest of its chunks' weights, -1 without chunks
    group: Group | None = None  # of the episode, where several began alike
    tensors: msgspec.Raw


class Prefix(NamedTuple):
    """The fixed first bytes of a record."""

    checksum: int
    schema: int
    kind: int
    header_length: int
    body_length: int

    @property
    def body_start(self) -> int:
        """Where the body starts."""
        return PREFIX + self.header_length + -(PREFIX + self.header_length) % ALIGNMENT

    @property
    def length(self) -> int:
        """Bytes of the whole record."""
        return PREFIX + self.header_length + -(PREFIX + self.header_length) % ALIGNMENT + self.body_length


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
    if schema not in READS:
        raise WireError(f"record has schema {schema}, this version reads {' and '.join(map(str, READS))}")
    if kind not in (SEGMENT, ENTRY, HOLE) or flags:
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


def hole(length: int) -> bytearray:
    """A record of this length, a multiple of 64, that stands where something was taken out."""
    return pack(HOLE, b"", [bytes(length - ALIGNMENT)], length - ALIGNMENT)


def is_hole(buffer: Buffer, offset: int) -> bool:
    """Whether the record at `offset`, which is whole, is a hole."""
    return memoryview(buffer)[offset + _KIND] == HOLE


# ---- encode


class _Plan(NamedTuple):
    """How segments of one kind are encoded; numbers are those of the tensors in the table's order."""

    layout: Layout
    large: bool  # any of its tensors is
    raw: tuple[int, ...]
    block: tuple[int, ...]
    images: tuple[tuple[int, ImageEncoding], ...]
    unpacked: _Plan | None  # where the block doesn't pay


# Neighbours share a dtype wherever they can, see `Layout.floats`: observations go behind the other float32.
_BEFORE = tuple(name for name, (dtype, _) in ARRAYS.items() if dtype in ("<f8", "<i8", "<f4"))
_AFTER = tuple(name for name in ARRAYS if name not in _BEFORE)
_before, _after, _shape_and_dtype = attrgetter(*_BEFORE), attrgetter(*_AFTER), attrgetter("shape", "dtype")
_plans: dict[tuple[Any, ...], _Plan] = {}
_orders: dict[tuple[str, ...], tuple[str, ...]] = {}


def encode(segment: Segment, *, session: int | None = None, sequence: int | None = None) -> bytearray:
    """The record of a segment; `session` and `sequence` stand in for the segment's own where given.

    `segment.encodings` says how its arrays are encoded. Raises WireError naming the array whose dtype or shape is
    wrong; the values are checked by whoever receives it.
    """
    observations = segment.observations
    if len(segment.task) > _MAX_TASK or len(segment.robot) > _MAX_TEXT or len(segment.embodiment) > _MAX_TEXT:
        raise WireError(f"segment: task has at most {_MAX_TASK} characters, robot and embodiment {_MAX_TEXT}")
    names = _orders.get(tuple(observations)) or _order(observations)
    arrays = (*_before(segment), *[observations[name] for name in names], *_after(segment))
    try:
        key = (names, segment.encodings, *map(_shape_and_dtype, arrays))
        plan = _plans.get(key) or _make_plan(segment, names, arrays, key)
    except AttributeError:
        segment.dimensions()  # says which it is
        raise
    if plan.large:
        data = [array.tobytes() if array.nbytes <= _SMALL else _flat(array) for array in arrays]
    else:
        data = [array.tobytes() for array in arrays]
    encoded: list[bytes] = []
    if plan.block and not (encoded := _encode_block(plan, data)):
        plan = plan.unpacked or plan
    encoded += [codecs.encode(arrays[index], how) for index, how in plan.images]
    layout = plan.layout
    parts: list[Any] = layout.raw_pads.copy()
    parts[::2] = [data[index] for index in plan.raw]
    length = layout.raw_bytes
    for part in encoded:
        pad = -(_LENGTH.size + len(part)) % ALIGNMENT
        parts += (_LENGTH.pack(len(part)), part, bytes(pad))
        length += _LENGTH.size + len(part) + pad
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
            starred=segment.starred,
            version=min(segment.chunk_version.tolist(), default=-1),
            group=segment.group,
            tensors=layout.table,
        )
    )
    return pack(SEGMENT, header, parts, length)


def _encode_block(plan: _Plan, data: Sequence[Any]) -> list[bytes]:
    """The arrays of the block together, or nothing where that doesn't pay."""
    parts: list[Any] = plan.layout.block_pads.copy()
    parts[::2] = [data[index] for index in plan.block]
    block = b"".join(parts)
    packed = pack_block(block, plan.layout.planes)
    return [packed] if len(packed) <= _PAYS * len(block) else []


def _flat(array: np.ndarray[Any, Any]) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _order(observations: dict[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    """Names of the observations, float32 first."""
    names = tuple(sorted(observations, key=lambda name: (observations[name].dtype != np.float32, name)))
    if len(_orders) < layouts.MAX_CACHED:
        _orders[tuple(observations)] = names
    return names


def _make_plan(
    segment: Segment, names: tuple[str, ...], arrays: tuple[np.ndarray[Any, Any], ...], key: tuple[Any, ...]
) -> _Plan:
    segment.dimensions()
    made = _plan((*_BEFORE, *names, *_AFTER), arrays, segment.encodings or _AS_THEY_ARE)
    if len(_plans) >= layouts.MAX_CACHED:
        _plans.clear()
    _plans[key] = made
    return made


def _plan(names: tuple[str, ...], arrays: tuple[np.ndarray[Any, Any], ...], encodings: Encodings) -> _Plan:
    cameras = [codecs.is_images(array.dtype.str, array.shape) for array in arrays]
    others = sum(padded(array.nbytes) for array, camera in zip(arrays, cameras, strict=True) if not camera)
    other = ImageEncoding(encodings.arrays if others <= layouts.MAX_BLOCK else RAW)
    hows = [encodings.image(name) if camera else other for name, camera in zip(names, cameras, strict=True)]
    entries = [
        TensorEntry(name, array.dtype.str, array.shape, how.name, array.nbytes)
        for name, array, how in zip(names, arrays, hows, strict=True)
    ]
    images = [(index, how) for index, how in enumerate(hows) if how.name in CODECS]
    raw, block = (tuple(i for i, how in enumerate(hows) if how.name == encoding) for encoding in (RAW, ZSTD))
    large = any(array.nbytes > _SMALL for array in arrays)
    unpacked = _plan(names, arrays, encodings._replace(arrays=RAW)) if block else None
    return _Plan(Layout(entries), large, raw, block, tuple(images), unpacked)


# ---- decode


def peek(buffer: Buffer) -> RecordHeader:
    """The header of a segment's record, without looking at its tensors or its checksum; cheap. Raises WireError."""
    view = memoryview(buffer).cast("B")
    fixed = prefix(view)
    if fixed.length != len(view):
        raise WireError(f"record has {len(view)} bytes, its lengths say {fixed.length}")
    return header_of(view, fixed)


def header_of(view: memoryview, fixed: Prefix) -> RecordHeader:
    """The header of a segment's record whose prefix is `fixed` and whose length was found right. Raises WireError."""
    if fixed.kind != SEGMENT:
        raise WireError("record is a log's own entry, not a segment")
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
    fixed = check(view)
    header = header_of(view, fixed)
    verify_checked(view, fixed, header)
    return header


def verify_checked(view: memoryview, fixed: Prefix, header: RecordHeader) -> None:
    """The part of `verify` that follows `check` and `header_of`. Raises WireError."""
    _verify_opened(_open(view, fixed, header), header)


def _verify_opened(opened: _Opened, header: RecordHeader) -> None:
    layout, checked = opened.layout, opened.checked()
    if layout.images:
        opened.check_images()
    for dtype, offset, size in layout.floats:
        numbers = np.frombuffer(checked, dtype, size // np.dtype(dtype).itemsize, offset)
        if not np.isfinite(numbers).all():
            _check_finite(checked, layout)
    marks = b"".join([checked[offset : offset + size] for _, offset, size in layout.marks])
    versions = layout.versions.unpack_from(checked, layout.where["chunk_version"])
    _check_header(header, layout, layout.known.get(marks) or _check_marks(checked, layout, marks), versions)


def verify_many(checked: Sequence[tuple[memoryview, Prefix, RecordHeader]]) -> list[WireError | None]:
    """`verify_checked` of many records: what is wrong with each, None where nothing is. Fastest when they are alike."""
    found: list[WireError | None] = [None] * len(checked)
    groups: dict[Layout, list[tuple[int, _Opened, RecordHeader]]] = {}
    for index, (view, fixed, header) in enumerate(checked):
        try:
            opened = _open(view, fixed, header)
        except WireError as error:
            found[index] = error
            continue
        groups.setdefault(opened.layout, []).append((index, opened, header))
    for layout, group in groups.items():
        for start in range(0, len(group), _ALIKE):
            some = group[start : start + _ALIKE]
            if len(some) > 1 and layout.checked_bytes <= _ALIKE_BYTES and _all_well(layout, some):
                continue
            for index, opened, header in some:
                try:
                    _verify_opened(opened, header)
                except WireError as error:
                    found[index] = error
    return found


def _all_well(layout: Layout, group: Sequence[tuple[int, _Opened, RecordHeader]]) -> bool:
    """Whether records that differ in nothing but their values are all valid; where not, each must be looked at."""
    try:
        if layout.block_bytes:
            data = unpack([opened.block for _, opened, _ in group], layout.planes, layout.block_bytes).tobytes()
        else:
            data = b"".join([opened.raw for _, opened, _ in group])
        rows = np.frombuffer(data, np.uint8).reshape(len(group), layout.checked_bytes)
        for dtype, offset, size in layout.floats:
            if not np.isfinite(rows[:, offset : offset + size].view(dtype)).all():
                return False
        at = layout.where["chunk_version"]
        versions = rows[:, at : at + layout.versions.size].view(np.int64).tolist()
        known, spans = layout.known, [(offset, offset + size) for _, offset, size in layout.marks]
        for start, (_, opened, header), found in zip(
            range(0, len(data), layout.checked_bytes), group, versions, strict=True
        ):
            if layout.images:
                opened.check_images()
            marks = b"".join([data[start + low : start + high] for low, high in spans])
            checked = memoryview(data)[start : start + layout.checked_bytes]
            _check_header(header, layout, known.get(marks) or _check_marks(checked, layout, marks), found)
    except WireError:
        return False
    return True


def _check_header(
    header: RecordHeader, layout: Layout, marks: tuple[bool, bool, bool], versions: Sequence[int]
) -> None:
    if (
        header.steps != layout.dims.steps
        or marks != (header.last, header.success, header.starred)
        or header.version != min(versions, default=-1)
    ):
        raise WireError("record's header contradicts its arrays (steps, last, success, starred or version)")
    if header.group is not None and header.group.member >= header.group.size:
        raise WireError(f"record's header names member {header.group.member} of a group of {header.group.size}")


def _check_marks(checked: memoryview, layout: Layout, marks: bytes) -> tuple[bool, bool, bool]:
    """Check booleans and indices, `marks` being the bytes of them; returns (last, success, starred) of the segment."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        t.name: np.ndarray(t.shape, t.dtype, checked, t.offset) for t in layout.arrays
    }
    for t in (*layout.arrays, *layout.observations):
        if t.dtype.kind == "b" and (np.ndarray(t.shape, np.uint8, checked, t.offset) > 1).any():
            raise WireError(f"segment: {t.name} holds a boolean that is neither 0 nor 1")
    for name in ("terminated", "truncated"):
        if arrays[name][:-1].any():
            raise WireError(f"segment: {name} is set before the last step; a segment is a piece of one episode")
    start, first, executed, lag = (arrays[name].tolist() for name in CHUNK_INDICES)
    check_chunks(start, first, executed, lag, layout.dims)
    last = bool(arrays["terminated"][-1] or arrays["truncated"][-1])
    result = (last, bool(arrays["success"].any()), bool(arrays["intervention"].any()))
    if len(layout.known) < layouts.MAX_CACHED and len(marks) <= _CACHED_MARKS:
        layout.known[marks] = result
    return result


def decode(buffer: Buffer, verify: bool = True, images: bool = True) -> Segment:
    """The segment in a record. Its arrays are read-only: views of `buffer`, which they keep alive, where they are raw.

    Raises WireError, also where images that pass `verify` can't be decoded, which is found out only here.
    `verify=False` is for bytes that were verified before and are read again from a log that checks its own checksums.
    `images=False` leaves out what `image_places` names; without `verify` not one byte of it is read, so that of a
    record in a mapped file only the other pages are.
    """
    view = memoryview(buffer).cast("B").toreadonly()
    header = _verify(view) if verify else peek(view)
    opened = _open(view, prefix(view), header)
    layout, checked, raw = opened.layout, opened.checked(), opened.raw
    arrays: dict[str, Any] = {t.name: np.ndarray(t.shape, t.dtype, checked, t.offset) for t in layout.arrays}
    decoded = {t.name: codecs.decode(t.encoding, part, t.shape) for t, part in opened.images} if images else {}
    observations: dict[str, np.ndarray[Any, Any]] = {
        t.name: decoded[t.name]
        if t.name in decoded
        else np.ndarray(t.shape, t.dtype, raw if t.encoding == RAW else checked, t.offset)
        for t in layout.observations
        if images or not _has_place(t)
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
        group=header.group,
        **arrays,
    )


_verify = verify


class ImagePlace(NamedTuple):
    """Where a row of images lies in its record: `length` bytes from `offset` on, raw or the payload of an encoding."""

    offset: int
    length: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    encoding: str


def image_places(buffer: Buffer) -> dict[str, ImagePlace]:
    """Where the images of a segment's record lie, by key: all 4-D uint8 observations.

    Those that were compressed with the other arrays have no place of their own and aren't named. Reads the header and
    the lengths of encoded parts, nothing else; checks no checksum. Raises WireError.
    """
    view = memoryview(buffer).cast("B")
    fixed, header = prefix(view), peek(view)
    opened = _open(view, fixed, header)
    body, layout, starts = fixed.body_start, opened.layout, dict[str, tuple[int, int]]()
    at = body + layout.raw_bytes + (padded(_LENGTH.size + len(opened.block)) if layout.block_bytes else 0)
    for tensor, part in opened.images:
        starts[tensor.name] = (at + _LENGTH.size, len(part))
        at += padded(_LENGTH.size + len(part))
    return {
        t.name: ImagePlace(*starts.get(t.name, (body + t.offset, t.nbytes)), t.dtype, t.shape, t.encoding)
        for t in layout.observations
        if _has_place(t)
    }


def _has_place(tensor: Tensor) -> bool:
    return tensor.dtype.str == "|u1" and len(tensor.shape) == 4 and tensor.encoding != ZSTD


class _Opened(NamedTuple):
    """A record whose tensors and encoded parts were found to lie inside it."""

    layout: Layout
    raw: memoryview
    parts: list[memoryview]  # the block, if there is one, then the images

    @property
    def block(self) -> memoryview:
        return self.parts[0]

    @property
    def images(self) -> Iterator[tuple[Tensor, memoryview]]:
        return zip(self.layout.images, self.parts[bool(self.layout.block_bytes) :], strict=True)

    def checked(self) -> memoryview:
        """What must be checked, in the places where the layout has it."""
        if not self.layout.block_bytes:
            return self.raw
        return memoryview(unpack([self.block], self.layout.planes, self.layout.block_bytes)[0])

    def check_images(self) -> None:
        for tensor, part in self.images:
            try:
                codecs.check(tensor.encoding, part, tensor.shape)
            except WireError as error:
                raise WireError(f"segment: {tensor.name}: {error}") from None


def _open(view: memoryview, fixed: Prefix, header: RecordHeader) -> _Opened:
    layout = layouts.parse(bytes(header.tensors))
    body = fixed.body_start
    at, end = body + layout.raw_bytes, body + fixed.body_length
    raw, parts = view[body:at], []
    for _ in range(layout.parts):
        if at + _LENGTH.size > end:
            raise WireError(f"record's body has {fixed.body_length} bytes, which lack an encoded part")
        (size,) = _LENGTH.unpack_from(view, at)
        start, at = at + _LENGTH.size, at + padded(_LENGTH.size + size)
        parts.append(view[start : start + size])
    if at != end:
        raise WireError(f"record's body has {fixed.body_length} bytes, its tensors need {at - body}")
    return _Opened(layout, raw, parts)


def _check_finite(checked: memoryview, layout: Layout) -> None:
    for t in (*layout.arrays, *layout.observations):
        if t.dtype.kind == "f" and not np.isfinite(np.ndarray(t.shape, t.dtype, checked, t.offset)).all():
            raise WireError(f"segment: {t.name} holds a number that is not finite")
