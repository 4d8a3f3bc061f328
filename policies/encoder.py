"""What a policy or a critic sees, as vectors: numbers normalised, images encoded, the rest as it is."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from policies.errors import ObservationError, StatisticsError
from policies.images import ImageEncoderKind, image_encoder
from policies.language import INSTRUCTION_DIM
from policies.normalizer import Features, Normalizer, Statistics

EMBODIMENT = "embodiment"
"""One-hot (E,): which of the policy's embodiments this is; there only when it has several."""
INSTRUCTION = "instruction"
"""(64,), see `policies.language.embed`; there only when the policy reads it."""
IMAGES = "observation.images."
"""Prefix of images, uint8 (height, width, 3)."""


class ObservationEncoder(nn.Module):
    """Observations {key: (B, ...)} -> parts, a list of (B, n): numbers, embodiment, instruction, one per image.

    Numbers are bounded to +-`bound` standard deviations: a dimension that hardly moved in the demonstrations must not
    drown the others once reinforcement learning takes the robot elsewhere. Their statistics are those of each sample's
    embodiment.

    Raises:
        ObservationError: no features, or one of an impossible shape.
        PolicyConfigError: as `image_encoder`.
    """

    def __init__(
        self, features: Features, images: ImageEncoderKind = "cnn", floor: float = 1e-3, bound: float = 10.0
    ) -> None:
        super().__init__()
        if not features:
            raise ObservationError("no features: the network would be blind; name at least one observation key.")
        self.features = {key: tuple(shape) for key, shape in features.items()}
        vectors = {key: shape for key, shape in self.features.items() if not key.startswith(IMAGES)}
        for key, shape in vectors.items():
            if len(shape) != 1 or shape[0] < 1:
                raise ObservationError(
                    f"feature {key!r} has shape {shape}: this network reads vectors, shape (n,) with n >= 1."
                )
        if vectors.get(INSTRUCTION, (INSTRUCTION_DIM,)) != (INSTRUCTION_DIM,):
            raise ObservationError(f"{INSTRUCTION!r} has shape {vectors[INSTRUCTION]}, expected ({INSTRUCTION_DIM},).")
        self.groups = vectors[EMBODIMENT][0] if EMBODIMENT in vectors else 1
        self.bound = bound
        self.numbers = {key: shape for key, shape in vectors.items() if key not in (EMBODIMENT, INSTRUCTION)}
        self.normalizer = Normalizer(sum(shape[0] for shape in self.numbers.values()), floor, self.groups)
        encoders = {key: image_encoder(images, self.features[key]) for key in self.features if key.startswith(IMAGES)}
        # Names of submodules can't have dots.
        self.images = nn.ModuleDict({key.replace(".", "/"): network for key, (network, _) in encoders.items()})
        as_is = [vectors[key][0] for key in (EMBODIMENT, INSTRUCTION) if key in vectors]
        numbers = [self.normalizer.mean.shape[1]] if self.numbers else []
        self.dims = [*numbers, *as_is, *(dim for _, dim in encoders.values())]
        self.dim = sum(self.dims)

    def set(self, stats: Mapping[str, Statistics]) -> None:
        """Fix the normalisation of every number. Raises StatisticsError when one is missing or has another shape."""
        for key, shape in self.numbers.items():
            if key not in stats:
                raise StatisticsError(
                    f"no statistics of feature {key!r}; there are {', '.join(sorted(stats)) or 'none'}."
                )
            expected = shape if self.groups == 1 else (self.groups, *shape)
            if np.shape(stats[key].mean) != expected:
                raise StatisticsError(
                    f"statistics of {key!r} have shape {np.shape(stats[key].mean)}, expected {expected}."
                )
        if self.numbers:
            chosen = [stats[key] for key in self.numbers]
            self.normalizer.set(
                np.concatenate([s.mean for s in chosen], -1), np.concatenate([s.std for s in chosen], -1)
            )

    def statistics(self) -> dict[str, Statistics]:
        """What is in use, by feature."""
        if not self.numbers:
            return {}
        whole, ends = self.normalizer.statistics(), np.cumsum([shape[0] for shape in self.numbers.values()])[:-1]
        means, stds = np.split(whole.mean, ends, -1), np.split(whole.std, ends, -1)
        return {key: Statistics(m, s) for key, m, s in zip(self.numbers, means, stds, strict=True)}

    def embodiment(self, obs: Mapping[str, Tensor]) -> Tensor | None:
        """(B,) index of each sample's embodiment, None when the policy has only one."""
        return None if self.groups == 1 else self._feature(obs, EMBODIMENT).argmax(-1)

    def forward(self, obs: Mapping[str, Tensor]) -> list[Tensor]:
        """Raises ObservationError when a feature is missing or has another shape."""
        parts = []
        if self.numbers:
            x = [self._feature(obs, key) for key in self.numbers]
            numbers: Tensor = self.normalizer(x[0] if len(x) == 1 else torch.cat(x, -1), self.embodiment(obs))
            parts.append(numbers.clamp(-self.bound, self.bound))
        parts += [self._feature(obs, key) for key in (EMBODIMENT, INSTRUCTION) if key in self.features]
        for name, network in self.images.items():
            parts.append(network(self._feature(obs, name.replace("/", "."))))
        return parts

    def vector(self, obs: Mapping[str, Tensor]) -> Tensor:
        """All parts in one, (B, dim)."""
        parts: list[Tensor] = self(obs)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _feature(self, obs: Mapping[str, Tensor], key: str) -> Tensor:
        part, shape = obs.get(key), self.features[key]
        if part is None:
            raise ObservationError(f"observation lacks {key!r}; it has {', '.join(sorted(obs)) or 'nothing'}.")
        if tuple(part.shape[1:]) != shape:
            raise ObservationError(
                f"{key!r} has shape {tuple(part.shape)}, expected (batch, {', '.join(map(str, shape))})."
            )
        return part
