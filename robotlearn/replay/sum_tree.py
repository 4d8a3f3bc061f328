"""SumTree: draws in proportion to weights that change, each draw and change in O(log n); vectorised."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class SumTree:
    """Weights of items 0, 1, 2, ...; a complete binary tree in an array, whose inner nodes hold the sums below them.

    Sums are made anew from below at each change, never by differences, so they depend on the weights alone: a tree that
    is rebuilt draws the same.
    """

    def __init__(self) -> None:
        self._capacity, self._length = 1, 0
        self._tree: Floats = np.zeros(2)

    def __len__(self) -> int:
        return self._length

    @property
    def total(self) -> float:
        """Of all weights."""
        return float(self._tree[1])

    @property
    def weights(self) -> Floats:
        """(n,), a view."""
        return self._tree[self._capacity : self._capacity + self._length]

    def extend(self, weights: Floats) -> None:
        """Add items. Raises ValueError as `set` does."""
        _check(weights)
        first, self._length = self._length, self._length + len(weights)
        if self._length > self._capacity:
            before = self._tree[self._capacity : self._capacity + first]
            self._capacity = 1 << (self._length - 1).bit_length()
            self._tree = np.zeros(2 * self._capacity)
            self._tree[self._capacity : self._capacity + first] = before
            self._sum_up(np.arange(self._capacity, self._capacity + first))
        self.set(np.arange(first, self._length), weights)

    def set(self, items: Indices, weights: Floats) -> None:
        """Change weights; of an item that is there twice the last one counts.

        Raises ValueError for one that is negative or not finite; nothing is changed then.
        """
        _check(weights)
        self._tree[self._capacity + items] = weights
        self._sum_up(self._capacity + items)

    def find(self, at: Floats) -> Indices:
        """The item that each point of [0, total) falls on when the weights are laid end to end."""
        node, at = np.ones(len(at), np.int64), at.copy()
        while node[0] < self._capacity if len(node) else False:
            left = self._tree[2 * node]
            right = (at >= left) & (self._tree[2 * node + 1] > 0)  # rounding must not lead to where nothing is
            at -= np.where(right, left, 0.0)
            node = 2 * node + right
        return node - self._capacity

    def _sum_up(self, nodes: Indices) -> None:
        tree = self._tree
        while len(nodes) and nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            tree[nodes] = tree[2 * nodes] + tree[2 * nodes + 1]


def _check(weights: Floats) -> None:
    if not ((weights >= 0) & np.isfinite(weights)).all():
        raise ValueError("a weight is negative or not finite: nothing could be drawn in proportion to it")
