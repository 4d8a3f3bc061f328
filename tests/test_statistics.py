"""Wilson's interval, and Newcombe's of differences, against published and computed values."""

from __future__ import annotations

import pytest

from robotlearn.statistics import difference_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3; the last from the formula's closed form at 0.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
     (29, 29, 0.8830, 1.0)],
)  # fmt: skip
def test_known_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("trials", range(1, 300))
def test_none_and_all_end_exactly_at_0_and_1(trials: int) -> None:
    low, high = wilson_interval(trials, trials)
    assert 0 < low < high == 1.0
    assert wilson_interval(0, trials) == (0.0, pytest.approx(1 - low))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_what_is_no_rate_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="give no rate"):
        wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), 873 to 890, table II, method 10.
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_known_differences(one: tuple[int, int], other: tuple[int, int], low: float, high: float) -> None:
    assert difference_interval(*one, *other) == pytest.approx((low, high), abs=6e-5)
    assert difference_interval(*other, *one) == pytest.approx((-high, -low), abs=6e-5)
