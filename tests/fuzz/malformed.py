"""Malformed frames that get far: valid ones, changed inside their msgpack or anywhere, with the checksum put right.

A checksum that anyone can compute keeps no one out; so each kind of frame says how its own is put right again, and most
of what is made here comes past it, to the code behind.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from robotlearn.errors import WireError
from robotlearn.wire import messages, record

Bytes = bytes | bytearray

BOMBS: tuple[bytes, ...] = (
    b"\x91" * 5000 + b"\xc0",  # arrays in arrays
    b"\x81\xa1a" * 5000 + b"\xc0",  # maps in maps
    b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xde\xff\xff",  # long arrays and maps, claimed
    b"\xdb\xff\xff\xff\xff", b"\xda\xff\xffab", b"\xc6\xff\xff\xff\xff", b"\xc5\xff\xff", b"\xc9\xff\xff\xff\xff\x05",
    b"\xdd\x00\x01\x00\x00" + b"\xc0" * 65536,  # a long array, there
    b"\xc1", b"",  # never used; nothing
    b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xa4a\x00b\n",  # no UTF-8; a lone surrogate; a zero inside
    b"\xd6\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12,  # times
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 63, 64, 65, 255, 1 << 16, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1,
    2**63, 2**64 - 1, -(2**63), 0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, "", "x", "x" * 300,
    "x" * 5000, "\u0000", "../../etc/passwd", "%s%n", b"", b"x" * 8, b"\xff" * 9, [], [[]], [0] * 70, {}, {"": 0},
    {"a": {"b": [1]}}, "raw", "jpeg", "<f4", "|b1", "<M8", "|O",
)  # fmt: skip
SHAPES: tuple[list[int], ...] = (
    [0], [-1], [0, 2**39, 2**39], [2**39] * 8, [2**32, 2**32], [0] * 9, [2**26, 0, 2**26, 2**26], [1] * 33, [2**63],
)  # fmt: skip
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Kind:
    """One kind of frame: valid ones, where their msgpack is, and how to make a whole of a changed one again."""

    seeds: Sequence[bytes]
    split: Callable[[bytes], tuple[bytes, bytes, bytes]]  # before the msgpack, it, behind it
    join: Callable[[bytes, Bytes, bytes], bytes]  # with the right lengths and checksum
    seal: Callable[[bytearray], Bytes]  # only the checksum put right


def malformed(kind: Kind, rng: random.Random) -> bytes:
    """One frame; now and then a valid one, since not every change is a fault."""
    frame = rng.choice(kind.seeds)
    if rng.random() < 0.6:
        before, body, behind = kind.split(frame)
        body = changed(body, rng)
        if rng.random() < 0.1:
            behind = bytes(damaged(behind, rng, kind.seeds))
        frame = kind.join(before, body, behind)
        if rng.random() < 0.8:
            return frame
    torn = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 5))):
        torn = damaged(torn, rng, kind.seeds)
    return bytes(torn if rng.random() < 0.1 else kind.seal(torn))


def damaged(frame: Bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytearray:
    """Bits flipped, bytes cut, put in, repeated, taken from another frame, or numbers in it made wild."""
    torn = bytearray(frame)
    at = rng.randrange(len(torn) + 1)
    if rng.random() < 0.5:
        at = min(at, rng.randrange(40))  # where lengths and types are
    match rng.randrange(7):
        case 0 if torn:
            torn[at % len(torn)] ^= 1 << rng.randrange(8)
        case 1:
            del torn[at:]
        case 2:
            del torn[at : at + rng.randrange(1, 9)]
        case 3:
            torn[at:at] = rng.randbytes(rng.randrange(1, 65))
        case 4:
            torn[at:at] = torn[at : at + rng.randrange(1, 200)]
        case 5 if others:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            torn[at:] = other[start:]
        case _:
            size = rng.choice((1, 2, 4, 8))
            torn[at : at + size] = (rng.choice(WORDS) * rng.choice((1, 1, 1 << 32))).to_bytes(16, "little")[:size]
    return torn


# ---- inside the msgpack


def changed(body: bytes, rng: random.Random) -> bytes:
    """The same with some of its values replaced, missing, doubled or moved; or with bytes of it damaged."""
    if rng.random() < 0.2:
        return bytes(damaged(body, rng))
    try:
        value = msgspec.msgpack.decode(body)
    except msgspec.MsgspecError:
        return bytes(damaged(body, rng))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change(value, rng)
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, RecursionError):
        return body


def _change(value: Any, rng: random.Random) -> Any:
    """With one thing changed, at a random depth."""
    numbers = isinstance(value, list) and all(type(one) is int for one in value)  # a shape, a range
    inside = isinstance(value, (dict, list)) and value and rng.random() < (0.3 if numbers else 0.85)
    if not inside:
        return msgspec.Raw(rng.choice(BOMBS)) if rng.random() < 0.15 else _other(value, rng)
    if isinstance(value, list):
        result = list(value)
        at = rng.randrange(len(result))
        match rng.randrange(8):
            case 0:
                del result[at]
            case 1:
                result.insert(at, rng.choice(result))
            case 2:
                rng.shuffle(result)
            case _:
                result[at] = _change(result[at], rng)
        return result
    pairs = list(value.items())
    at = rng.randrange(len(pairs))
    name, inner = pairs[at]
    match rng.randrange(10):
        case 0:
            del pairs[at]
        case 1:
            pairs.append((rng.choice(("", "x", "type", "__class__", "\u0000", name + "x")), inner))
        case 2:
            return _map([*pairs, (name, _other(inner, rng))])  # the same key twice
        case 3:
            pairs[at] = (name, rng.choice(pairs)[1])
        case _:
            pairs[at] = (name, _change(inner, rng))
    return dict(pairs)


def _other(value: Any, rng: random.Random) -> Any:
    """Something else of the same type, or of another."""
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return list(rng.choice(SHAPES))
    if isinstance(value, bool) or rng.random() < 0.4:
        return rng.choice(VALUES)
    if isinstance(value, int):
        number = rng.choice((value - 1, value + 1, -value, value * 2, value ^ 1 << rng.randrange(64), 2**63 - 1))
        return number if -(2**63) <= number < 2**64 else value
    if isinstance(value, float):
        return rng.choice((-value, value * 1e300, float("nan"), float("inf")))
    if isinstance(value, str):
        return value[: rng.randrange(len(value) + 1)] + rng.choice(("", "\u0000", "é", "x" * 400, "../"))
    if isinstance(value, bytes):
        return bytes(damaged(value, rng))
    if isinstance(value, list) and value:
        return value * rng.choice((2, 3, 100))
    return rng.choice(VALUES)


def _map(pairs: Sequence[tuple[Any, Any]]) -> msgspec.Raw:
    parts = [b"\xde", struct.pack(">H", len(pairs))]
    for name, inner in pairs:
        parts += (msgspec.msgpack.encode(name), msgspec.msgpack.encode(inner))
    return msgspec.Raw(b"".join(parts))


# ---- the kinds of frames


def bare(seeds: Sequence[bytes]) -> Kind:
    """Msgpack and nothing else."""
    return Kind(seeds, lambda frame: (b"", frame, b""), lambda _, body, __: bytes(body), lambda frame: frame)


def hashed(seeds: Sequence[bytes]) -> Kind:
    """Eight bytes of checksum and msgpack, as an arm and its clients speak."""

    def seal(frame: bytearray) -> bytes:
        return xxhash.xxh3_64_digest(bytes(frame[8:])) + bytes(frame[8:])

    return Kind(
        seeds, lambda frame: (b"", frame[8:], b""), lambda _, body, __: xxhash.xxh3_64_digest(body) + bytes(body), seal
    )


_LENGTH, _SUM, _BODY = 8, 12, messages.PREFIX


def message(seeds: Sequence[bytes]) -> Kind:
    """As `wire/messages.py` has them."""

    def split(frame: bytes) -> tuple[bytes, bytes, bytes]:
        end = _BODY + int.from_bytes(frame[_LENGTH:_SUM], "little")
        return frame[:_LENGTH], frame[_BODY:end], frame[end:]

    def join(before: bytes, body: Bytes, behind: bytes) -> bytes:
        claims = before + len(body).to_bytes(4, "little")
        return claims + xxhash.xxh3_64_digest(claims + body) + body + behind

    def seal(frame: bytearray) -> bytearray:
        if len(frame) >= _BODY:
            end = _BODY + int.from_bytes(frame[_LENGTH:_SUM], "little")
            frame[_SUM:_BODY] = xxhash.xxh3_64_digest(bytes(frame[:_SUM] + frame[_BODY:end]))
        return frame

    return Kind(seeds, split, join, seal)


def records(seeds: Sequence[bytes]) -> Kind:
    """As `wire/record.py` has them: a segment's, or a log's own entry."""

    def split(frame: bytes) -> tuple[bytes, bytes, bytes]:
        fixed = record.prefix(frame)
        header = frame[record.PREFIX : record.PREFIX + fixed.header_length]
        return frame[18:19], header, frame[fixed.body_start :]

    def join(before: bytes, body: Bytes, behind: bytes) -> bytes:
        try:
            return bytes(record.pack(before[0], bytes(body), [behind], len(behind)))
        except WireError:  # too long a header
            return bytes(seal(bytearray(seeds[0][: record.PREFIX]) + body))

    def seal(frame: bytearray) -> bytearray:
        if len(frame) >= 16:
            frame[8:16] = xxhash.xxh3_64_intdigest(bytes(frame[16:])).to_bytes(8, "little")
        return frame

    return Kind(seeds, split, join, seal)
