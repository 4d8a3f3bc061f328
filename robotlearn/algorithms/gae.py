"""Advantages over chunks: GAE (Schulman et al., arXiv:1506.02438) where a step is a chunk of n environment steps."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def gae(
    reward: ArrayLike, discount: ArrayLike, value: ArrayLike, last: ArrayLike, final_value: ArrayLike, lam: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Advantages and returns (C,), float32, of the C chunks of E episodes in their order.

    Args:
        reward: (C,), the chunk's own sum_{k<n} gamma^k r_k.
        discount: (C,), gamma^n.
        value: (C,), V at the chunk's first executed step.
        last: (C,) bool, the episode's last chunk.
        final_value: (E,), what the last chunk of each episode bootstraps from: V of its last observation where it was
            truncated, 0 where it terminated.
        lam: lambda, per chunk.
    """
    rewards, discounts, values, lasts, finals = (
        np.asarray(x).tolist() for x in (reward, discount, value, last, final_value)
    )
    advantages = [0.0] * len(rewards)
    for c in reversed(range(len(rewards))):  # plain floats: a loop over arrays would take ten times as long
        if lasts[c]:
            next_value, next_advantage = finals.pop(), 0.0
        else:
            next_value, next_advantage = values[c + 1], advantages[c + 1]
        delta = rewards[c] + discounts[c] * next_value - values[c]
        advantages[c] = delta + discounts[c] * lam * next_advantage
    advantage = np.array(advantages, np.float64)
    return advantage.astype(np.float32), (advantage + np.asarray(values, np.float64)).astype(np.float32)
