"""Encoded images and arrays: what goes in comes out, and what a stranger made of them is a WireError and no more."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robotlearn.buffer.store import SegmentStore
from robotlearn.errors import LogError, WireError
from robotlearn.wire import encodings, layout, record
from robotlearn.wire.encodings import CODECS, IMAGES, LOSSY, Encodings, ImageEncoding
from robotlearn.wire.segment import ARRAYS, Segment
from tests.wire.make import make_segment
from tests.wire.test_record import BAD_VALUES, with_good_checksum

WRIST = f"{IMAGES}wrist"


def moving(count: int, height: int, width: int, noise: int = 3) -> np.ndarray:
    """A picture that moves, as a camera sees it: smooth, with noise."""
    rng = np.random.default_rng(0)
    y, x, t = np.meshgrid(np.arange(height), np.arange(width), np.arange(count), indexing="ij")
    planes = [(np.sin((x + 2 * t) / 9 + c) + np.cos((y - t) / 7 + c)) * 60 + 128 for c in range(3)]
    images = np.stack(planes, -1).transpose(2, 0, 1, 3) + rng.integers(-noise, noise + 1, (count, height, width, 3))
    return images.clip(0, 255).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def encoded(name: str, segment: Segment | None = None, **how: Any) -> Segment:
    """A segment with one camera, its images encoded so and its arrays compressed."""
    images = moving(41, 24, 32)
    made = segment or make_segment(steps=40, chunks=2, observations={WRIST: images, "observation.state": state(41)})
    return dataclasses.replace(made, encodings=Encodings(images=((WRIST, ImageEncoding(name, **how)),)))


def state(count: int) -> np.ndarray:
    """Joints that hardly move, whose first bytes are therefore alike."""
    return (1.0 + np.arange(count * 6).reshape(count, 6) * 1e-5).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (24, 32), (63, 65)], ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_images_come_back(name: str, size: tuple[int, int]) -> None:
    images = moving(9, *size)
    payload = memoryview(encodings.encode(images, ImageEncoding(name)))
    encodings.check(name, payload, images.shape)
    back = encodings.decode(name, payload, images.shape)
    assert back.shape == images.shape and back.dtype == np.uint8 and not back.flags.writeable
    if name in LOSSY:
        assert psnr(images, back) > 28
    else:
        np.testing.assert_array_equal(back, images)


@pytest.mark.parametrize(("name", "worse", "better"), [("jpeg", {"quality": 40}, {}), ("video", {"crf": 40}, {})])
def test_a_better_quality_costs_more_and_is_nearer(name: str, worse: dict[str, int], better: dict[str, int]) -> None:
    images, found = moving(12, 48, 64), []
    for how in (worse, better):
        payload = encodings.encode(images, ImageEncoding(name, **how))
        found.append((len(payload), psnr(images, encodings.decode(name, memoryview(payload), images.shape))))
    assert found[0][0] < found[1][0] < images.nbytes / 2 and found[0][1] < found[1][1]


@pytest.mark.parametrize("name", ["jpeg", "lossless"])
def test_a_picture_that_stays_costs_next_to_nothing(name: str) -> None:
    one = moving(1, 64, 64)
    sizes = [
        len(encodings.encode(np.ascontiguousarray(one.repeat(n, 0)), ImageEncoding(name, quality=90))) for n in (1, 20)
    ]
    assert sizes[1] < sizes[0] * 1.2 + 80
    still = memoryview(encodings.encode(one.repeat(20, 0), ImageEncoding(name)))
    assert psnr(encodings.decode(name, still, (20, 64, 64, 3))[7:8], one) > 28


def test_lossless_is_much_smaller_than_raw() -> None:
    images = moving(20, 64, 64, noise=0)
    assert len(encodings.encode(images, ImageEncoding("lossless"))) < images.nbytes / 2


# ---- in a record


@pytest.mark.parametrize("name", ["raw", *CODECS])
def test_a_record_holds_them(name: str) -> None:
    segment = encoded(name)
    data = record.encode(segment, session=1, sequence=2)
    back = record.decode(data)
    back.validate()
    for array in ARRAYS:
        np.testing.assert_array_equal(getattr(back, array), getattr(segment, array), err_msg=array)
    np.testing.assert_array_equal(back.observations["observation.state"], segment.observations["observation.state"])
    images = segment.observations[WRIST]
    assert psnr(back.observations[WRIST], images) > (28 if name in LOSSY else 98)
    assert len(data) < (0.9 if name == "raw" else 0.7) * segment.nbytes or name == "raw"
    assert not any(array.flags.writeable for array in back.observations.values())
    found = [(memoryview(data), record.prefix(data), record.peek(data))] * 3
    assert record.verify_many(found) == [None] * 3


def test_arrays_become_smaller_and_raw_images_beside_them_stay_views() -> None:
    segment = encoded("raw")
    data = record.encode(segment)
    assert len(data) < len(record.encode(dataclasses.replace(segment, encodings=None)))
    assert np.shares_memory(record.decode(data).observations[WRIST], np.frombuffer(data, np.uint8))


def test_arrays_that_zstd_makes_no_smaller_stay_raw() -> None:
    noise = np.random.default_rng(0).standard_normal((7, 4000)).astype(np.float32)
    segment = make_segment(observations={"observation.state": noise}, encodings=Encodings())
    data = record.encode(segment)
    assert all(tensor.encoding == "raw" for tensor in layout.parse(bytes(record.peek(data).tensors)).arrays)
    assert data == record.encode(dataclasses.replace(segment, encodings=None))


def test_arrays_longer_than_a_block_may_be_stay_raw() -> None:
    long = np.zeros((7, layout.MAX_BLOCK // 16), np.float32)
    data = record.encode(make_segment(observations={"observation.state": long}, encodings=Encodings()))
    np.testing.assert_array_equal(record.decode(data).observations["observation.state"], long)


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_found_in_compressed_arrays(case: str) -> None:
    segment, said = BAD_VALUES[case]
    # Images that compress well: then it pays for the other arrays as well.
    still = {"observation.zeros": np.zeros((segment.steps + 1, 2000), np.uint8)}
    segment = dataclasses.replace(segment, observations=segment.observations | still, encodings=Encodings())
    data = record.encode(segment)
    assert layout.parse(bytes(record.peek(data).tensors)).block_bytes
    with pytest.raises(WireError, match=said):
        record.verify(data)
    good = record.encode(dataclasses.replace(make_segment(image=4), observations=segment.observations))
    view = memoryview(data)
    several = [(view, record.prefix(view), record.peek(view))] * 3
    assert all(said.split(" ")[0] in str(error) for error in record.verify_many(several))
    assert good


def test_records_of_schema_1_are_read() -> None:
    data = (Path(__file__).parent / "schema-1.record").read_bytes()
    assert record.prefix(data).schema == 1
    assert record.verify(data).sequence == 9
    expected = make_segment(image=4, last=True, starred=True, seed=5)
    back = record.decode(data)
    np.testing.assert_array_equal(back.chunk_path, expected.chunk_path)
    np.testing.assert_array_equal(back.observations[WRIST], expected.observations[WRIST])


def test_records_of_schema_2_are_read_and_are_of_no_group() -> None:
    data = (Path(__file__).parent / "schema-2.record").read_bytes()
    assert record.prefix(data).schema == 2
    assert record.verify(data).sequence == 9
    expected = make_segment(40, image=4, last=True, starred=True, seed=5)
    back = record.decode(data)
    assert back.group is None
    np.testing.assert_array_equal(back.chunk_path, expected.chunk_path)
    np.testing.assert_array_equal(back.observations[WRIST], expected.observations[WRIST])


def test_a_later_schema_is_refused() -> None:
    data = record.encode(make_segment())
    struct.pack_into("<H", data, 16, 4)
    with pytest.raises(WireError, match="schema 4, this version reads 1 and 2 and 3"):
        record.verify(with_good_checksum(data))


# ---- from strangers


def test_a_zstd_frame_can_make_nothing_larger_than_expected() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    lying = bytearray(zstandard.ZstdCompressor().compress(bytes(1000)))
    for frame in (bomb, lying + b"more", lying[:-3], b"", b"\x28\xb5\x2f\xfd"):
        with pytest.raises(WireError, match="zstd"):
            encodings.decode("lossless", memoryview(frame), (1, 10, 10, 3))


def parts(*each: bytes) -> memoryview:
    return memoryview(struct.pack(f"<{len(each)}I", *map(len, each)) + b"".join(each))


def as_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


GOOD = as_jpeg(Image.new("RGB", (8, 6)))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (parts(GOOD, as_jpeg(Image.new("RGB", (8, 7)))), "size"),
        (parts(GOOD, as_jpeg(Image.new("L", (8, 6)))), "mode"),
        (parts(b"", GOOD), "first image"),
        (parts(GOOD, GOOD[:200]), "decoded"),
        (parts(GOOD, b"\x89PNG" + GOOD), "begin"),
        (parts(GOOD), "lengths say|hold"),
        (parts(GOOD, GOOD, GOOD), "lengths say"),
        (memoryview(b"\1\0"), "hold"),
        (memoryview(struct.pack("<2I", 2**32 - 1, 2**32 - 1) + GOOD), "lengths say"),
    ],
)
def test_jpegs_of_another_kind_are_refused(payload: memoryview, said: str) -> None:
    with pytest.raises(WireError, match=said):
        encodings.decode("jpeg", payload, (2, 6, 8, 3))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((9, 24, 48, 3), "not one of|decoded"),
        ((9, 16, 32, 3), "not one of|decoded"),
        ((8, 24, 32, 3), "lengths"),
        ((10, 24, 32, 3), "lengths"),
    ],
)
def test_a_video_of_another_shape_is_refused(shape: tuple[int, ...], said: str) -> None:
    payload = memoryview(encodings.encode(moving(9, 24, 32), ImageEncoding("video")))
    with pytest.raises(WireError, match=said):
        encodings.decode("video", payload, shape)


def test_a_video_with_flipped_bits_is_not_patched_up() -> None:
    payload = encodings.encode(moving(9, 48, 64), ImageEncoding("video"))
    rng, refused = np.random.default_rng(1), 0
    for _ in range(100):
        spoilt = bytearray(payload)
        spoilt[rng.integers(4 * 9 + 1000, len(spoilt))] ^= 1 << rng.integers(8)
        try:
            encodings.decode("video", memoryview(spoilt), (9, 48, 64, 3))
        except WireError:
            refused += 1
    assert refused > 25  # the decoder conceals all but one or two, unless it is told not to


BOMBS = """
import struct, sys, io, zstandard
from PIL import Image
import numpy as np
from robotlearn.errors import WireError
from robotlearn.wire import encodings
from robotlearn.wire.encodings import ImageEncoding

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) >> 10

small = np.zeros((2, 16, 16, 3), np.uint8)
payloads = {name: encodings.encode(small, ImageEncoding(name)) for name in encodings.CODECS}
for name, payload in payloads.items():
    encodings.decode(name, memoryview(payload), small.shape)
before = peak()
jpeg = bytearray(payloads["jpeg"])
at = jpeg.index(b"\\xff\\xc0") + 5
jpeg[at : at + 4] = struct.pack(">2H", 16000, 16000)
zstd = open(sys.argv[1], "rb").read()
video = open(sys.argv[2], "rb").read()
for name, payload in (("jpeg", jpeg), ("lossless", zstd), ("video", video)):
    try:
        encodings.decode(name, memoryview(bytes(payload)), small.shape)
        sys.exit(f"{name} was decoded")
    except WireError as error:
        print(error)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_what_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    frame, video = tmp_path / "frame", tmp_path / "video"
    frame.write_bytes(zstandard.ZstdCompressor().compress(bytes(1 << 28)))
    video.write_bytes(encodings.encode(np.zeros((2, 2048, 2048, 3), np.uint8), ImageEncoding("video")))
    done = subprocess.run([sys.executable, "-c", BOMBS, frame, video], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout.splitlines()[-1]) < 16, done.stdout


PAYLOADS = {name: encodings.encode(moving(4, 16, 16), ImageEncoding(name)) for name in CODECS}
CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8)


def changed(data: bytes, changes: list[tuple[int, int]], longer: int) -> bytearray:
    found = bytearray(data)
    for place, value in changes:
        found[place % len(found)] = value
    return found[:longer] if longer < 0 else found + bytes(longer)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=150, deadline=None)
@given(CHANGES, st.integers(-40, 40))
def test_mutated_images_are_a_wire_error_or_images(name: str, changes: list[tuple[int, int]], longer: int) -> None:
    payload = memoryview(changed(PAYLOADS[name], changes, longer))
    with contextlib.suppress(WireError):
        assert encodings.decode(name, payload, (4, 16, 16, 3)).shape == (4, 16, 16, 3)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_images(name: str, data: bytes) -> None:
    for candidate in (data, struct.pack("<2I", 4, max(0, len(data) - 4)) + data):
        with pytest.raises(WireError):
            encodings.decode(name, memoryview(candidate), (2, 16, 16, 3))


RECORDS = {name: bytes(record.encode(encoded(name), session=1, sequence=2)) for name in ("raw", *CODECS)}


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=100, deadline=None)
@given(CHANGES, st.sampled_from((0, 64, -64)))
def test_mutated_records_are_a_wire_error_or_a_valid_segment(
    name: str, changes: list[tuple[int, int]], longer: int
) -> None:
    data = with_good_checksum(changed(RECORDS[name], changes, longer))
    with contextlib.suppress(WireError):
        record.verify(data)
        record.decode(data).validate()


def spoiled(name: str, part: int) -> bytearray:
    """The record with the end of its encoded part of that number overwritten, and a right checksum."""
    data = RECORDS[name]
    spoilt, fixed = bytearray(data), record.prefix(data)
    at = fixed.body_start + layout.parse(bytes(record.peek(data).tensors)).raw_bytes
    for _ in range(part):
        at += layout.padded(8 + struct.unpack_from("<Q", spoilt, at)[0])
    (size,) = struct.unpack_from("<Q", spoilt, at)
    end = at + 8 + size
    last = size // 2
    if name in (
        "jpeg",
        "video",
    ):  # from behind the first bytes of the last image, which are looked at when it is stored
        last = struct.unpack_from("<I", spoilt, at + 8 + 4 * 40)[0] - 5
    spoilt[end - last : end] = b"\xff" * last
    struct.pack_into("<Q", spoilt, 8, xxhash.xxh3_64_intdigest(memoryview(spoilt)[16:]))
    return spoilt


def test_arrays_that_cant_be_decompressed_are_invalid_at_once(tmp_path: Path) -> None:
    with SegmentStore(tmp_path, sync="process") as store:
        (outcome,) = store.append([spoiled("raw", 0)])
        assert outcome.kind == "invalid" and "zstd" in outcome.reason


@pytest.mark.parametrize("name", CODECS)
def test_images_that_cant_be_decoded_are_found_when_read_and_passed_over(name: str, tmp_path: Path) -> None:
    good = record.encode(encoded(name), session=1, sequence=3)
    with SegmentStore(tmp_path, sync="process") as store:
        first, second = store.append([spoiled(name, 1), good])
        assert (first.kind, second.kind) == ("stored", "stored")
        assert first.position is not None and second.position is not None
        with pytest.raises(LogError, match="can't be decoded"):
            store.read(first.position)
        assert store.undecodable == 1
        assert [segment.sequence for _, segment in store.scan()] == [3]
        assert store.undecodable == 2
        assert store.read(second.position).sequence == 3
        assert bytes(store.read_record(second.position)) == good
