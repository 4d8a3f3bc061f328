"""Messages: round trips, and nothing but WireError for what is malformed."""

import contextlib
import struct

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from robotlearn.errors import WireError
from robotlearn.wire import messages, record
from robotlearn.wire.layout import TensorEntry
from robotlearn.wire.messages import (
    Ack,
    Announce,
    ChunkOf,
    Gone,
    Grant,
    Have,
    Hello,
    LayoutOf,
    Message,
    Pull,
    Refuse,
    Reject,
    Status,
    Want,
    Welcome,
)
from tests.wire.make import make_segment

HASH = b"12345678"
ALL: list[Message] = [
    Hello(
        1, "edge-a", 2**63 - 1, "data", {"policy": "flow", "H": 4, "gamma": 0.99, "keys": ["a", "b"], "x": None}, 3, 8
    ),
    Status(4, "running", "weights", {"recorded": 5}, {"hz": 20.0}, 1, [(7, 8)]),
    Want(5, 2),
    Have(0, 4, True),
    Pull(1, 2, HASH, True, 0, 4096),
    Pull(1, 2, None, False, 4096, 1),
    Welcome("run", 5, 1000, 2000, -1),
    Refuse("H", "differs"),
    Ack([(1, 0, 10), (2, 5, 1)]),
    Reject(1, 2, "why"),
    Grant(3, 4),
    LayoutOf(HASH, [TensorEntry("w", "<f4", (2, 3), "raw", 24)], 1),
    Announce(3, 99, 24, HASH, 4096, 2, None),
    Gone(99),
]


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    frame = messages.encode(message)
    assert messages.kind_of(frame) == "message"
    back, payload = messages.decode(frame)
    assert back == message and type(back) is type(message) and len(payload) == 0


@pytest.mark.parametrize("uid", [1, 2**31, 2**62])
def test_a_chunk_carries_its_payload_behind_64_bytes(uid: int) -> None:
    header = messages.encode(ChunkOf(uid, 2**31, HASH, None, 0, 2**31))
    assert len(header) == 64  # what the publisher leaves room for
    back, payload = messages.decode(header + b"weights")
    assert isinstance(back, ChunkOf) and back.uid == uid and bytes(payload) == b"weights"


def test_frames_are_told_apart_by_their_first_bytes() -> None:
    assert messages.kind_of(record.encode(make_segment())) == "record"
    assert messages.kind_of(b"GET / HTTP/1.1") == messages.kind_of(b"") == "unknown"


def frame(number: int, body: bytes, *, schema: int = messages.SCHEMA, length: int | None = None) -> bytes:
    claims = struct.pack("<4sBBHI", messages.MAGIC, number, 0, schema, len(body) if length is None else length)
    return claims + xxhash.xxh3_64_digest(claims + body) + body


WANT = msgspec.msgpack.encode({"episodes": 1, "received": 0})


@pytest.mark.parametrize(
    "data",
    [
        frame(3, WANT, schema=messages.SCHEMA + 1),
        frame(3, WANT, length=len(WANT) + 1),
        frame(3, WANT, length=2**32 - 1),
        frame(3, WANT + b"x", length=len(WANT)),
        frame(200, WANT),
        frame(3, msgspec.msgpack.encode({"episodes": 1, "received": 0, "more": 1})),
        frame(3, msgspec.msgpack.encode({"episodes": -1, "received": 0})),
        frame(3, msgspec.msgpack.encode({"episodes": "1", "received": 0})),
        frame(3, msgspec.msgpack.encode({"episodes": 2**64 - 1, "received": 0})),
        frame(3, b"\x91" * 5000),
        frame(1, msgspec.msgpack.encode({"schema": 1})),
        frame(72, b""),
        b"RLM\n",
        b"",
    ],
)
def test_a_malformed_message_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        messages.decode(data)


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 255))
def test_random_bytes_are_a_wire_error(body: bytes, number: int) -> None:
    for data in (body, frame(number, body)):
        try:
            message, _ = messages.decode(data)
        except WireError:
            continue
        assert messages.decode(messages.encode(message))[0] == message


@settings(max_examples=200)
@given(
    st.sampled_from(ALL), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), st.integers(-9, 9)
)
def test_mutated_messages_are_a_wire_error(
    message: Message, changes: list[tuple[int, int]], longer: int
) -> None:
    data = bytearray(messages.encode(message))
    for place, value in changes:
        data[place % len(data)] = value
    data = data[:longer] if longer < 0 else data + bytes(longer)
    whole = data == messages.encode(message)
    with contextlib.nullcontext() if whole else pytest.raises(WireError):
        messages.decode(data)
