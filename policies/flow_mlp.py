"""FlowMLP: a flow policy whose velocity is a plain MLP; fast on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from policies.base import Contract
from policies.flow import Velocity
from policies.flow_noise import TIME_DIM
from policies.flow_policy import FlowPolicy
from policies.mlp import Activation, mlp
from policies.normalizer import Features


class FlowMLP(FlowPolicy):
    """v(z, t, s): an MLP of the encoded observation, the flattened chunk z and an embedding of t.

    Args: those of `FlowPolicy`, and
        hidden, activation: widths of the hidden layers and what stands between them.
    """

    kind = "flow_mlp"

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        activation: Activation = "relu",
        **options: Any,
    ) -> None:
        super().__init__(features, horizon, action_dim, **options)
        self.hidden, self.activation = tuple(hidden), activation
        self.network = mlp(
            self.observation.dim + horizon * action_dim + TIME_DIM, hidden, horizon * action_dim, activation
        )

    def field(self, encoded: Sequence[Tensor]) -> Velocity:
        flat = torch.cat(list(encoded), -1)

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            v: Tensor = self.network(self.flat(flat, z, t))
            return v.view(z.shape)

        return velocity

    def contract(self) -> Contract:
        return super().contract() | {"hidden": list(self.hidden), "activation": self.activation}
