"""zstd with bounds for what strangers send, and the arrays of a segment compressed together by it as one block."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robotlearn.errors import WireError

LEVEL = -1  # of arrays: 1 makes them smaller by one part in a hundred and takes twice as long
Planes = Sequence[tuple[str, int, int]]
"""Where a block holds numbers of several bytes: (bytes of each, offset, bytes of all)."""

_local = threading.local()


def pack(block: bytes, planes: Planes) -> bytes:
    """A block compressed: of its numbers the first bytes together, then the second ones, and so on, as they are alike.

    Any thread.
    """
    plain = np.frombuffer(block, np.uint8)
    turned = plain.copy()
    for width, offset, size in planes:
        if width != "1":
            turned[offset : offset + size] = plain[offset : offset + size].reshape(-1, int(width)).T.reshape(-1)
    return compress(turned.tobytes())


def unpack(frames: Sequence[memoryview], planes: Planes, nbytes: int) -> NDArray[np.uint8]:
    """The blocks, each of `nbytes`, that were packed into these frames: (len(frames), nbytes), read-only.

    Raises WireError. Any thread.
    """
    turned = np.frombuffer(b"".join([decompress(frame, nbytes) for frame in frames]), np.uint8)
    turned = turned.reshape(len(frames), nbytes)
    plain = turned.copy()
    for width, offset, size in planes:
        if width != "1":
            span = slice(offset, offset + size)
            rows = turned[:, span].reshape(len(frames), int(width), -1)
            plain[:, span].reshape(len(frames), -1, int(width))[...] = rows.transpose(0, 2, 1)
    plain.flags.writeable = False
    return plain


def compress(data: bytes) -> bytes:
    """One zstd frame, which says how long its content is. Any thread."""
    import zstandard

    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=LEVEL)
    return bytes(_local.compressor.compress(data))


def decompress(frame: memoryview, nbytes: int) -> bytes:
    """The content of a zstd frame, which must be `nbytes` long; no more memory is taken than that. Any thread.

    Raises WireError.
    """
    import zstandard

    check_size(frame, nbytes)
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        content = bytes(_local.decompressor.decompress(frame, max_output_size=nbytes, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: {error}") from None
    if len(content) != nbytes:
        raise WireError(f"zstd: {len(content)} bytes, expected {nbytes}")
    return content


def check_size(frame: memoryview, nbytes: int) -> None:
    """Raise WireError unless a zstd frame says that its content is `nbytes` long. Cheap."""
    import zstandard

    try:
        # zstandard takes as much memory as the frame claims, whatever limit it is given.
        claimed = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: {error}") from None
    if claimed != nbytes:
        raise WireError(f"zstd: the frame claims {claimed} bytes, expected {nbytes}")
