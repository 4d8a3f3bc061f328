"""FlowVLA: a flow-matching VLA of LeRobot as a `Policy`, with the exact probability of its denoising paths."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from policies.base import Chunk, Contract, Observations, Plan, Policy
from policies.encoder import IMAGES, INSTRUCTION
from policies.errors import ObservationError, PolicyConfigError, StatisticsError
from policies.flow import Denoising, Spread, Velocity
from policies.flow_noise import FlowNoise
from policies.language import as_text
from policies.normalizer import Features, Normalizer, Scale, Statistics
from policies.real_time import check_delay, first, guided, prefixed, soft_mask
from policies.vla.checkpoint import scales
from policies.vla.fields import FIELDS, Prefix
from policies.vla.prompts import Prompts

STATE = "observation.state"
FEATURES = "features"
_AT_ONCE = 32  # observations of many that nothing is to be learnt from
_FLOOR = 1e-6  # of a std, in the data's units: LeRobot's own is 1e-8


class FlowVLA(Policy):
    """SmolVLA, pi0, pi0.5: the vision-language model looks once per chunk, the expert walks `denoising_steps`.

    Paths are as wide as the checkpoint's actions (`max_action_dim`), the robot's own entries first; the others are
    walked and count in no probability. Weights and images are LeRobot's, `lerobot` is its policy.

    Args:
        lerobot: of `policies.vla.load`.
        prompts: its tokenizer.
        features: `observation.state`, one image per camera and the instruction's bytes.
        horizon, action_dim: H and D of the robot's actions.
        cameras: for the checkpoint's images the features' keys; one may be shown as several.
        used_dims: per embodiment, which of the D entries its actions use; None: one embodiment that uses all.
        precision: what products are computed in; weights stay as they are.
        max_delay: as of `policies.flow_transformer.FlowTransformer`.
        the others: as of `policies.flow_policy.FlowPolicy`.

    Raises:
        PolicyConfigError: features or sizes that this checkpoint doesn't take.
    """

    compiles = True

    def __init__(
        self,
        lerobot: Any,
        prompts: Prompts,
        features: Features,
        horizon: int,
        action_dim: int,
        *,
        cameras: Mapping[str, str],
        denoising_steps: int = 10,
        noise_level: float = 0.5,
        stochastic_steps: Literal["all", "one"] = "all",
        deterministic_last: bool = False,
        exploration: Literal["sde", "noise"] = "sde",
        noise_range: tuple[float, float] = (0.08, 0.16),
        precision: Literal["float32", "bfloat16"] = "float32",
        max_delay: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.lerobot, self.prompts = lerobot.name, lerobot, prompts
        self._field = FIELDS[self.kind](lerobot)
        self.features, self.horizon, self.action_dim = dict(features), horizon, action_dim
        self.cameras, self.width = dict(cameras), int(lerobot.config.max_action_dim)
        self.denoising_steps, self.exploration, self.noise_range = denoising_steps, exploration, tuple(noise_range)
        self.denoising = Denoising(denoising_steps, noise_level, stochastic_steps, deterministic_last)
        self.precision, self.max_delay = precision, max_delay
        check_delay(max_delay, horizon)
        if max_delay:
            self._field.time_each()
        _check(self.features, lerobot.config, action_dim)
        self.state = Normalizer(self.features[STATE][0], _FLOOR)
        self.action = Normalizer(action_dim, _FLOOR)
        self._features = Statistics(np.zeros(self._field.feature_dim), np.ones(self._field.feature_dim))
        self.spread_head: FlowNoise | None = None
        if exploration == "noise":
            self.spread_head = FlowNoise(self._field.feature_dim, horizon * self.width, noise_range)

    def noise(self, batch: int, rng: np.random.Generator) -> Tensor:
        return self.denoising.noise(batch, self.horizon, self.width, rng)

    @torch.no_grad()
    def act(self, obs: Observations, noise: Tensor, explore: bool) -> Chunk:
        prefix = self._look(obs)
        noise = noise.to(prefix.state.device)
        return self._walked(self._velocity(prefix), noise, explore, self._spread(prefix, noise))

    @torch.no_grad()
    def act_guided(self, obs: Observations, noise: Tensor, plan: Plan, largest: float) -> tuple[Chunk, Chunk]:
        prefix = self._look(obs)
        device = prefix.state.device
        noise, left, delay = noise.to(device), plan.left.to(device), plan.delay.to(device)
        weight = soft_mask(left, delay, self.horizon)[..., None]
        # What the others of the checkpoint's entries do is nobody's plan.
        kept = nn.functional.pad(weight.expand(-1, -1, self.action_dim), (0, self.width - self.action_dim))
        target = self._wide(plan.actions.to(device))
        velocity = self._velocity(prefix)
        return self._walked(guided(velocity, target, kept, largest), noise), self._walked(velocity, noise)

    @torch.no_grad()
    def act_prefixed(self, obs: Observations, noise: Tensor, plan: Plan) -> Chunk:
        """As in `Policy`. Raises PolicyConfigError where it was not trained so."""
        if not self.max_delay:
            raise PolicyConfigError(f"a {self.kind} with max_delay 0 was never shown the beginning of a chunk.")
        prefix = self._look(obs)
        device = prefix.state.device
        kept = first(torch.minimum(plan.delay, plan.left).to(device), self.horizon)
        velocity = prefixed(self._velocity(prefix), self._wide(plan.actions.to(device)), kept)
        return self._walked(velocity, noise.to(device))

    def _walked(self, velocity: Velocity, noise: Tensor, explore: bool = False, spread: Spread | None = None) -> Chunk:
        found = self.denoising.sample(velocity, noise, explore, self._real(noise), spread)
        actions = self.action.inverse(found.path[:, -1, :, : self.action_dim])
        return Chunk(actions, found.path, found.stochastic, found.log_prob)

    def serve(self, *, compiled: bool, images_again: bool) -> None:
        self._field.serve(compiled=compiled, images_again=images_again)

    def renewed(self) -> None:
        self._field.renewed()

    def log_prob(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        prefix = self._look(obs)
        return self.denoising.log_prob(
            self._velocity(prefix), path, stochastic, self._real(path), self._spread(prefix, path)
        )

    def entropy(self, obs: Observations, path: Tensor, stochastic: Tensor) -> Tensor:
        if self.spread_head is None:
            return super().entropy(obs, path, stochastic)
        spread = self._spread(self._look(obs), path)
        assert spread is not None
        return self.denoising.entropy(path, stochastic, spread, self._real(path))

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """LeRobot's flow matching loss, times drawn as there, over the robot's own entries of the valid steps.

        With `max_delay`, over those of them that come after the actions that are shown.
        """
        target = self._wide(actions)
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        time = _times(len(target), generator, target.device)
        if self.max_delay:
            delay = torch.randint(self.max_delay + 1, time.shape, generator=generator, device=time.device)
            shown = first(delay, self.horizon)
            times = torch.where(shown, 0.0, time[:, None])
            x = torch.lerp(target, noise, times[..., None])
            v = self._velocity(self._look(obs))(x[:, None], times[:, None])[:, 0]
            error, valid = (v - (noise - target)).square(), valid & ~shown
        else:
            with self._computing():
                error = self._field.errors(*self._inputs(obs), target, noise, time).float()
        each = error[..., : self.action_dim].mean(-1)
        return torch.where(valid, each, 0.0).sum() / valid.sum().clamp(min=1)

    @property
    def scales(self) -> dict[str, Scale]:
        return {key: one for key, one in scales(self.lerobot.config).items() if key in (STATE, "action")}

    @property
    def path_dim(self) -> int:
        return self.width

    @property
    def critic_features(self) -> dict[str, tuple[int, ...]]:
        return {FEATURES: (self._field.feature_dim,), STATE: self.features[STATE]}

    @torch.no_grad()
    def for_critic(self, obs: Observations) -> Observations:
        """What the vision-language model makes of them, as it is now, and the state, of which pi0's sees nothing."""
        parts = [
            self._look({key: value[i : i + _AT_ONCE].to(self.device) for key, value in obs.items()}).features
            for i in range(0, len(obs[STATE]), _AT_ONCE)
        ]
        features = torch.cat(parts)
        return {FEATURES: nn.functional.layer_norm(features, features.shape[-1:]), STATE: obs[STATE]}

    def contract(self) -> Contract:
        shapes: Contract = {f"feature:{key}": list(shape) for key, shape in self.features.items()}
        cameras: Contract = {f"camera:{key}": value for key, value in self.cameras.items()}
        return (
            shapes
            | cameras
            | {
                "kind": self.kind,
                "horizon": self.horizon,
                "action_dim": self.action_dim,
                "width": self.width,
                "denoising_steps": self.denoising_steps,
                "noise_level": self.denoising.noise_level,
                "stochastic_steps": self.denoising.stochastic_steps,
                "deterministic_last": int(self.denoising.deterministic_last),
                "exploration": self.exploration,
                "noise_range": f"{self.noise_range[0]} to {self.noise_range[1]}",
                "max_delay": self.max_delay,
            }
        )

    def set_statistics(self, stats: Mapping[str, Statistics]) -> None:
        for key, normalizer in ((STATE, self.state), ("action", self.action)):
            if key not in stats:
                raise StatisticsError(f"no statistics of {key!r}; there are {', '.join(sorted(stats)) or 'none'}.")
            normalizer.set(stats[key].mean, stats[key].std)

    def statistics(self) -> dict[str, Statistics]:
        return {STATE: self.state.statistics(), "action": self.action.statistics(), FEATURES: self._features}

    # ---- what LeRobot's model is given

    def _inputs(self, obs: Observations) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
        """Images, which there are, tokens, which count, and the padded state, as LeRobot's own processors make them.

        Raises ObservationError.
        """
        for key, shape in self.features.items():
            if key not in obs:
                raise ObservationError(f"observation lacks {key!r}; it has {', '.join(sorted(obs)) or 'nothing'}.")
            if tuple(obs[key].shape[1:]) != shape:
                raise ObservationError(f"{key!r} has shape {tuple(obs[key].shape)}, expected (batch, *{shape}).")
        state: Tensor = self.state(obs[STATE])
        images = {there: obs[here].permute(0, 3, 1, 2).float() / 255 for there, here in self.cameras.items()}
        shown, seen = self._field.images(images)
        tokens, words = self.prompts(self._field.prompts(as_text(obs[INSTRUCTION].cpu().numpy()), state), state.device)
        padded = nn.functional.pad(state, (0, self.lerobot.config.max_state_dim - state.shape[-1]))
        return shown, seen, tokens, words, padded

    def _look(self, obs: Observations) -> Prefix:
        with self._computing():
            return self._field.look(*self._inputs(obs))

    def _computing(self) -> torch.autocast:
        device = self.action.mean.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _velocity(self, prefix: Prefix) -> Velocity:
        """v at points (B, K, H, width) in one pass; the prefix is computed once for all K."""

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            b, k = z.shape[:2]
            times = (t if t.ndim == 3 else t.expand(b, k)).flatten(0, 1)
            with self._computing():
                v = self._field.velocity(prefix.repeated(k), z.flatten(0, 1), times)
            return v.float().view_as(z)

        return velocity

    def _wide(self, actions: Tensor) -> Tensor:
        """Actions (B, H, D) as the checkpoint has them: normalised, (B, H, width)."""
        return nn.functional.pad(self.action(actions), (0, self.width - self.action_dim))

    def _real(self, like: Tensor) -> Tensor | None:
        """(B, width): 1 for the robot's own entries; None where all are."""
        if self.action_dim == self.width:
            return None
        real = torch.zeros(self.width, device=like.device)
        real[: self.action_dim] = 1
        return real.expand(len(like), -1)

    def _spread(self, prefix: Prefix, like: Tensor) -> Spread | None:
        if self.spread_head is None:
            return None
        features = nn.functional.layer_norm(prefix.features, prefix.features.shape[-1:])
        return self.spread_head.spread(features, self._real(like))


def _times(count: int, generator: Generator | None, device: torch.device) -> Tensor:
    """(B,) from 0.001 + 0.999 Beta(1.5, 1), as pi0 and SmolVLA are trained (arXiv:2410.24164, appendix B)."""
    # Of Beta(a, 1) the distribution function is x^a.
    uniform = torch.rand(count, generator=generator, device=device)
    return 0.001 + 0.999 * uniform ** (1 / 1.5)


def _check(features: Mapping[str, tuple[int, ...]], config: Any, action_dim: int) -> None:
    for key, shape in features.items():
        if key not in (STATE, INSTRUCTION) and not key.startswith(IMAGES):
            raise PolicyConfigError(
                f"a VLA can't be shown {key!r}, only images, {STATE} and the instruction: set "
                "observations.environment_state and tracking_error to false."
            )
        if key == STATE and shape[0] > config.max_state_dim:
            raise PolicyConfigError(f"{STATE} has {shape[0]} entries, this checkpoint takes {config.max_state_dim}.")
    for key in (STATE, INSTRUCTION):
        if key not in features:
            raise PolicyConfigError(f"a VLA needs {key!r}: set observations.instruction to true.")
    if not any(key.startswith(IMAGES) for key in features):
        raise PolicyConfigError("a VLA needs a camera: name one in observations.cameras.")
    if action_dim > config.max_action_dim:
        raise PolicyConfigError(f"actions have {action_dim} entries, this checkpoint gives {config.max_action_dim}.")
