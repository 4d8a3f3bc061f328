"""Local messages: what was sent comes back, and nothing else gets through."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotlearn.edge import local
from robotlearn.errors import WireError


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool", "int32", "int64"])
def test_a_tensor_comes_back_as_it_was(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    line = local.ChunkRequest("arm", 1, "reach", local.tensors({"a": array[:, ::2], "empty": array[:0]}))
    back = local.arrays(local.decode(local.encode(line)).observations)
    np.testing.assert_array_equal(back["a"], array[:, ::2])
    assert back["a"].dtype == array.dtype and back["empty"].shape == (0, 3, 4)


@pytest.mark.parametrize("shape", [(3,), (-1, -2), (2**32, 2**32), (2**40, 2**40), (0, 2**62), (2,) * 70], ids=str)
def test_a_shape_that_does_not_fit_its_bytes_is_a_wire_error(shape: tuple[int, ...]) -> None:
    for data in (b"12345678", b""):
        with pytest.raises(WireError, match="tensor of shape"):
            local.Tensor("float32", shape, data).array()


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_a_wire_error(frame: bytes) -> None:
    with contextlib.suppress(WireError):
        local.decode(frame)


def test_an_unknown_field_is_refused() -> None:
    frame = local.encode(local.Start(3, 7)).replace(b"episode", b"episide")
    with pytest.raises(WireError, match="episide"):
        local.decode(frame)
