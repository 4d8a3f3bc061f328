"""Deltas between chunks: what they are made of comes back to the bit, and malformed ones do no harm."""

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotlearn.errors import WireError
from robotlearn.wire import delta
from robotlearn.wire.chunks import BF16, from_bf16, to_bf16

WIDTHS = st.sampled_from([1, 2, 4, 8])


def applied(old: np.ndarray, made: bytes) -> np.ndarray:
    out = np.full(old.nbytes, 0xA5, np.uint8)
    delta.apply(old, made, out)
    return out


def chunks(seed: int, count: int, width: int, share: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Old and new bytes of `count` numbers, of which a share moves by at most `step`."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, count * width, np.uint8)
    new = old.copy()
    moved = rng.random(count) < share
    new.view(f"<u{width}")[moved] += rng.integers(0, step, int(moved.sum()), np.uint64).astype(f"<u{width}")
    return old, new


def bf16(numbers: np.ndarray) -> np.ndarray:
    rounded = np.zeros(numbers.shape, BF16)
    to_bf16(numbers, rounded)
    return rounded


def after_one_step(lr: float, count: int = 1 << 18) -> tuple[np.ndarray, np.ndarray]:
    """Weights as large networks have them, and after AdamW's first step; their bytes in bfloat16."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(count).astype(np.float32) * np.float32(0.02)
    step = np.where(rng.random(count) < 0.5, -lr, lr).astype(np.float32)
    return bf16(weights).view(np.uint8), bf16(weights + step).view(np.uint8)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(0, 3000),
    WIDTHS,
    st.sampled_from([0, 0.001, 0.02, 0.1, 0.3, 1]),
    st.sampled_from([2, 100, 250, 2**8, 2**20, 2**60]),
)
def test_what_has_changed_comes_back_to_the_bit(seed: int, count: int, width: int, share: float, step: int) -> None:
    old, new = chunks(seed, count, width, share, step)
    made = delta.encode(old, new, width)
    if made is not None:
        assert len(made) <= delta.WORTH * len(old)
        assert np.array_equal(applied(old, made), new)


@pytest.mark.parametrize(("lr", "share"), [(1e-6, 0.02), (1e-5, 0.09)])
def test_bfloat16_after_one_step_takes_a_small_share(lr: float, share: float) -> None:
    old, new = after_one_step(lr)
    made = delta.encode(old, new, 2)
    assert made is not None and len(made) < share * len(new)
    assert np.array_equal(applied(old, made), new)


def test_where_all_is_noise_there_is_no_delta() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.standard_normal((2, 50_000)).astype(np.float32)
    assert delta.encode(old, new, 4) is None


def test_gaps_of_any_width_are_told() -> None:
    old = np.full(1 << 20, 7, np.uint16)
    new = old.copy()
    at = [0, 1, 255, 256, 511, 512, 1000, 400_000, len(old) - 1]
    new[at] += 1
    made = delta.encode(old, new, 2)
    assert made is not None and np.array_equal(applied(old, made).view(np.uint16), new)


def try_to_apply(old: np.ndarray, made: bytes) -> None:
    fence = np.full(old.nbytes + 128, 0x5A, np.uint8)
    with contextlib.suppress(WireError):
        delta.apply(old, made, fence[64:-64])
    assert (fence[:64] == 0x5A).all() and (fence[-64:] == 0x5A).all()


@settings(max_examples=300, deadline=None)
@given(
    WIDTHS,
    st.sampled_from([0.02, 0.3]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(-40, 40),
)
def test_a_damaged_delta_is_a_wire_error_or_other_numbers(
    width: int, share: float, changes: list[tuple[int, int]], longer: int
) -> None:
    old, new = chunks(3, 2000, width, share, 4)
    made = delta.encode(old, new, width)
    assert made is not None
    data = bytearray(made)
    for place, value in changes:
        data[place % len(data)] = value
    try_to_apply(old, bytes(data[:longer] if longer < 0 else data + bytes(longer)))


def forged(width: int, by_gaps: int, threshold: int, counts: tuple[int, int, int], streams: list[bytes]) -> bytes:
    """A delta that says what it likes, in streams that are deflated as they should be."""
    packed = [zlib.compressobj(9, zlib.DEFLATED, -15) for _ in streams]
    deflated = [one.compress(stream) + one.flush() for one, stream in zip(packed, streams, strict=True)]
    lengths = np.array([len(stream) for stream in deflated], "<u4").tobytes()
    return delta._HEADER.pack(width, by_gaps, threshold, *counts) + lengths + b"".join(deflated)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_forged_delta_writes_nowhere_else(data: st.DataObject) -> None:
    width = data.draw(WIDTHS)
    count = st.integers(0, 70) | st.integers(0, 2**32 - 1)
    streams = data.draw(st.lists(st.binary(max_size=80), min_size=3 + 2 * width, max_size=3 + 2 * width))
    counts = data.draw(st.tuples(count, count, count))
    made = forged(width, data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2**64 - 1)), counts, streams)
    try_to_apply(np.arange(64 * width, dtype=np.uint8), made)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("beyond the chunk", forged(1, 1, 0, (1, 0, 0), [b"\x40", b"", b"", b"\1", b""])),
        ("far beyond", forged(1, 1, 0, (1, 1, 0), [b"\xff", b"\xff\xff\xff\xff", b"", b"\1", b""])),
        ("a bomb", forged(1, 1, 0, (1, 0, 0), [bytes(1 << 28), b"", b"", b"\1", b""])),
        ("more changes than numbers", forged(1, 1, 0, (65, 0, 0), [bytes(65), b"", b"", bytes(65), b""])),
        ("more bits than said", forged(1, 0, 0, (1, 0, 0), [b"\xff" * 8, b"", b"", b"\1", b""])),
        ("no width", forged(3, 1, 0, (0, 0, 0), [b""] * 9)),
        ("not even a header", b"\1\1"),
        ("wide gaps that are none", forged(1, 1, 0, (1, 1, 0), [b"\1", b"\1\0\0\0", b"", b"\1", b""])),
    ],
)
def test_what_can_not_be_is_a_wire_error(name: str, made: bytes) -> None:
    with pytest.raises(WireError):
        applied(np.zeros(64, np.uint8), made)


@pytest.mark.parametrize("rest", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_rounding_to_bfloat16_is_torchs(rest: int) -> None:
    """Of every number that there is in bfloat16, exactly or nearly, infinities and NaNs too; 0x8000 are the ties."""
    import torch

    source = (np.arange(1 << 16, dtype=np.uint32) << 16 | np.uint32(rest)).view(np.float32)
    ours, theirs = bf16(source), torch.from_numpy(source).to(torch.bfloat16)
    back = np.zeros(source.shape, np.float32)
    from_bf16(ours, back)
    assert np.array_equal(back, theirs.float().numpy(), equal_nan=True)
    assert np.array_equal(bf16(back), ours), "and what is rounded stays as it is"
