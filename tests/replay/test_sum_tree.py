"""The sum tree: draws in proportion, and depends on its weights alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from robotlearn.replay.sum_tree import SumTree

WEIGHTS = some.lists(some.floats(0, 1e6), max_size=20)


def tree_of(weights: object) -> SumTree:
    tree = SumTree()
    tree.extend(np.array(weights, np.float64))
    return tree


def assert_alike(one: SumTree, other: SumTree) -> None:
    assert len(one) == len(other) and one.total.hex() == other.total.hex()
    assert one._tree.tobytes() == other._tree.tobytes(), "every sum, bit by bit"


def test_each_is_drawn_in_proportion_to_its_weight() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(37) ** 3
    weights[[0, 5, 36]] = 0
    tree, draws = tree_of(weights), 200_000
    counts = np.bincount(tree.find(rng.random(draws) * tree.total), minlength=37)
    share = weights > 0
    assert not counts[~share].any()
    right = draws * weights[share] / weights.sum()
    chi_square = ((counts[share] - right) ** 2 / right).sum()
    assert chi_square < 33 + 4 * np.sqrt(2 * 33)  # 33 degrees of freedom


def test_a_point_falls_on_the_item_whose_stretch_it_is_in() -> None:
    weights = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 4.0, 0.0])
    at = np.array([0.0, 0.999, 1.0, 2.999, 3.0, 3.499, 3.5, 7.499])
    assert tree_of(weights).find(at).tolist() == [0, 0, 2, 2, 3, 3, 5, 5]
    assert tree_of(weights).find(np.zeros(0)).tolist() == []


@given(weights=some.lists(some.sampled_from([0.0, 1e-300, 0.1, 1.0, 1e300]), min_size=1, max_size=20))
def test_what_weighs_nothing_is_never_found_even_at_the_ends(weights: list[float]) -> None:
    tree = tree_of(weights)
    if tree.total:
        ends = np.concatenate([[0.0], np.cumsum(weights)])
        at = np.concatenate([ends, np.nextafter(ends, np.inf), np.nextafter(ends, 0), [tree.total, 2 * tree.total]])
        found = tree.find(at)
        assert (found < len(weights)).all() and (np.array(weights)[found] > 0).all()


@given(parts=some.lists(WEIGHTS, max_size=6), changes=some.lists(some.tuples(some.integers(0, 99), some.floats(0, 9))))
def test_a_tree_that_grew_and_changed_is_the_one_built_at_once(
    parts: list[list[float]], changes: list[tuple[int, float]]
) -> None:
    tree, now = SumTree(), np.zeros(0)
    for part in parts:
        tree.extend(np.array(part, np.float64))
        now = np.concatenate([now, part])
        for item, weight in changes if len(now) else ():
            tree.set(np.array([item % len(now)]), np.array([weight]))
            now[item % len(now)] = weight
    assert tree.weights.tolist() == now.tolist()
    assert_alike(tree, tree_of(now))


def test_of_an_item_that_is_set_twice_the_last_weight_counts() -> None:
    tree = tree_of(np.ones(5))
    tree.set(np.array([3, 1, 3]), np.array([7.0, 2.0, 9.0]))
    assert_alike(tree, tree_of([1, 2, 1, 9, 1]))
    tree.set(np.zeros(0, np.int64), np.zeros(0))
    assert tree.total == 14


@pytest.mark.parametrize("bad", (-1.0, np.nan, np.inf, -np.inf))
def test_a_weight_that_cannot_be_drawn_by_is_refused_and_changes_nothing(bad: float) -> None:
    tree = tree_of(np.ones(3))
    with pytest.raises(ValueError, match="negative or not finite"):
        tree.set(np.array([0, 1]), np.array([2.0, bad]))
    with pytest.raises(ValueError, match="negative or not finite"):
        tree.extend(np.array([2.0, bad]))
    assert_alike(tree, tree_of(np.ones(3)))
