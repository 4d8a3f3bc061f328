"""Sampling: how often each step is drawn, by the parts of a batch, their groups and their ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robotlearn.config.replay import PartConfig
from robotlearn.replay.members import Newest, Prioritized, Uniform
from robotlearn.replay.sampling import DEMONSTRATION, FORMER, ONLINE, Sampling, Steps, _shares

DRAWS = 100_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_expected(places: NDArray[np.int64], chances: NDArray[np.floating]) -> bool:
    """Whether places were drawn with these chances, by the chi-square of their counts."""
    counts = np.bincount(places, minlength=len(chances))
    right = len(places) * np.asarray(chances) / np.sum(chances)
    if len(counts) != len(right) or counts[right == 0].any():
        return False
    some = right > 0
    freedom = int(some.sum()) - 1
    return bool(((counts[some] - right[some]) ** 2 / right[some]).sum() < freedom + 5 * np.sqrt(2 * freedom))


def steps(
    rows: Sequence[int], origin: int = ONLINE, success: bool | None = None, robot: str = "panda", task: str = "reach",
    intervened: Sequence[int] = (),
) -> Steps:  # fmt: skip
    return Steps(np.array(rows, np.int64), np.isin(rows, intervened), origin, robot, task, success)


def part(**settings: Any) -> PartConfig:
    return PartConfig(**settings)


# ---- ways of drawing


def test_uniform_draws_each_as_often() -> None:
    members = Uniform()
    members.add(np.arange(100, 113))
    assert as_expected(members.draw(DRAWS, rng()), np.ones(13))
    assert members.rows.tolist() == list(range(100, 113))


def test_newest_draws_the_later_the_more_often() -> None:
    members = Newest()
    for rows in np.split(np.arange(100, 120), [3, 4, 17]):
        members.add(rows)
    places = members.draw(DRAWS, rng())
    assert as_expected(places, 2 * np.arange(20) + 1)


def test_prioritized_draws_by_error_and_makes_up_for_it() -> None:
    members = Prioritized(0.6)
    members.add(np.arange(20))
    errors = rng(1).random(10) * 5
    members.prioritize(np.arange(5, 15), errors)
    weights = np.ones(20)
    weights[5:15] = (errors + 1e-6) ** 0.6
    largest = weights.max()
    members.add(np.arange(20, 23))
    weights = np.concatenate([weights, np.full(3, largest)])
    places = np.concatenate([members.draw(250, rng(seed)) for seed in range(400)])
    assert as_expected(places, weights)
    np.testing.assert_allclose(members.chances(places[:50]), weights[places[:50]] / weights.mean(), rtol=1e-12)


def test_prioritized_spreads_each_batch_evenly() -> None:
    members = Prioritized(1.0)
    members.add(np.arange(64))
    assert sorted(members.draw(64, rng())) == list(range(64)), "one from each stretch of the same weight"


def test_an_error_that_is_not_finite_says_nothing() -> None:
    members = Prioritized(0.6)
    members.add(np.arange(4))
    members.prioritize(np.arange(4), np.array([np.nan, 3.0, np.inf, -np.inf]))
    members.add(np.array([4]))
    most = (3.0 + 1e-6) ** 0.6
    np.testing.assert_allclose(members.state()["weights"], [1, most, 1, 1, most])


@pytest.mark.parametrize("how", ("uniform", "newest", "prioritized"))
def test_those_that_are_kept_are_drawn_as_if_there_had_been_no_others(how: str) -> None:
    def filled(rows: Sequence[int]) -> Sampling:
        made = Sampling([part(how=how)])
        made.add(steps(rows))
        return made

    all_of_them, kept = filled(range(5, 25)), filled([row for row in range(5, 25) if row % 3 != 1])
    for each in (all_of_them, kept):
        members = next(iter(each.parts[0]._groups.values()))
        members.prioritize(np.arange(len(each)), members.rows.astype(float))
    all_of_them.keep(np.arange(25) % 3 != 1)
    one, other = all_of_them.draw(500, rng()), kept.draw(500, rng())
    assert np.array_equal(one.rows, other.rows) and np.array_equal(one.weight, other.weight)
    all_of_them.add(steps([25, 26]))
    kept.add(steps([25, 26]))
    assert np.array_equal(all_of_them.draw(500, rng()).rows, kept.draw(500, rng()).rows)


# ---- parts of a batch


@pytest.mark.parametrize(
    ("shares", "count", "right"),
    (
        ([1.0], 7, [7]),
        ([0.5, 0.5], 256, [128, 128]),
        ([0.5, 0.5], 7, [4, 3]),
        ([0.6, 0.3, 0.1], 10, [6, 3, 1]),
        ([0.34, 0.33, 0.33], 2, [1, 1, 0]),
        ([0.7, 0.1, 0.1, 0.1], 256, [179, 26, 26, 25]),
        ([0.3, 0.2], 10, [6, 4]),
    ),
)
def test_shares_are_whole_numbers_that_add_up(shares: list[float], count: int, right: list[int]) -> None:
    assert _shares(shares, count) == right


@pytest.mark.parametrize("seed", range(5))
def test_no_share_is_off_by_one_or_more(seed: int) -> None:
    draw = rng(seed)
    for _ in range(200):
        shares, count = draw.random(draw.integers(1, 6)) + 1e-3, int(draw.integers(1, 1000))
        whole = np.array(_shares(list(shares), count))
        assert whole.sum() == count and (abs(whole - shares / shares.sum() * count) < 1).all()


def test_a_batch_is_made_of_its_parts_in_order() -> None:
    sampling = Sampling([part(source="online", share=0.7), part(source="demonstrations", share=0.3)])
    sampling.add(steps(range(10)))
    assert set(sampling.draw(10, rng()).rows) <= set(range(10)), "a part of which nothing is known leaves its share"
    sampling.add(steps(range(10, 20), DEMONSTRATION))
    rows = sampling.draw(10, rng()).rows
    assert (rows[:7] < 10).all() and (rows[7:] >= 10).all()
    assert len(sampling) == 20


def test_with_nothing_known_there_is_nothing_to_draw() -> None:
    sampling = Sampling([part(source="demonstrations")])
    sampling.add(steps(range(3)))
    with pytest.raises(ValueError, match="nothing to draw"):
        sampling.draw(4, rng())


ALL = {
    "online": steps(range(0, 4), intervened=[1, 2]),
    "demonstration": steps(range(4, 8), DEMONSTRATION, intervened=[4, 5]),
    "former": steps(range(8, 12), FORMER, intervened=[11]),
    "other robot": steps(range(12, 16), robot="so101"),
    "other task": steps(range(16, 20), task="push the puck"),
}


@pytest.mark.parametrize(
    ("settings", "right"),
    (
        ({}, set(range(20))),
        ({"source": "online"}, {*range(4), *range(12, 20)}),
        ({"source": "demonstrations"}, set(range(4, 8))),
        ({"source": "interventions"}, {1, 2, 11}),
        ({"source": "successes"}, {*range(4), *range(16, 20)}),
        ({"source": "failures"}, set(range(12, 16))),
        ({"robot": "so101"}, set(range(12, 16))),
        ({"task": "the puck"}, set(range(16, 20))),
        ({"source": "online", "robot": "panda", "task": "reach"}, set(range(4))),
        ({"balance": ["success"]}, set(range(20))),
    ),
    ids=str,
)
def test_a_part_takes_what_belongs_to_it_once(settings: dict[str, Any], right: set[int]) -> None:
    sampling = Sampling([part(**settings)])
    for name, some in ALL.items():
        sampling.add(some)
        sampling.add(some._replace(success=name != "other robot"))
    assert len(sampling) == len(right)
    assert set(sampling.draw(2000, rng()).rows) == right


def test_groups_of_a_balanced_part_are_drawn_from_equally_often() -> None:
    sampling = Sampling([part(balance=["robot", "success"])])
    sizes = {("panda", True): 1, ("panda", False): 50, ("so101", True): 7}
    where: dict[tuple[str, bool], set[int]] = {}
    for start, ((robot, success), size) in zip((0, 1, 51), sizes.items(), strict=True):
        rows = list(range(start, start + size))
        sampling.add(steps(rows, robot=robot))
        sampling.add(steps(rows, robot=robot, success=success))
        where[robot, success] = set(rows)
    counts = np.zeros(3)
    for seed in range(300):
        rows = sampling.draw(10, rng(seed)).rows
        each = [sum(int(row) in there for row in rows) for there in where.values()]
        assert sorted(each) == [3, 3, 4]
        counts += each
    assert as_expected(np.repeat(np.arange(3), (counts - 900).astype(int)), np.ones(3)), "by turns, who gets one more"
    assert sampling.draw(2, rng()).rows.shape == (2,)


def test_what_is_drawn_more_often_weighs_less() -> None:
    sampling = Sampling([part(share=0.5, how="prioritized"), part(share=0.5)], exponent=1.0, correction=0.5)
    sampling.add(steps(range(4)))
    draw = sampling.draw(8, rng())
    draw.prioritize(np.array([1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0]))
    members = next(iter(sampling.parts[0]._groups.values()))
    weights = members.state()["weights"]
    draw = sampling.draw(8, rng(1))
    chances = np.concatenate([weights[draw.rows[:4]] / weights.mean(), np.ones(4)])
    np.testing.assert_allclose(draw.weight, chances**-0.5 / (chances**-0.5).max(), rtol=1e-6)
    assert draw.weight.dtype == np.float32 and draw.weight.max() == 1


def test_errors_reach_the_steps_that_they_are_of() -> None:
    sampling = Sampling([part(source="demonstrations", share=0.5), part(share=0.5, how="prioritized")], exponent=1.0)
    sampling.add(steps(range(8)))
    sampling.add(steps(range(8, 16), DEMONSTRATION))
    draw = sampling.draw(16, rng())
    draw.prioritize(draw.rows + 1.0)
    members = next(iter(sampling.parts[1]._groups.values()))
    right = np.ones(16)
    right[draw.rows[8:]] = draw.rows[8:] + 1 + 1e-6
    np.testing.assert_allclose(members.state()["weights"], right)


# ---- resumed


MIXED = [
    part(share=0.4, how="prioritized", balance=["robot"]),
    part(share=0.3, how="newest"),
    part(source="successes", share=0.3, how="prioritized"),
]


def test_a_resumed_run_draws_the_same() -> None:
    def fill(sampling: Sampling, which: slice) -> None:
        told = [
            steps(range(start, end), robot=("panda", "so101")[start % 2], success=success)
            for success in (None, True)
            for start, end in pairwise(range(0, 60, 3))
        ]
        for each in told[which]:
            sampling.add(each)

    def draws(sampling: Sampling, seed: int) -> list[Any]:
        found = []
        for n in range(20):
            draw = sampling.draw(32, rng(seed + n))
            draw.prioritize(rng(1000 + n).random(32) * 4)
            found.append((draw.rows.tobytes(), draw.weight.tobytes()))
        return found

    one = Sampling(MIXED)
    fill(one, slice(30))
    draws(one, 0)
    state = {name: value.copy() for name, value in one.state().items()}
    other = Sampling(MIXED)
    fill(other, slice(30))
    other.load(state)
    for each in (one, other):
        fill(each, slice(30, None))
    assert draws(one, 100) == draws(other, 100)
    groups = ("0.('panda',)", "0.('so101',)", "2.()")
    assert state.keys() == {f"{group}.{name}" for group in groups for name in ("weights", "largest")}


def test_what_is_known_of_groups_goes_to_the_same_ones_whichever_came_first() -> None:
    """Of a resumed run, what came first may be gone."""
    parts = [part(how="prioritized", balance=("success",))]
    one, other = Sampling(parts), Sampling(parts)
    won, lost = steps(range(0, 5), success=True), steps(range(5, 10), success=False)
    for sampling, order in ((one, (won, lost)), (other, (lost, won))):
        for some in order:
            sampling.add(some)
    for turn in range(3):
        draw = one.draw(6, rng(turn))
        draw.prioritize(draw.rows.astype(float))
    other.load(one.state())
    assert one.draw(64, rng(9)).rows.tolist() == other.draw(64, rng(9)).rows.tolist()
