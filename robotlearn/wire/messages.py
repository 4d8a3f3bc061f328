"""What edge and learner say to each other beside the records: typed, versioned, each one frame, never pickled.

    offset  size
         0     4  magic
         4     1  type
         5     1  0
         6     2  schema version
         8     4  length of the body
        12     8  xxh3_64 of the bytes before and the body: a changed bit in an ACK would delete what was not stored
        20        body: msgpack of the type's fields
                  CHUNK only: zeros up to a multiple of 64, then the payload, the rest of the frame

A record is the other kind of frame (`wire/record.py`); `kind_of` tells which one came. Edge to learner: HELLO, STATUS,
WANT on the data connection, HELLO, HAVE, PULL on the weights connection. Learner to edge: WELCOME, REFUSE, ACK, REJECT,
GRANT; WELCOME, REFUSE, LAYOUT, ANNOUNCE, CHUNK, GONE.
"""

from __future__ import annotations

import struct
from collections.abc import Buffer
from typing import Annotated, Literal

import msgspec
import xxhash
from msgspec import Meta

from robotlearn.errors import WireError
from robotlearn.wire import record
from robotlearn.wire.layout import ALIGNMENT, MAX_TENSORS, TensorEntry, padded

MAGIC = b"RLM\n"
SCHEMA = 2
MAX_BODY = 4 << 20
PREFIX = 20
_CLAIMS = struct.Struct("<4sBBHI")

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Version = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: none yet
Hash = Annotated[bytes, Meta(min_length=8, max_length=8)]  # xxh3_64, big-endian
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Scalar = Annotated[str, Meta(max_length=4096)] | bool | int | float | None
Value = Scalar | Annotated[list[Scalar], Meta(max_length=1024)]
Contract = Annotated[dict[Name, Value], Meta(max_length=1024)]


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """Any message."""


class Hello(Message):
    """Edge: who I am. The first message of each connection, and of each new socket."""

    schema: int  # of records
    edge: Name
    session: Count
    role: Literal["data", "weights"]
    contract: Contract
    running: Count  # episodes started, and grants not yet used, whose last segment is not in the spool
    next_sequence: Count  # segments of this session from here on end episodes that count as running


class Status(Message):
    """Edge, each second: what the learner shows of it."""

    version: Version  # of the weights in use
    state: Text
    waits_for: Text
    counts: Annotated[dict[Name, Count], Meta(max_length=64)]  # recorded, acknowledged, evicted, rejected, pending, ...
    rates: Annotated[dict[Name, float], Meta(max_length=64)]
    aborted: Count  # episodes (and grants) since HELLO that end without a stored last segment
    floors: Annotated[list[tuple[Count, Count]], Meta(max_length=64)]  # (session, all sequences below are settled)


class Want(Message):
    """Edge: how many episodes it could start now, beyond the grants that it has got (`received`, since HELLO)."""

    episodes: Count
    received: Count


class Welcome(Message):
    """Learner: HELLO is accepted; the limits within which an honest edge stays."""

    run: Text
    incarnation: Count  # random per start of the learner: a new one knows nothing of what the last one was sent
    max_frame_bytes: Count
    window_bytes: Count  # records sent and not yet answered
    version: Version


class Refuse(Message):
    """Learner: HELLO is refused, or the peer was superseded; `key` names what differs."""

    key: Text
    reason: Text


class Ack(Message):
    """Learner: these records are stored and durable: (session, first sequence, count)."""

    ranges: list[tuple[Count, Count, Count]]


class Reject(Message):
    """Learner: this record can never be stored."""

    session: Count
    sequence: Count
    reason: Text


class Grant(Message):
    """Learner: start this many episodes, each with weights of at least this version."""

    count: Count
    version: Version


class LayoutOf(Message):
    """Learner: where the tensors of a set of weights lie, once per connection and layout."""

    hash: Hash
    tensors: Annotated[list[TensorEntry], Meta(max_length=100 * MAX_TENSORS)]
    trained: Count  # of the tensors so many train; those behind them are the same in all versions


class Announce(Message):
    """Learner: these are the newest weights. `uid` is theirs alone; weights that are equal have equal chunks.

    The first `pushed` chunks follow unasked, by the credit that the last HAVE gave.
    """

    version: Version
    uid: Count
    nbytes: Count
    layout: Hash
    chunk_bytes: Annotated[int, Meta(ge=1, le=2**31)]
    pushed: Count
    constant: Hash | None  # of the hashes of all chunks of what does not train, if they are known


class Have(Message):
    """Edge, now and then: the newest weights that it holds (0: none). Answered by ANNOUNCE when there are newer.

    It waits for the next ones with nothing else on the way: so many of their chunks may come unasked.
    """

    uid: Count
    credit: Count
    delta: bool  # they may come as deltas to what it holds


class Pull(Message):
    """Edge: send one chunk; `have` is the hash of what it holds there already (other weights, or an earlier try).

    Over a slow link it asks for a chunk in parts, so that none takes long: each answer then has `length` bytes of the
    payload at most, from `start` on.
    """

    uid: Count
    chunk: Count
    have: Hash | None
    delta: bool  # it may come as a delta to that
    start: Count
    length: Count


class ChunkOf(Message, array_like=True):
    """Learner: one chunk of the weights, or a part. Without payload where the edge's own is the same."""

    uid: Count
    chunk: Count
    hash: Hash  # of the whole chunk as it is
    base: Hash | None = None  # the payload is a delta (`wire/delta.py`) to the chunk that has this hash
    start: Count = 0
    total: Count = 0  # bytes of the payload altogether; 0: the chunk is the same as the edge's own


class Gone(Message):
    """Learner: these weights are no longer kept; newer ones were announced."""

    uid: Count


_TYPES: dict[int, type[Message]] = {
    1: Hello,
    2: Status,
    3: Want,
    4: Have,
    5: Pull,
    65: Welcome,
    66: Refuse,
    67: Ack,
    68: Reject,
    69: Grant,
    70: LayoutOf,
    71: Announce,
    72: ChunkOf,
    73: Gone,
}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}
_DECODERS = {number: msgspec.msgpack.Decoder(kind) for number, kind in _TYPES.items()}
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The frame of a message; of a CHUNK the part before its payload."""
    body = _encoder.encode(message)
    claims = _CLAIMS.pack(MAGIC, _NUMBERS[type(message)], 0, SCHEMA, len(body))
    frame = claims + xxhash.xxh3_64_digest(claims + body) + body
    return frame + bytes(-len(frame) % ALIGNMENT) if type(message) is ChunkOf else frame


def kind_of(frame: Buffer) -> Literal["record", "message", "unknown"]:
    """What a frame claims to be, by its first bytes."""
    start = bytes(memoryview(frame)[:8])
    if start == record.MAGIC:
        return "record"
    return "message" if start.startswith(MAGIC) else "unknown"


def decode(frame: Buffer) -> tuple[Message, memoryview]:
    """The message in a frame and its payload (a view; empty but for CHUNK). Raises WireError when it is malformed."""
    view = memoryview(frame).cast("B").toreadonly()
    try:
        magic, number, zero, schema, length = _CLAIMS.unpack_from(view)
    except struct.error:
        raise WireError("message is cut off within its first bytes") from None
    if magic != MAGIC:
        raise WireError("these bytes are not a message")
    if schema != SCHEMA or zero:
        raise WireError(f"message has schema {schema}, this version reads {SCHEMA}")
    decoder = _DECODERS.get(number)
    if decoder is None:
        raise WireError(f"message of unknown type {number}")
    end = PREFIX + length
    payload = padded(end) if _TYPES[number] is ChunkOf else end
    if length > MAX_BODY or payload > len(view) or (payload < len(view) and _TYPES[number] is not ChunkOf):
        raise WireError(f"message of type {number} has {len(view)} bytes, its length says {payload}")
    if xxhash.xxh3_64_digest(bytes(view[: _CLAIMS.size]) + bytes(view[PREFIX:end])) != view[_CLAIMS.size : PREFIX]:
        raise WireError(f"message of type {number} fails its checksum")
    try:
        message = decoder.decode(view[PREFIX:end])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"message of type {number} is malformed: {error}") from None
    return message, view[payload:]
