from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal.document import parse, write
from hal.errors import DocumentError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("-.5", -0.5),
        ("inf", math.inf),
        ("-.inf", -math.inf),
        ("012", 12),
        ("+5", 5),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'3'", "3"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("[1, 2e0]", [1, 2.0]),
    ],
)
def test_plain_values_mean_what_they_look_like(text: str, value: object) -> None:
    parsed = parse(text, "here").data
    assert parsed == value and type(parsed) is type(value)


def test_lines_are_known_and_merges_may_be_overridden() -> None:
    document = parse("a: &a {b: 1, c: 2}\nd:\n  <<: *a\n  b: 3\ne:\n  - 4\n  - 5\n", "here")
    assert document.data == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": [4, 5]}
    assert document.lines["d", "b"] == 4 and document.lines["e", 1] == 7


@pytest.mark.parametrize("text", ["a: [", "a: 1\n---\nb: 2\n", "a:\n\t- b", "\x00", "a: !!python/name:os.system"])
def test_what_is_not_one_plain_document_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DocumentError, match=r"^here[:0-9]*: not YAML: [^\n]+$"):
        parse(text, "here")


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_PLAIN)
def test_what_is_written_reads_back_the_same(data: object) -> None:
    assert parse(write(data), "here").data == data
