"""The plain network below the policies and critics of this package."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from policies.errors import PolicyConfigError

Activation = Literal["relu", "silu", "tanh"]

_activations: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation = "relu") -> nn.Sequential:
    """Linear layers with the activation between them, none at the end.

    The default is ReLU: on a CPU core a SiLU of a layer of 256 takes as long as the layer's matrix product.
    Raises PolicyConfigError for an empty layer or an unknown activation.
    """
    if any(width < 1 for width in hidden):
        raise PolicyConfigError(f"hidden is {tuple(hidden)}: a layer without units passes nothing on; use 1 or more.")
    if activation not in _activations:
        raise PolicyConfigError(f"activation is {activation!r}: expected one of {', '.join(_activations)}.")
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), _activations[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
