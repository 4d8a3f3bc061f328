"""Chunks for arms that go on moving while they are computed: guided, or begun with what is executed meanwhile.

Both are velocities made from a velocity, so that `Denoising.sample` walks them as any other, without exploration.
"""

import math

import torch
from torch import Tensor

from policies.errors import PolicyConfigError
from policies.flow import Velocity


def soft_mask(left: Tensor, delay: Tensor, horizon: int) -> Tensor:
    """W (B, H), how firmly a new chunk keeps each action of a plan: RTC, arXiv:2506.07339, Eq. 5.

    left, delay: (B,) int, L and d of `policies.base.Plan`. W_i = 1 for i < d; c (e^c - 1) / (e - 1) with
    c = (L - i) / (L - d + 1) for d <= i < L; 0 after.
    """
    i = torch.arange(horizon, device=left.device)
    left, delay = left[:, None], torch.minimum(delay, left)[:, None]
    c = (left - i).clamp(min=0) / (left - delay + 1)
    soft = c * torch.expm1(c) / (math.e - 1)
    return torch.where(i < delay, 1.0, torch.where(i < left, soft, 0.0))


def guided(velocity: Velocity, target: Tensor, weight: Tensor, largest: float) -> Velocity:
    """v drawn to a plan (RTC, arXiv:2506.07339, Eq. 2 to 4, time turned round).

        v - min(largest, t / ((1 - t) r^2)) [(Y - x_0) * W] d x_0 / d z,  x_0 = z - t v,  r^2 = t^2 / ((1 - t)^2 + t^2)

    The product with the Jacobian is what makes the rest of a chunk follow from the part that is kept; it costs a pass
    back through the network.

    Args:
        velocity: at points (B, K, H, D) and times (K,).
        target: Y (B, H, D), normalised. weight: W (B, H, 1 or D).
        largest: beta, the bound of the guidance.
    """

    def drawn(z: Tensor, t: Tensor) -> Tensor:
        time = t[:, None, None]
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            v = velocity(point, t).to(z.dtype)
            clean = point - time * v
            error = (target[:, None] - clean).detach() * weight[:, None]
            (pull,) = torch.autograd.grad(clean, point, error)
        # t / ((1 - t) r^2); at t = 1 it has no bound but `largest`.
        strength = ((1 - time) ** 2 + time**2) / (time * (1 - time)).clamp(min=1e-12)
        return v.detach() - strength.clamp(max=largest) * pull

    return drawn


def check_delay(max_delay: int, horizon: int) -> None:
    """Raises PolicyConfigError for a simulated delay that leaves nothing of a chunk to learn, or is none."""
    if not 0 <= max_delay < horizon:
        raise PolicyConfigError(
            f"max_delay is {max_delay}: expected 0 to {horizon - 1}, or nothing of a chunk would be left to learn."
        )


def first(count: Tensor, horizon: int) -> Tensor:
    """(B, H) bool: the first `count` (B,) actions of each chunk."""
    return torch.arange(horizon, device=count.device) < count[:, None]


def prefixed(velocity: Velocity, target: Tensor, kept: Tensor) -> Velocity:
    """v of a network that knows the first actions of a chunk: training-time delay, arXiv:2512.05964.

    The network is shown the kept actions as they are, at flow time 0; their own velocity leads straight to them.

    Args:
        velocity: of a network that takes a time for each action, points (B, K, H, D) and times (B, K, H).
        target: (B, H, D), normalised. kept: (B, H) bool.
    """
    kept, target = kept[:, None], target[:, None]

    def conditioned(z: Tensor, t: Tensor) -> Tensor:
        times = torch.where(kept, 0.0, t[:, None].expand(*z.shape[:3]))
        v = velocity(torch.where(kept[..., None], target, z), times)
        return torch.where(kept[..., None], (z - target) / t[:, None, None], v.to(z.dtype))

    return conditioned
