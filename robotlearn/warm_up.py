"""What compiles a policy: its first calls."""

import numpy as np
import torch

from policies.base import Plan, Policy
from policies.encoder import INSTRUCTION
from policies.language import as_bytes
from robotlearn.config import ExecutionConfig

SIZES = (1, 2, 3, 4, 8, 16)
"""Of batches. One is compiled apart from several; some numbers too, where a model has as many heads, say."""
_WORDS = ("", "put the red cube into the box on the left")


def made_up(policy: Policy, batch: int, words: str = _WORDS[1]) -> dict[str, torch.Tensor]:
    """Observations {key: (batch, ...)} of noise, on the policy's device: images uint8, the rest float32."""
    rng = np.random.default_rng(batch)
    made = {}
    for key, shape in policy.features.items():
        if key == INSTRUCTION and shape == as_bytes(words).shape:
            value = np.stack([as_bytes(words)] * batch)
        elif len(shape) == 3:
            value = rng.integers(0, 256, (batch, *shape), np.uint8)
        else:
            value = rng.standard_normal((batch, *shape), np.float32)
        made[key] = torch.from_numpy(value).to(policy.device)
    return made


def warm_up(policy: Policy, execution: ExecutionConfig) -> None:
    """Ask for chunks of made-up observations, so that what is compiled is compiled; for those of a plan too.

    From then on nothing is compiled in this process: a shape that did not come here is computed without.
    """
    rng = np.random.default_rng(0)
    for batch in SIZES:
        half = torch.full((batch,), policy.horizon // 2)
        plan = Plan(torch.zeros(batch, policy.horizon, policy.action_dim), half, torch.zeros_like(half))
        for words in _WORDS:
            obs, noise = made_up(policy, batch, words), policy.noise(batch, rng).to(policy.device)
            policy.act(obs, noise, False)
            if execution.way == "rtc":
                policy.act_guided(obs, noise, plan, execution.guidance)
            if execution.way == "prefix":
                policy.act_prefixed(obs, noise, plan)
    policy.renewed()
    torch.compiler.set_stance("eager_on_recompile")
