"""Weights on a GPU, copied to the host from one point of training while it goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from robotlearn.learner.host_copies import HostCopies

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def weights() -> Iterator[dict[str, torch.Tensor]]:
    yield {name: torch.zeros(64 << 20, device="cuda", dtype=torch.bfloat16) for name in ("a", "b")}
    torch.cuda.empty_cache()


def test_the_copies_are_of_one_point_though_training_goes_on(weights: dict[str, torch.Tensor]) -> None:
    copies = HostCopies(torch.device("cuda"))
    for step in range(1, 20):
        for tensor in weights.values():
            tensor.fill_(step)
        here = copies.take(weights, {})
        busy = weights["a"][:4096].float().outer(weights["b"][:4096].float())  # it goes on reading
        copies.settle()
        for tensor in weights.values():
            tensor.fill_(-step)  # the next step, launched at once
        copies.wait()
        assert all((copy == step).all() for copy in here.values())
        assert busy[0, 0] == step * step
        assert all(copy.is_pinned() for copy in here.values())


def test_what_does_not_train_is_copied_once(weights: dict[str, torch.Tensor]) -> None:
    copies = HostCopies(torch.device("cuda"))
    weights["a"].fill_(1)
    copies.take(weights, {"a": 1})
    copies.settle()
    weights["a"].fill_(2)  # not told: it counts as what it was
    here = copies.take(weights, {"a": 1})
    copies.wait()
    assert (here["a"] == 1).all()
    here = copies.take(weights, {"a": 2})
    copies.wait()
    assert (here["a"] == 2).all()
