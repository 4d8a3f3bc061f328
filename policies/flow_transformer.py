"""FlowTransformer: a flow policy whose velocity is a transformer over the actions of the chunk and what is observed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from policies.base import Chunk, Contract, Observations, Plan
from policies.errors import PolicyConfigError
from policies.flow import Velocity
from policies.flow_noise import TIME_DIM
from policies.flow_policy import FlowPolicy
from policies.normalizer import Features
from policies.real_time import check_delay, first, prefixed


class FlowTransformer(FlowPolicy):
    """v(z, t, s): one token per action of z and per part of the encoded observation; t scales and shifts every layer.

    The layers are those of DiT (arXiv:2212.09748, adaLN-Zero): they begin as the identity. The actions look at what is
    observed and at each other.

    Args: those of `FlowPolicy`, and
        width: of a token, a multiple of `heads`. depth: layers.
        max_delay: imitation shows it the first d actions of each chunk as they are, at flow time 0, and it learns the
            others from them, d from 0 to `max_delay` at random (training-time delay, arXiv:2512.05964). Then it can go
            on from actions that are executed while it computes, `act_prefixed`.

    Raises:
        PolicyConfigError: besides, where width, depth and heads make no sense.
    """

    kind = "flow_transformer"

    def __init__(
        self,
        features: Features,
        horizon: int,
        action_dim: int,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        max_delay: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(features, horizon, action_dim, **options)
        check_delay(max_delay, horizon)
        self.max_delay = max_delay
        if min(width, depth, heads) < 1 or width % heads:
            raise PolicyConfigError(
                f"width {width}, depth {depth}, heads {heads}: expected 1 or more each, and a width that the heads "
                "divide."
            )
        self.width, self.depth, self.heads = width, depth, heads
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
            for dim in self.observation.dims
        )
        self.actions = nn.Linear(action_dim, width)
        self.places = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.clock = nn.Sequential(nn.Linear(TIME_DIM, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.last = _Modulated(width, 2)
        self.out = nn.Linear(width, action_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def field(self, encoded: Sequence[Tensor]) -> Velocity:
        seen = torch.stack([part(x) for part, x in zip(self.parts, encoded, strict=True)], 1)  # (B, P, W)

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            b, k = z.shape[:2]
            tokens = (self.actions(z) + self.places).flatten(0, 1)  # (B K, H, W)
            each = self.time(t if t.ndim == 3 else t.expand(b, k)[..., None])
            clock = self.clock(each).flatten(0, 1)  # (B K, 1 or H, W)
            context = seen[:, None].expand(b, k, -1, -1).flatten(0, 1)
            for layer in self.layers:
                tokens = layer(tokens, context, clock)
            scale, shift = self.last(clock)
            v: Tensor = self.out(nn.functional.layer_norm(tokens, (self.width,)) * (1 + scale) + shift)
            return v.view(z.shape)

        return velocity

    @torch.no_grad()
    def act_prefixed(self, obs: Observations, noise: Tensor, plan: Plan) -> Chunk:
        """As in `Policy`. Raises PolicyConfigError where it was not trained so."""
        if not self.max_delay:
            raise PolicyConfigError("a flow_transformer with max_delay 0 was never shown the beginning of a chunk.")
        kept = first(torch.minimum(plan.delay, plan.left), self.horizon)
        target = self.action(plan.actions, self.observation.embodiment(obs))
        return self._walked(obs, prefixed(self.velocity(obs), target, kept), noise)

    def loss(self, obs: Observations, actions: Tensor, valid: Tensor, generator: Generator | None = None) -> Tensor:
        """As in `FlowPolicy`; with `max_delay`, over the actions after those that are shown."""
        if not self.max_delay:
            return super().loss(obs, actions, valid, generator)
        a = self.action(actions, self.observation.embodiment(obs))
        eps, t = self.drawn(a, generator)
        delay = torch.randint(self.max_delay + 1, (len(a),), generator=generator, device=a.device)
        shown = first(delay, self.horizon)
        times = torch.where(shown, 0.0, t)  # (B, H)
        x = torch.lerp(a, eps, times[..., None])
        v = self.velocity(obs)(x[:, None], times[:, None])[:, 0]
        return self.mean_error(obs, (v - (eps - a)).square(), valid & ~shown)

    def contract(self) -> Contract:
        sizes = {"width": self.width, "depth": self.depth, "heads": self.heads}
        return super().contract() | sizes | {"max_delay": self.max_delay}


class _Modulated(nn.Module):
    """The time's embedding as `count` vectors that scale, shift or gate; all 0 at the start."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, clock: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.linear(clock).chunk(self.count, -1)
        return parts


class _Layer(nn.Module):
    """Attention of the actions to observation and actions, then an MLP, both modulated by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.modulated = _Modulated(width, 6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, context: Tensor, clock: Tensor) -> Tensor:
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = self.modulated(clock)
        x = nn.functional.layer_norm(tokens, (self.width,)) * (1 + scale) + shift
        key, value = self.key_value(torch.cat([context, x], 1)).chunk(2, -1)
        query, key, value = (self._split(part) for part in (self.query(x), key, value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + gate * self.project(mixed.transpose(1, 2).flatten(2))
        x = nn.functional.layer_norm(tokens, (self.width,)) * (1 + scale_mlp) + shift_mlp
        result: Tensor = tokens + gate_mlp * self.mlp(x)
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
