"""The optimiser against torch's own, and what a saved state restores."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from robotlearn.algorithms.optimizer import Optimizer


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))


def loss(module: nn.Module, step: int) -> torch.Tensor:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return (module(inputs) - 1).square().mean()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_steps_are_those_of_adamw(weight_decay: float) -> None:
    ours, theirs = network(0), network(0)
    optimizer = Optimizer("test", ours, 1e-2, 0.5, weight_decay)
    adam = torch.optim.AdamW(theirs.parameters(), lr=1e-2, eps=1e-5, weight_decay=weight_decay)
    for step in range(50):
        if step == 25:
            optimizer.lr = adam.param_groups[0]["lr"] = 3e-3
        norm = optimizer.step(loss(ours, step))
        adam.zero_grad()
        loss(theirs, step).backward()
        assert norm == pytest.approx(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item(), rel=1e-4)
        adam.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_where_they_are() -> None:
    """A second copy of them would be as large as the weights."""
    module, found = network(0), {}
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: found.update({name: (gradient, gradient.clone())}))
    norm = Optimizer("test", module, 1e-2, 0.1).step(loss(module, 0))
    assert norm > 0.1 and len(found) == 4
    for gradient, before in found.values():
        torch.testing.assert_close(gradient, before * (0.1 / norm))


class Turned(nn.Module):
    """A weight whose gradient lies in memory other than itself, two that have one in common, two that have parts of
    it, and one that has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
        self.one, self.two = nn.Parameter(torch.ones(8, 5)), nn.Parameter(torch.zeros(8, 5))
        self.first, self.rest = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(5, 5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T.contiguous().T + (self.one + self.two + torch.cat([self.first, self.rest]))


def test_gradients_of_any_layout_step_as_adamw_does() -> None:
    ours, theirs = Turned(), Turned()
    optimizer = Optimizer("test", ours, 1e-2, 0.5)
    adam = torch.optim.AdamW(theirs.parameters(), lr=1e-2, eps=1e-5, weight_decay=0.0)
    gradient = torch.autograd.grad(loss(ours, 0), ours.weight)[0]
    assert gradient.stride() != ours.weight.stride(), "this tests nothing"
    for step in range(20):
        optimizer.step(loss(ours, step))
        adam.zero_grad()
        loss(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adam.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_restored_one_goes_on_bit_for_bit() -> None:
    whole, first = network(0), network(0)
    one, half = Optimizer("test", whole, 1e-2, 0.5), Optimizer("test", first, 1e-2, 0.5)
    for step in range(20):
        one.step(loss(whole, step))
        if step < 10:
            half.step(loss(first, step))
    second = network(1)
    second.load_state_dict(first.state_dict())
    rest = Optimizer("test", second, 1e-2, 0.5)
    rest.load_state_dict(half.state_dict())
    for step in range(10, 20):
        rest.step(loss(second, step))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_step_does_not_load_the_compiler() -> None:
    program = (
        "import sys, torch; from torch import nn; from robotlearn.algorithms.optimizer import Optimizer; "
        "m = nn.Linear(2, 1); Optimizer('m', m, 1e-3, 1.0).step(m(torch.ones(1, 2)).sum()); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
