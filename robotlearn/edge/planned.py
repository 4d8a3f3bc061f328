"""Chunks that go on from what their arms are executing: requests with plans, as a policy takes them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from policies.base import Chunk, Observations, Plan, Policy
from policies.real_time import soft_mask
from robotlearn.config.edge import ExecutionConfig
from robotlearn.edge import local
from robotlearn.errors import ConfigError, WireError
from robotlearn.inputs import Inputs

NEEDS = {"rtc": "act_guided", "prefix": "act_prefixed"}
"""Ways to execute that go on from plans, and what of a policy they need."""


class Planned:
    """Acts as a policy does, for one batch of requests; those without a plan get what `Policy.act` gives."""

    def __init__(
        self,
        policy: Policy,
        execution: ExecutionConfig,
        inputs: Inputs,
        embodiment: str,
        requests: Sequence[local.ChunkRequest],
        deltas: int,
    ) -> None:
        """`deltas`: so many entries of the arm's action, the first, are relative to what was executed before."""
        self._deltas = torch.from_numpy(inputs.used_dims[embodiment][:deltas])
        self._policy, self._execution, self.device = policy, execution, policy.device
        self._plan = _plan(policy, inputs, embodiment, requests)

    def act(self, obs: Observations, noise: torch.Tensor, explore: bool) -> Chunk:
        """As `Policy.act`."""
        if explore or self._execution.way not in NEEDS or not self._plan.left.any():
            return self._policy.act(obs, noise, explore)
        plan = Plan(*(part.to(noise.device) for part in (self._plan.actions, self._plan.left, self._plan.delay)))
        if self._execution.way == "rtc":
            chunk, free = self._policy.act_guided(obs, noise, plan, self._execution.guidance)
            return replace(chunk, actions=self._led_back(chunk.actions, free.actions, plan))
        return self._policy.act_prefixed(obs, noise, plan)

    def _led_back(self, guided: torch.Tensor, free: torch.Tensor, plan: Plan) -> torch.Tensor:
        """Guided chunks (B, H, D) that lead where the policy's own would, the more by those actions that are less kept.

        What an observation corrects stands in a chunk's first deltas, the very ones that a plan takes the place of.
        """
        loose = 1 - soft_mask(plan.left, plan.delay, guided.shape[1]).to(guided.device)[..., None]
        share = loose / loose.sum(1, keepdim=True).clamp(min=1e-6)
        actions = guided.clone()
        missing = (free - guided)[..., self._deltas].sum(1, keepdim=True)
        actions[..., self._deltas] += share * missing
        return actions


def check_way(policy: Policy, kind: str, edge: str, execution: ExecutionConfig) -> None:
    """Raises ConfigError where the policy lacks what this way to execute needs."""
    method = NEEDS.get(execution.way)
    if method is not None and getattr(type(policy), method) is getattr(Policy, method):
        raise ConfigError(
            f"edge {edge}: execution.way '{execution.way}' is not valid with policy.kind {kind}: "
            f"{type(policy).__name__} has no {method}"
        )


def check_plan(request: local.ChunkRequest, horizon: int, dim: int) -> None:
    """Raises WireError for a plan that is none."""
    if request.plan is None:
        return
    actions = request.plan.array()
    if actions.ndim != 2 or not 0 < len(actions) <= horizon or actions.shape[1] != dim or actions.dtype != np.float32:
        raise WireError(
            f"robot {request.robot} sent a plan of shape {actions.shape}, expected up to {horizon} actions of {dim}"
        )
    if not 0 <= request.delay <= len(actions) or not np.isfinite(actions).all():
        raise WireError(f"robot {request.robot} sent a plan of {len(actions)} actions that makes no sense")


def _plan(policy: Policy, inputs: Inputs, embodiment: str, requests: Sequence[local.ChunkRequest]) -> Plan:
    actions = np.zeros((len(requests), policy.horizon, policy.action_dim), np.float32)
    left, delay = np.zeros((2, len(requests)), np.int64)
    for row, request in enumerate(requests):
        if request.plan is not None:
            own = inputs.padded(embodiment, request.plan.array())
            actions[row, : len(own)], left[row], delay[row] = own, len(own), request.delay
    return Plan(*map(torch.from_numpy, (actions, left, delay)))
