"""ChunkPolicy: what every policy of this package that is trained from nothing shares, whatever draws its chunks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from policies.base import Contract, Observations, Policy
from policies.encoder import ObservationEncoder
from policies.errors import PolicyConfigError, StatisticsError
from policies.images import ImageEncoderKind
from policies.normalizer import Features, Normalizer, Statistics


class ChunkPolicy(Policy):
    """Encoded observations, normalised actions, and which entries of an action are real for which embodiment.

    Args:
        features: {key: shape}, see `policies.encoder`.
        horizon, action_dim: H and D.
        denoising_steps: N, steps of a chunk's path.
        used_dims: per embodiment, which of the D entries its actions use; None: one embodiment that uses all.
        image_encoder: see `policies.images`.
        std_floor: smallest std of the statistics, in the data's units.

    Raises:
        PolicyConfigError: sizes that make no sense.
    """

    kind: str

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        *,
        denoising_steps: int = 1,
        used_dims: Sequence[Sequence[int]] | None = None,
        image_encoder: ImageEncoderKind = "cnn",
        std_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, size in (("horizon", horizon), ("action_dim", action_dim)):
            if size < 1:
                raise PolicyConfigError(f"{name} is {size}: a chunk would be empty; use 1 or more.")
        self.horizon, self.action_dim, self.used_dims = horizon, action_dim, used_dims
        self.denoising_steps = denoising_steps
        self.observation = ObservationEncoder(features, image_encoder, std_floor)
        self.features, self.image_encoder = dict(self.observation.features), image_encoder
        self.action = Normalizer(action_dim, std_floor, self.observation.groups)
        self.real: Tensor | None
        self.register_buffer("real", _real_dims(used_dims, self.observation.groups, action_dim), persistent=False)

    def real_of(self, obs: Observations) -> Tensor | None:
        """(B, D), 1 where an entry of the action is real for the sample's embodiment; None: all are."""
        if self.real is None:
            return None
        group = self.observation.embodiment(obs)
        return self.real.expand(len(next(iter(obs.values()))), -1) if group is None else self.real[group]

    def actions_of(self, obs: Observations, chunk: Tensor) -> Tensor:
        """Normalised chunks (B, H, D) in the units of the robots; 0 where an entry is not real."""
        actions, real = self.action.inverse(chunk, self.observation.embodiment(obs)), self.real_of(obs)
        return actions if real is None else actions * real[:, None]

    def mean_error(self, obs: Observations, error: Tensor, valid: Tensor) -> Tensor:
        """The mean of error (B, H, D) over real entries of valid (B, H) steps."""
        real = self.real_of(obs)
        per_step = error.mean(-1) if real is None else (error * real[:, None]).sum(-1) / real.sum(-1, keepdim=True)
        return torch.where(valid, per_step, 0.0).sum() / valid.sum().clamp(min=1)

    def contract(self) -> Contract:
        shapes: Contract = {f"feature:{key}": list(shape) for key, shape in self.features.items()}
        used: Contract = {f"used_dims:{i}": list(dims) for i, dims in enumerate(self.used_dims or ())}
        sizes: Contract = {"kind": self.kind, "horizon": self.horizon, "action_dim": self.action_dim}
        return shapes | used | sizes | {"image_encoder": self.image_encoder}

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        if "action" not in stats:
            raise StatisticsError(f"no statistics of 'action'; there are {', '.join(sorted(stats)) or 'none'}.")
        self.observation.set(stats)
        self.action.set(stats["action"].mean, stats["action"].std)

    def statistics(self) -> dict[str, Statistics]:
        return self.observation.statistics() | {"action": self.action.statistics()}


def _real_dims(used_dims: Sequence[Sequence[int]] | None, groups: int, action_dim: int) -> Tensor | None:
    """(groups, action_dim), 1 where an embodiment uses an entry; None when all use all."""
    if used_dims is None:
        if groups > 1:
            raise PolicyConfigError(f"{groups} embodiments, and nothing says which action dims each of them uses.")
        return None
    if len(used_dims) != groups:
        raise PolicyConfigError(f"used_dims has {len(used_dims)} lists for {groups} embodiments.")
    real = torch.zeros(groups, action_dim)
    for row, dims in enumerate(used_dims):
        if not dims or len(set(dims)) != len(dims) or not all(0 <= dim < action_dim for dim in dims):
            raise PolicyConfigError(
                f"used_dims of embodiment {row} is {list(dims)}: expected some of 0 to {action_dim - 1}, each once."
            )
        real[row, list(dims)] = 1.0
    return None if bool(real.all()) else real
