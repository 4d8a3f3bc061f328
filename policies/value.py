"""ValueNet: the critic, a small network of its own on the policy's observation features."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from policies.base import Observations
from policies.encoder import ObservationEncoder
from policies.images import ImageEncoderKind
from policies.mlp import mlp
from policies.normalizer import Features, Statistics


class ValueNet(nn.Module):
    """V(s): observations {key: (B, ...)} -> (B,). 0 everywhere at the start, so that first targets are plain returns.

    Has its own copy of the observation statistics: with the policy's weights replaced it must not shift.
    """

    def __init__(
        self,
        features: Features,
        hidden: Sequence[int] = (256, 256),
        image_encoder: ImageEncoderKind = "cnn",
        std_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        self.observation = ObservationEncoder(features, image_encoder, std_floor)
        self.network = mlp(self.observation.dim, hidden, 1)
        head = self.network[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        """Fix the normalisation of the features. Raises StatisticsError."""
        self.observation.set(stats)

    def forward(self, obs: Observations) -> Tensor:
        values: Tensor = self.network(self.observation.vector(obs))
        return values.squeeze(-1)
