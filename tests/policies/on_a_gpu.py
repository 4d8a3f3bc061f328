"""Policies whose weights only pretend to lie on a GPU: whatever mixes devices raises, as a GPU would."""

import torch
from torch import Tensor, nn

from policies.base import Policy


def pretend(module: nn.Module) -> None:
    """Under a FakeTensorMode: give every parameter and buffer a place on a GPU that needs not be there."""
    for each in module.modules():
        for name, value in list(each._parameters.items()):
            if value is not None:
                each._parameters[name] = nn.Parameter(_there(value), value.requires_grad)
        for name, buffer in list(each._buffers.items()):
            if buffer is not None:
                each._buffers[name] = _there(buffer)


def run(policy: Policy, obs: dict[str, Tensor]) -> list[Tensor]:
    """All that learner and edge ask of it, for observations there."""
    count = len(next(iter(obs.values())))
    steps, horizon = policy.denoising_steps, policy.horizon
    noise = torch.empty(count, steps + 1, horizon, policy.path_dim, device="cuda")
    chunk = policy.act(obs, noise, True)
    actions = torch.empty(count, horizon, policy.action_dim, device="cuda")
    return [
        *(chunk.actions, chunk.path, chunk.stochastic, chunk.log_prob),
        policy.log_prob(obs, chunk.path, chunk.stochastic),
        policy.entropy(obs, chunk.path, chunk.stochastic),
        policy.loss(obs, actions, torch.ones(count, horizon, dtype=torch.bool, device="cuda")),
        *policy.for_critic(obs).values(),
    ]


def _there(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
