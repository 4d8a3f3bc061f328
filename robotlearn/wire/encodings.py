"""How the images of a segment lie in its record: raw, JPEG, lossless or as a video; each is decodable alone.

    jpeg      a part per image: a JPEG file, or nothing where the image is the one before it
    lossless  one zstd frame, in which each pixel is the difference to its left neighbour, modulo 256
    video     a part per image: the packets of one H.264 stream (Annex B, 4:4:4) that begins with a key frame

Where there are several parts, their lengths come first, as little-endian uint32. Whoever decodes knows the shape
beforehand: nothing larger is ever made of what came, whatever it says of itself. There is no container format, file
or address in it, so no demuxer and no protocol of FFmpeg's is used. The codecs are imported when first needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robotlearn.errors import WireError
from robotlearn.wire.packing import check_size, decompress

RAW, ZSTD, JPEG, LOSSLESS, VIDEO = "raw", "zstd", "jpeg", "lossless", "video"
CODECS = (JPEG, LOSSLESS, VIDEO)
LOSSY = frozenset((JPEG, VIDEO))
IMAGES = "observation.images."
QUALITY, CRF = 95, 18
MAX_SIDE = 16384
MAX_PIXEL_BYTES = 1 << 30
"""Of all encoded images of one record, decoded; an edge's longest segment must keep to it too."""

Images = NDArray[np.uint8]


class ImageEncoding(NamedTuple):
    """One camera's. quality: of jpeg, 1 to 100. crf: of video, 0 to 51, lower is better and larger."""

    name: str = RAW
    quality: int = QUALITY
    crf: int = CRF


class Encodings(NamedTuple):
    """What a recorder does to the arrays of a segment.

    arrays: zstd (where it makes them smaller by a tenth) or raw, for all that isn't an image. images: by the whole key
    of the observation. other: for images that aren't named.
    """

    arrays: str = ZSTD
    images: tuple[tuple[str, ImageEncoding], ...] = ()
    other: ImageEncoding = ImageEncoding()

    def image(self, key: str) -> ImageEncoding:
        """That of the images `observation.images.<camera>`."""
        return dict(self.images).get(key, self.other)


def is_images(dtype: str, shape: Sequence[int]) -> bool:
    """Whether an observation is a row of colour images, (n, height, width, 3) uint8."""
    return dtype == "|u1" and len(shape) == 4 and shape[3] == 3 and all(1 <= side <= MAX_SIDE for side in shape[1:3])


def encode(images: Images, encoding: ImageEncoding) -> bytes:
    """The payload of images (n, height, width, 3)."""
    match encoding.name:
        case "jpeg":
            return _join(_to_jpeg(images, encoding.quality))
        case "lossless":
            return _to_lossless(images)
        case "video":
            return _join(_to_video(images, encoding.crf))
    raise WireError(f"no image encoding is called {encoding.name!r}")


def check(name: str, payload: memoryview, shape: tuple[int, ...]) -> None:
    """Look whether a payload is built as images of that shape are, which is cheap and decodes nothing.

    Raises WireError; what passes may still fail to decode.
    """
    if name == LOSSLESS:
        check_size(payload, math.prod(shape))
        return
    parts = _split(payload, shape[0])
    if not parts[0]:
        raise WireError(f"{name}: the first image is missing")
    if name == JPEG and any(part and bytes(part[:3]) != b"\xff\xd8\xff" for part in parts):
        raise WireError("jpeg: an image doesn't begin as a JPEG does")
    if name == VIDEO and any(bytes(part[:3]) not in (b"\0\0\0", b"\0\0\1") for part in parts):
        raise WireError("video: a packet doesn't begin as one of H.264 does")


def decode(name: str, payload: memoryview, shape: tuple[int, ...]) -> Images:
    """The images of a payload, read-only, of just that shape. Raises WireError when it isn't one of such images."""
    check(name, payload, shape)
    try:
        match name:
            case "jpeg":
                images = _from_jpeg(_split(payload, shape[0]), shape)
            case "lossless":
                images = _from_lossless(payload, shape)
            case "video":
                images = _from_video(_split(payload, shape[0]), shape)
            case _:
                raise WireError(f"no image encoding is called {name!r}")
    except WireError:
        raise
    except Exception as error:  # of a codec that was fed by a stranger: its kinds of error are no promise of anybody's
        raise WireError(f"{name}: it can't be decoded: {type(error).__name__}: {error}") from None
    images.flags.writeable = False
    return images


# ---- parts


def _join(parts: Sequence[bytes]) -> bytes:
    return b"".join((np.array([len(part) for part in parts], "<u4").tobytes(), *parts))


def _split(payload: memoryview, count: int) -> list[memoryview]:
    if len(payload) < 4 * count:
        raise WireError(f"encoded images: {len(payload)} bytes can't hold {count} parts")
    ends = np.cumsum(np.frombuffer(payload, "<u4", count), dtype=np.int64) + 4 * count
    if ends[-1] != len(payload):
        raise WireError(f"encoded images: {len(payload)} bytes, their lengths say {ends[-1]}")
    return [payload[start:end] for start, end in pairwise([4 * count, *ends.tolist()])]


# ---- JPEG


def _to_jpeg(images: Images, quality: int) -> list[bytes]:
    from PIL import Image

    parts: list[bytes] = []
    for index, image in enumerate(images):
        if index and np.array_equal(image, images[index - 1]):  # a camera may be slower than the arm
            parts.append(b"")
            continue
        stream = io.BytesIO()
        # Colours at full resolution: the images are small, and so are the things in them.
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
        parts.append(stream.getvalue())
    return parts


def _from_jpeg(parts: list[memoryview], shape: tuple[int, ...]) -> Images:
    from PIL import Image

    images = np.empty(shape, np.uint8)
    for index, part in enumerate(parts):
        if not part:
            images[index] = images[index - 1]
            continue
        with Image.open(io.BytesIO(part), formats=("JPEG",)) as image:  # reads the header only
            if image.size != (shape[2], shape[1]) or image.mode != "RGB":
                raise WireError(f"jpeg: an image has size {image.size} and mode {image.mode}, not those of {shape}")
            images[index] = np.asarray(image)
    return images


# ---- lossless

def _to_lossless(images: Images) -> bytes:
    import zstandard

    # Matches over long distances: where nothing moves, what the image before shows is found again.
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24, enable_ldm=True)
    differences = images.copy()
    differences[:, :, 1:] -= images[:, :, :-1]
    return zstandard.ZstdCompressor(compression_params=parameters).compress(differences.data)


def _from_lossless(payload: memoryview, shape: tuple[int, ...]) -> Images:
    images = np.frombuffer(decompress(payload, math.prod(shape)), np.uint8).reshape(shape)
    return np.cumsum(images, axis=2, dtype=np.uint8)


# ---- video


def _to_video(images: Images, crf: int) -> list[bytes]:
    import av

    context = av.CodecContext.create("libx264", "w")
    context.height, context.width = images.shape[1:3]
    context.pix_fmt, context.time_base, context.thread_count = "yuv444p", Fraction(1, 10), 1
    context.options = {"crf": str(crf), "preset": "veryfast"}
    packets: list[Any] = []
    for index, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv444p")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    if len(packets) != len(images):
        raise WireError(f"video: {len(images)} images became {len(packets)} packets")
    return [bytes(packet) for packet in packets]


def _from_video(parts: list[memoryview], shape: tuple[int, ...]) -> Images:
    import av

    count, height, width = shape[:3]
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    pixels = (-width % 64 + width) * (-height % 16 + height)  # as FFmpeg counts them: whole blocks, aligned rows
    context.options = {"max_pixels": str(pixels), "err_detect": "explode"}
    images, done = np.empty(shape, np.uint8), 0
    for packet in (*(av.Packet(bytes(part)) for part in parts), None):
        for frame in context.decode(packet):
            if done == count or (frame.height, frame.width) != (height, width) or frame.is_corrupt:
                raise WireError(f"video: image {done} of {(frame.width, frame.height)} is not one of {shape}")
            images[done] = frame.to_ndarray(format="rgb24")
            done += 1
    if done != count:
        raise WireError(f"video: {done} images, expected {count}")
    return images
