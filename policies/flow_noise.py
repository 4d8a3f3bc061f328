"""Flow-Noise (piRL, arXiv:2510.25889): a small network gives the standard deviations of the denoising steps."""

import math

import torch
from torch import Tensor, nn

from policies.flow import Spread
from policies.mlp import mlp

TIME_DIM = 16
LONGEST_PERIOD, SHORTEST_PERIOD = 4.0, 0.1  # of the time embedding, in flow time


class FlowNoise(nn.Sequential):
    """From features, a point and its time to the std of each entry.

    Args:
        features: how many numbers tell what is observed.
        entries: of a chunk as the path has it.
        bounds: smallest and largest std, in normalised action units.
    """

    def __init__(self, features: int, entries: int, bounds: tuple[float, float]) -> None:
        super().__init__(*mlp(features + entries + TIME_DIM, (64,), entries))
        self.low, self.high = (math.log(bound) for bound in bounds)
        self.frequency: Tensor
        self.register_buffer("frequency", frequencies(), persistent=False)

    def spread(self, features: Tensor, real: Tensor | None) -> Spread:
        """For what is observed, features (B, F); its logarithm is held in the bounds by a sigmoid.

        real (B, D): 1 for the entries that count, 0 for padding, which says nothing; None: all count.
        """

        def spread(z: Tensor, t: Tensor) -> Tensor:
            points = z.shape[:2]
            z = z if real is None else z * real[:, None, None]
            time = sines(t, self.frequency).expand(*points, -1)
            given = torch.cat([features[:, None].expand(*points, -1), z.flatten(2), time], -1)
            share: Tensor = self(given).sigmoid()
            return (self.low + (self.high - self.low) * share).exp().view(z.shape)

        return spread


def frequencies() -> Tensor:
    """(TIME_DIM / 2,) angular frequencies of the time embedding."""
    return 2 * math.pi / torch.logspace(math.log10(LONGEST_PERIOD), math.log10(SHORTEST_PERIOD), TIME_DIM // 2)


def sines(t: Tensor, frequency: Tensor) -> Tensor:
    """Sines and cosines of t (...), (..., TIME_DIM)."""
    angle = t[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
