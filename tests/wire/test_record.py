"""Records: what goes in comes out, and whatever else comes in is a WireError and nothing else."""

import contextlib
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from robotlearn.errors import WireError
from robotlearn.wire import layout, record
from robotlearn.wire.segment import ARRAYS, Group, Segment
from tests.wire.make import make_segment


def arrays_of(segment: Segment) -> dict[str, np.ndarray]:
    return {name: getattr(segment, name) for name in ARRAYS} | segment.observations


def with_good_checksum(data: bytearray) -> bytearray:
    struct.pack_into("<Q", data, 8, xxhash.xxh3_64_intdigest(memoryview(data)[16:]))
    return data


def reheaded(data: bytearray, **changes: Any) -> bytearray:
    """The record with fields of its header changed, everything else consistent."""
    fixed = record.prefix(data)
    header = msgspec.msgpack.decode(data[record.PREFIX : record.PREFIX + fixed.header_length]) | changes
    return record.pack(record.SEGMENT, msgspec.msgpack.encode(header), [data[fixed.body_start :]], fixed.body_length)


def retabled(data: bytearray, change: Any) -> bytearray:
    """The record with its tensor table passed through `change`."""
    table = msgspec.msgpack.decode(record.peek(data).tensors)
    return reheaded(data, tensors=change(table))


@pytest.mark.parametrize("image", [0, 16, 160], ids=["state", "small-image", "large-image"])
def test_a_segment_comes_back_as_it_was(image: int) -> None:
    segment = make_segment(image=image, last=True, starred=True)
    segment.validate()
    data = record.encode(segment, session=7, sequence=9)
    back = record.decode(data)
    back.validate()
    assert (back.session, back.sequence, back.edge, back.task) == (7, 9, "edge-a", "lift the cube")
    assert back.last and back.starred
    for name, array in arrays_of(segment).items():
        again = arrays_of(back)[name]
        assert again.dtype == array.dtype and again.shape == array.shape, name
        np.testing.assert_array_equal(again, array, err_msg=name)


def test_the_group_comes_back_and_none_takes_no_room() -> None:
    group = Group(2**63 - 1, 6, 8)
    data = record.encode(make_segment(group=group))
    back = record.decode(data)
    assert back.group == record.verify(data).group == group and isinstance(back.group, Group)
    alone = record.encode(make_segment())
    assert record.decode(alone).group is None
    fixed = record.prefix(alone)
    assert b"group" not in alone[record.PREFIX : record.PREFIX + fixed.header_length]


@pytest.mark.parametrize(
    "group",
    [[1, 8, 8], [1, -1, 8], [-1, 0, 8], [1, 0, 1], [1, 0], [1, 0, 8, 0], "one", [1.5, 0, 8], {"id": 1}],
    ids=str,
)
def test_a_group_that_makes_no_sense_is_refused(group: Any) -> None:
    data = reheaded(record.encode(make_segment()), group=group)
    with pytest.raises(WireError, match="header"):
        record.verify(data)
    view = memoryview(data)
    with contextlib.suppress(WireError):
        (found,) = record.verify_many([(view, record.prefix(view), record.peek(view))])
        assert isinstance(found, WireError)


def test_decoding_copies_nothing_and_gives_read_only_views() -> None:
    data = record.encode(make_segment(image=8))
    for name, array in arrays_of(record.decode(data)).items():
        assert np.shares_memory(array, np.frombuffer(data, np.uint8)), name
        assert not array.flags.writeable, name


def test_every_tensor_is_aligned_to_64_bytes() -> None:
    data = record.encode(make_segment(image=5))
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    assert len(data) % 64 == 0
    for name, array in arrays_of(record.decode(data)).items():
        assert (array.__array_interface__["data"][0] - start) % 64 == 0, name


def test_the_header_says_what_the_arrays_say() -> None:
    header = record.peek(record.encode(make_segment(last=True, version=11, episode=5), session=1, sequence=2))
    assert (header.steps, header.last, header.success, header.starred) == (6, True, True, False)
    assert (header.version, header.episode, header.session, header.sequence) == (11, 5, 1, 2)


def test_a_segment_without_chunks_is_a_segment() -> None:
    data = record.encode(make_segment(chunks=0))
    assert record.verify(data).version == -1
    assert record.decode(data).chunk_path.shape == (0, 3, 4, 3)


def test_arrays_that_are_not_contiguous_are_encoded_by_their_values() -> None:
    wide = np.arange(12 * 600, dtype=np.float32).reshape(12, 600)
    segment = make_segment(observations={"observation.state": wide[:7, ::2]})
    np.testing.assert_array_equal(
        record.decode(record.encode(segment)).observations["observation.state"], wide[:7, ::2]
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("reward", np.zeros(6, np.float64), "reward has dtype"),
        ("held", np.zeros(6, np.uint8), "held has dtype"),
        ("reward", np.zeros(5, np.float32), "reward has shape"),
        ("chunk_path", np.zeros((2, 3, 4), np.float32), "chunk_path has shape"),
        ("chunk_path", np.zeros((2, 3, 4, 2), np.float32), "chunk_path has 2 dims"),
        ("wall", None, "wall is NoneType"),
        ("observations", {"state": np.zeros((7, 2), np.float32)}, "'state'"),
        ("observations", {"observation.state": np.zeros((6, 2), np.float32)}, "observation.state has shape"),
        ("observations", {"observation.state": np.zeros((7, 2), np.complex64)}, "observation.state"),
        ("observations", {"observation.state": np.array([object()] * 7)}, "observation.state"),
    ],
)
def test_encoding_refuses_a_wrong_array_by_its_name(field: str, value: Any, said: str) -> None:
    with pytest.raises(WireError, match=said):
        record.encode(make_segment(**{field: value}))


def not_finite(name: str) -> Segment:
    segment = make_segment(image=4)
    array = arrays_of(segment)[name]
    array.reshape(-1)[-1] = np.nan if array.size % 2 else np.inf
    return segment


BAD_VALUES = {
    **{f"{name}-not-finite": (not_finite(name), name) for name, (dtype, _) in ARRAYS.items() if "f" in dtype},
    "observation-not-finite": (not_finite("observation.state"), "observation.state"),
    "terminated-early": (make_segment(terminated=np.array([0, 1, 0, 0, 0, 0], bool)), "terminated is set before"),
    "truncated-early": (make_segment(truncated=np.array([1, 0, 0, 0, 0, 1], bool)), "truncated is set before"),
    "chunk-after-the-end": (make_segment(chunk_start=np.array([0, 4], np.int32)), "chunk 1 starts at step 4"),
    "chunk-before-the-start": (make_segment(chunk_start=np.array([-1, 3], np.int32)), "chunk 0 starts at step -1"),
    "beyond-the-horizon": (make_segment(chunk_first=np.array([2, 0], np.int32)), "chunk 0 executes 3 actions from 2"),
    "negative-lag": (make_segment(chunk_lag=np.array([0, -1], np.int32)), "chunk 1 has lag -1"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_found_in_the_segment_and_in_its_record(case: str) -> None:
    segment, said = BAD_VALUES[case]
    with pytest.raises(WireError, match=said):
        segment.validate()
    data = record.encode(segment)
    for _ in range(2):  # what was found bad once is not taken for good the next time
        with pytest.raises(WireError, match=said):
            record.verify(data)


def test_a_boolean_that_is_neither_0_nor_1_is_refused() -> None:
    data = record.encode(make_segment())
    place = record.prefix(data).body_start + layout.parse(bytes(record.peek(data).tensors)).where["held"]
    data[place] = 2
    with pytest.raises(WireError, match="neither 0 nor 1"):
        record.verify(with_good_checksum(data))


@pytest.mark.parametrize(
    "lie",
    [{"last": True}, {"success": True}, {"starred": True}, {"steps": 7}, {"version": 4}],
    ids=lambda lie: next(iter(lie)),
)
def test_a_header_that_contradicts_its_arrays_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="contradicts"):
        record.verify(reheaded(record.encode(make_segment()), **lie))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: [*table[:3], ["f4", "<c8", [1], "raw", 8]], "dtype"),
        (lambda table: [[n, d, s, "zzzz", b] for n, d, s, _, b in table], "'zzzz', unknown to this version"),
        (lambda table: [[n, d, s, "zstd", b] for n, d, s, _, b in table], "its tensors need|zstd|lack"),
        (lambda table: [[n, d, s, "zstd" if i else e, b] for i, (n, d, s, e, b) in enumerate(table)], "is raw where"),
        (lambda table: [[n, d, s, "jpeg", b] for n, d, s, _, b in table], "isn't a row of images"),
        (lambda table: [*table, ["observation.x", "|u1", [7, 2**30], "zstd", 7 * 2**30]], "is raw where|at most"),
        (lambda table: [[n, d, s, e, b + 1] for n, d, s, e, b in table], "bytes"),
        (lambda table: [*table, table[0]], "twice"),
        (lambda table: table[1:], "missing"),
        (lambda table: [*table, ["observation.x", "|u1", [7, 2**36], "raw", 7 * 2**36]], "body has"),
        (lambda table: [*table, ["observation.x", "|u1", [7], "raw", 7]] * 40, "malformed"),
        (lambda table: [*table, ["x" * 500, "|u1", [7], "raw", 7]], "malformed"),
        (lambda table: [*table, [1, 2]], "malformed"),
        (lambda table: [[n, d, [-1, *s[1:]], e, b] for n, d, s, e, b in table], "malformed"),
        (lambda table: "tensors", "malformed"),
    ],
)
def test_a_tensor_table_that_makes_no_sense_is_refused(change: Any, said: str) -> None:
    with pytest.raises(WireError, match=said):
        record.verify(retabled(record.encode(make_segment()), change))


def test_sizes_from_outside_never_become_allocations() -> None:
    data = record.encode(make_segment())
    huge = retabled(data, lambda table: [*table, ["observation.x", "<f8", [7, 2**36], "raw", 7 * 2**39]])
    tracemalloc.start()
    with pytest.raises(WireError):
        record.decode(huge)
    for lengths in ((2**32 - 1, 64), (64, 2**63), (2**20, 2**40)):
        struct.pack_into("<IQ", data, 20, *lengths)
        with pytest.raises(WireError):
            record.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_the_cache_of_tables_is_bounded() -> None:
    data = record.encode(make_segment())
    for index in range(layout.MAX_CACHED + 50):
        record.verify(retabled(data, lambda table, i=index: [*table, [f"observation.{i}", "|u1", [7, 0], "raw", 0]]))
    assert len(layout._cache) <= layout.MAX_CACHED


@pytest.mark.parametrize(
    ("dtype", "shape"), [("|u1", [7, 0, 2**39, 2**39]), ("<f4", [0, 2**39]), ("<f8", [7, 2**20, 0, 2**20])]
)
def test_an_empty_tensor_that_numpy_could_not_make_is_refused(dtype: str, shape: list[int]) -> None:
    data = retabled(record.encode(make_segment()), lambda table: [*table, ["observation.x", dtype, shape, "raw", 0]])
    with pytest.raises(WireError, match="impossible shape"):
        record.verify(data)


def test_chunks_follow_one_another() -> None:
    overlapping = make_segment(chunk_start=np.array([0, 1], np.int32), chunk_executed=np.array([4, 2], np.int32))
    with pytest.raises(WireError, match="chunk 1 starts at step 1, the one before it executes up to step 4"):
        record.verify(record.encode(overlapping, session=1, sequence=0))


def test_a_text_that_no_learner_could_read_is_not_recorded() -> None:
    with pytest.raises(WireError, match="at most 4096 characters"):
        record.encode(make_segment(task="x" * 5000), session=1, sequence=0)


def decode_or_wire_error(data: bytes | bytearray) -> None:
    with contextlib.suppress(WireError):
        record.peek(data)
    try:
        segment = record.decode(data)
    except WireError:
        return
    segment.validate()  # whatever passes is a segment


@given(st.binary(max_size=400))
def test_random_bytes_are_a_wire_error(data: bytes) -> None:
    for candidate in (
        data,
        record.MAGIC + data,
        with_good_checksum(bytearray(record.MAGIC + b"\0" * 8 + data + b"\0" * 16)),
    ):
        with pytest.raises(WireError):
            record.decode(candidate)


GOOD = bytes(record.encode(make_segment(), session=1, sequence=2))
HEADER_END = record.prefix(GOOD).body_start


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(-70, 70),
    st.booleans(),
)
def test_mutated_records_are_a_wire_error_or_a_valid_segment(
    changes: list[tuple[int, int]], longer: int, mend_checksum: bool
) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    data = data[:longer] if longer < 0 else data + bytes(longer)
    decode_or_wire_error(with_good_checksum(data) if mend_checksum else data)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, HEADER_END - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_headers_are_a_wire_error_or_a_valid_segment(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    decode_or_wire_error(with_good_checksum(data))


def test_any_flipped_bit_fails_the_checksum() -> None:
    for place in range(8, len(GOOD), 41):
        data = bytearray(GOOD)
        data[place] ^= 1 << place % 8
        with pytest.raises(WireError):
            record.verify(data)
