"""Critics: an ensemble of Q-networks over observations and action chunks, evaluated in one pass."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from policies.base import Observations
from policies.encoder import ObservationEncoder
from policies.errors import PolicyConfigError
from policies.images import ImageEncoderKind
from policies.normalizer import Features, Statistics


class Critics(nn.Module):
    """Q_e(s, chunk), e = 1 ... E: networks of equal shape, their weights stacked, so that one product serves all.

    Each is an MLP with ReLU on the encoded observation and the normalised chunk, with layer norm before each ReLU
    where wanted (arXiv:2302.02948, section 4.2). Images go through one encoder that all share. The chunk is all that
    they get of the actions: which of its steps there were before an episode's end can be known of stored chunks alone,
    never of those that the policy proposes, so a Q is the mean over what may come; steps after the end repeat the last
    action.

    Has its own copy of the observation statistics: with the policy's weights replaced it must not shift.

    Args:
        features: {key: shape}, see `policies.encoder`.
        horizon, action_dim: H and D of the chunks.
        count: E.
        hidden: widths of the hidden layers; layer_norm: whether they are normalised.
        image_encoder, std_floor: as of `ChunkPolicy`.

    Raises:
        PolicyConfigError: sizes that make no sense.
    """

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        count: int = 2,
        hidden: Sequence[int] = (256, 256),
        layer_norm: bool = True,
        image_encoder: ImageEncoderKind = "cnn",
        std_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        if count < 1 or not hidden or any(width < 1 for width in hidden):
            raise PolicyConfigError(f"{count} critics with hidden layers {tuple(hidden)}: use 1 or more of each.")
        self.count = count
        self.observation = ObservationEncoder(features, image_encoder, std_floor)
        widths = [self.observation.dim + horizon * action_dim, *hidden, 1]
        self.layers = nn.ModuleList(
            _Layer(count, inputs, outputs, norm=layer_norm and index < len(hidden))
            for index, (inputs, outputs) in enumerate(pairwise(widths))
        )

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        """Fix the normalisation of the features. Raises StatisticsError."""
        self.observation.set(stats)

    def encode(self, obs: Observations) -> Tensor:
        """Observations {key: (B, ...)} -> (B, F), the same for all critics."""
        return self.observation.vector(obs)

    def forward(self, encoded: Tensor, chunk: Tensor, which: Tensor | None = None) -> Tensor:
        """Q of each critic, or of those with the indices `which` alone, (E, B).

        Takes what `encode` gives, (B, F), and normalised chunks (B, H, D).
        """
        count = self.count if which is None else len(which)
        x = torch.cat([encoded, chunk.flatten(1)], -1).expand(count, -1, -1)
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else torch.relu_(x), which)
        return x.squeeze(-1)


class _Layer(nn.Module):
    """E linear layers side by side, (E, B, inputs) -> (E, B, outputs), then layer norm where wanted.

    The norm has no gain and no shift of its own: the weights after it and the bias before it can do the same.
    """

    def __init__(self, count: int, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        limit = 1 / math.sqrt(inputs)  # as nn.Linear starts
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-limit, limit))
        self.norm = norm

    def forward(self, x: Tensor, which: Tensor | None) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if which is not None:
            weight, bias = weight.index_select(0, which), bias.index_select(0, which)
        y = torch.baddbmm(bias, x, weight)
        return torch.nn.functional.layer_norm(y, y.shape[-1:]) if self.norm else y
