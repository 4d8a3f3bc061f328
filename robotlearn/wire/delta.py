"""What has changed in a chunk of weights since an older one, without loss: which numbers, and by how much.

    offset  size
         0     1  width of a number in bytes: 1, 2, 4 or 8
         1     1  1: the changes among the large numbers are listed as gaps, 0: as a bit each
         2     8  threshold: numbers whose old bits, the sign left out, are below it are small, the others large
        10     4  changes among the large
        14     4  of these, gaps that a byte can't hold
        18     4  changes among the small
        22        lengths of the streams, 4 bytes each; then the streams, each deflated

Streams: gaps (or bits) of the large, wide gaps (4 bytes each), bits of the small, then the differences of the large and
those of the small, each byte by byte from the lowest. A difference is new minus old as whole numbers that wrap around,
its sign in the lowest bit.

One optimiser step moves all weights by about as much. So bfloat16 numbers change where they are small, by many units,
and seldom where they are large, by one: two kinds of streams, each alike in itself, that a Huffman code alone brings
close to what they say. All integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Buffer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robotlearn.errors import WireError

WORTH = 0.5  # of the chunk's size: a delta that would be longer is not made
_HEADER = struct.Struct("<BBQIII")
_WIDE = 255  # in the stream of gaps: the gap is in that of the wide ones
_SPARSE = 0.12  # above this share of changes bits are shorter than gaps
_SAMPLE = 4096
_CUTS = 64  # thresholds that are tried

Unsigned = NDArray[np.unsignedinteger[Any]]


def encode(old: Buffer, new: Buffer, width: int) -> bytes | None:
    """The delta from `old` to `new`, of one length, which holds numbers of `width` bytes; None where it doesn't pay."""
    before, after = _numbers(old, width), _numbers(new, width)
    threshold = _threshold(before, after)
    if threshold is None:
        return None
    differences = after - before
    changed = differences != 0
    small = _magnitude(before) < threshold
    small_changed = changed[small]
    large_at = np.flatnonzero(changed & ~small)
    by_gaps = len(large_at) < _SPARSE * len(before)
    if by_gaps:
        gaps = np.diff(large_at, prepend=-1) - 1
        wide = gaps[gaps >= _WIDE].astype("<u4")
        where = np.minimum(gaps, _WIDE).astype(np.uint8)
    else:
        wide = np.zeros(0, "<u4")
        where = np.packbits(changed[~small])
    of_large, of_small = differences[large_at], differences[small][small_changed]
    streams = [_deflate(where), _deflate(wide.view(np.uint8)), _deflate(np.packbits(small_changed))]
    for part in (of_large, of_small):
        streams += [_deflate(plane) for plane in _planes(part)]
    head = _HEADER.pack(width, by_gaps, threshold, len(large_at), len(wide), len(of_small))
    lengths = struct.pack(f"<{len(streams)}I", *map(len, streams))
    delta = b"".join((head, lengths, *streams))
    return delta if len(delta) <= WORTH * before.nbytes else None


def apply(old: Buffer, delta: Buffer, out: Buffer) -> None:
    """Write to `out` what `old` becomes by a delta; they are of one length.

    Never takes more memory than a few times that. Raises WireError when the delta is malformed; `out` is then anything.
    """
    data = memoryview(delta).cast("B")
    try:
        width, by_gaps, threshold, n_large, n_wide, n_small = _HEADER.unpack_from(data)
        lengths = struct.unpack_from(f"<{3 + 2 * width}I", data, _HEADER.size)
    except struct.error:
        raise WireError("delta is cut off") from None
    if width not in (1, 2, 4, 8) or by_gaps > 1 or len(memoryview(old).cast("B")) % width:
        raise WireError(f"delta of numbers of {width} bytes")
    before = _numbers(old, width)
    small = _magnitude(before) < threshold
    count, count_small = len(before), int(np.count_nonzero(small))
    bits_large = 0 if by_gaps else count - count_small
    expected = [n_large if by_gaps else -(-bits_large // 8), 4 * n_wide, -(-count_small // 8)]
    expected += [n_large] * width + [n_small] * width
    start = _HEADER.size + 4 * len(lengths)
    if start + sum(lengths) != len(data) or n_large + n_small > count or n_wide > n_large:
        raise WireError("delta of a length, or with more changes, than can be")
    streams = []
    for length, size in zip(lengths, expected, strict=True):
        streams.append(_inflate(data[start : start + length], size))
        start += length
    where, wide, bits_small, *planes = streams
    if by_gaps:
        gaps = where.astype(np.int64)
        is_wide = where == _WIDE
        if np.count_nonzero(is_wide) != n_wide:
            raise WireError("delta whose wide gaps are not as many as it says")
        gaps[is_wide] = wide.view("<u4")
        large_at = np.cumsum(gaps + 1) - 1
        if n_large and large_at[-1] >= count:
            raise WireError("delta that reaches beyond its chunk")
    else:
        large_at = np.flatnonzero(~small)[np.unpackbits(where, count=bits_large).view(np.bool_)]
    small_at = np.flatnonzero(small)[np.unpackbits(bits_small, count=count_small).view(np.bool_)]
    if len(large_at) != n_large or len(small_at) != n_small:
        raise WireError("delta whose changes are not as many as it says")
    after = np.frombuffer(out, before.dtype)
    np.copyto(after, before)
    after[large_at] += _differences(planes[:width], before.dtype)
    after[small_at] += _differences(planes[width:], before.dtype)


def _numbers(data: Buffer, width: int) -> Unsigned:
    return np.frombuffer(data, f"<u{width}")


def _magnitude(numbers: Unsigned) -> Unsigned:
    """Their bits without the topmost, which is the sign of floating numbers."""
    return numbers & numbers.dtype.type(2 ** (8 * numbers.itemsize - 1) - 1)


def _threshold(before: Unsigned, after: Unsigned) -> int | None:
    """Where to part small from large numbers, by a sample; None where a delta would not pay."""
    step = max(1, len(before) // _SAMPLE)
    old, new = before[::step], after[::step]
    changed = old != new
    # Both parts cost what the entropy of their share of changes is.
    order = np.argsort(_magnitude(old))
    sums = np.concatenate(([0], np.cumsum(changed[order])))
    cuts = np.unique(np.linspace(0, len(old), _CUTS + 1).astype(np.int64))
    bits = _entropy(sums[cuts], cuts) + _entropy(sums[-1] - sums[cuts], len(old) - cuts)
    best = int(np.argmin(bits))
    values = sum(_entropy_of(plane) for plane in _planes((new - old)[changed]))
    if bits[best] + values > WORTH * 8 * old.nbytes:
        return None
    cut = int(cuts[best])
    return int(_magnitude(old)[order[cut]]) if cut < len(old) else 2 ** (8 * before.itemsize - 1)


def _entropy(ones: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits that tell which `ones` of so many are set."""
    share = ones / np.maximum(of, 1)
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    bits: NDArray[np.float64] = -of * (share * np.log2(inside) + (1 - share) * np.log2(1 - inside))
    return bits


def _entropy_of(plane: NDArray[np.uint8]) -> float:
    counts = np.bincount(plane)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / len(plane))).sum()) if len(plane) else 0.0


def _planes(differences: Unsigned) -> list[NDArray[np.uint8]]:
    """Their lowest bytes, then the next ones; the sign is put in the lowest bit, so that the high ones are mostly 0."""
    width = differences.itemsize
    zigzag = (differences << 1) ^ (-(differences >> (8 * width - 1))).astype(differences.dtype)
    table = zigzag.view(np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(table[:, byte]) for byte in range(width)]


def _differences(planes: list[NDArray[np.uint8]], dtype: np.dtype[Any]) -> Unsigned:
    """The inverse of `_planes`."""
    zigzag = np.stack(planes, axis=1).view(dtype).reshape(-1)
    return ((zigzag >> 1) ^ -(zigzag & 1)).astype(dtype, copy=False)


def _deflate(stream: NDArray[np.uint8]) -> bytes:
    """Runs where nearly all is 0, which a code alone could not bring below a bit each; else a Huffman code alone."""
    sparse = np.count_nonzero(stream) * 32 < len(stream)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE if sparse else zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(stream) + deflate.flush()


def _inflate(stream: memoryview, size: int) -> NDArray[np.uint8]:
    inflate = zlib.decompressobj(-15)
    try:
        data = inflate.decompress(stream, size + 1)
    except zlib.error as error:
        raise WireError(f"delta with a damaged stream: {error}") from None
    if len(data) != size or not inflate.eof or inflate.unused_data:
        raise WireError("delta with a stream of another length than it says")
    return np.frombuffer(data, np.uint8)
