"""HG-DAgger: imitation of what a person does where they take over from the policy, and of demonstrations.

arXiv:1810.02890. Here the person decides when (the enable switch of whatever they hold), and all that they did in an
intervention is an example, as are demonstrations: half a batch each, so that the first interventions are not drowned.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from policies.base import Policy
from robotlearn.algorithms.base import Batches, OffPolicy
from robotlearn.algorithms.errors import StateError
from robotlearn.algorithms.optimizer import Optimizer
from robotlearn.algorithms.transitions import Window
from robotlearn.config.algorithms import HGDaggerConfig
from robotlearn.config.replay import PartConfig


class HGDagger(OffPolicy):
    """Supervised training, on the policy's own loss, of every kind of policy.

    Metrics of an update: loss/imitation and grad_norm/policy (before clipping), means over its steps; intervention, the
    share of the batches' valid steps that a person did while the policy ran; skipped_steps, for a loss or gradient that
    was not finite.
    """

    sampling = (
        PartConfig(source="interventions", share=0.5),
        PartConfig(source="demonstrations", share=0.5),
    )

    def __init__(self, policy: Policy, config: HGDaggerConfig, seed: int) -> None:
        """Learns `policy` in place, on the device where it is; its statistics are set before."""
        self.policy, self.config = policy, config
        self.device = policy.device
        self.window = Window(policy.horizon, policy.horizon, gamma=1.0, bootstraps=False)
        self.optimizer = Optimizer("policy", policy, config.lr, config.grad_clip, config.weight_decay)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def learn(self, batches: Batches, before_change: Callable[[], None]) -> dict[str, float]:
        skipped, rows = self.optimizer.skipped, []
        for given in batches:
            batch = given.to(self.device)
            loss = self.policy.loss(batch.observations, batch.actions, batch.valid, self.generator)
            norm = self.optimizer.step(loss, before_change)
            taught = batch.intervention.sum() / batch.valid.sum().clamp(min=1)
            rows.append(torch.stack([loss.detach(), loss.new_tensor(norm), taught]))
        names = ("loss/imitation", "grad_norm/policy", "intervention")
        means = torch.stack(rows).mean(0).tolist() if rows else ()
        return dict(zip(names, means, strict=False)) | {"skipped_steps": float(self.optimizer.skipped - skipped)}

    def state_dict(self) -> dict[str, Tensor]:
        optimizer = {f"optimizer.{key}": value for key, value in self.optimizer.state_dict().items()}
        return optimizer | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        state = dict(state)
        try:
            self.generator.set_state(state.pop("generator").cpu())
        except (KeyError, RuntimeError) as error:
            raise StateError(f"the saved state is not one of HG-DAgger: {error}") from error
        self.optimizer.load_state_dict({key.removeprefix("optimizer."): value for key, value in state.items()})
