"""What the kinds of policies have in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from robotlearn.config.section import Interval, Misfit, Section

VLAS = ("smolvla", "pi0", "pi05")
"""LeRobot's vision-language-action models."""
IMITATORS = ("act", "diffusion")
"""LeRobot's policies whose chunks have no probability: for imitation alone."""
KINDS = ("flow_mlp", "flow_transformer", "gaussian", "squashed_gaussian", *VLAS, *IMITATORS)
"""Our own and LeRobot's; the first is the default."""
KIND = (
    "flow_mlp, flow_transformer: flow matching, with an MLP or a transformer; gaussian: mean and spread; "
    "squashed_gaussian: both by what is seen, bounded, for sac and rlpd; smolvla, pi0, pi05: LeRobot's VLAs (extra "
    "vla); act, diffusion: LeRobot's policies for imitation alone (extra vla); or a kind that an installed package "
    "adds (entry-point group robotlearn.policies)."
)
Layers = Annotated[PositiveInt, Field(le=256)]


class Kind(Section):
    horizon: PositiveInt = Field(4, description="H: environment steps that one chunk of actions covers.")

    @property
    def path_steps(self) -> int:
        """N: steps of the path from noise to a chunk that is recorded."""
        return 1

    def path_dim(self, action_dim: int) -> int:
        """Entries of an action as a path has them, given those of the run's actions."""
        return action_dim


class Denoising(Kind):
    denoising_steps: PositiveInt = Field(2, description="N: steps from noise to a chunk.")
    exploration: Literal["sde", "noise"] = Field(
        "sde",
        description="sde, Flow-SDE: every exploring step adds noise of a fixed size; noise, Flow-Noise: of a size that "
        "a small head learns (both of piRL).",
    )
    noise_level: PositiveFloat = Field(
        0.5, description="Alpha of Flow-SDE: how much noise an exploring step adds, in normalised actions."
    )
    noise_range: Interval = Field(
        (0.08, 0.16), description="Smallest and largest standard deviation of Flow-Noise, in normalised actions."
    )
    stochastic_steps: Literal["all", "one"] = Field(
        "all",
        description="Which denoising steps explore: all, or one at random per chunk (an update then looks at that one "
        "alone).",
    )
    deterministic_last: bool = Field(
        False,
        description="The last denoising step adds no noise: exploration then passes through the policy once more, "
        "which keeps it near what the policy would do.",
    )

    @model_validator(mode="after")
    def _noise_is_a_range(self) -> Self:
        if not 0 < self.noise_range[0] < self.noise_range[1]:
            raise Misfit(
                ("noise_range",), f"{list(self.noise_range)} is not valid, expected [low, high] with 0 < low < high"
            )
        return self

    @property
    def path_steps(self) -> int:
        return self.denoising_steps


class SimulatedDelay(Kind):
    max_delay: NonNegativeInt = Field(
        0,
        description="Imitation with simulated delay (arXiv:2512.05964): up to so many actions at the beginning of a "
        "chunk, drawn anew for each, are given, and the others learnt from them; for edges with execution.way prefix.",
    )

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if self.max_delay >= self.horizon:
            raise Misfit(
                ("max_delay",),
                f"{self.max_delay} is not valid, expected less than horizon ({self.horizon}), or nothing of a chunk "
                "would be left to learn",
            )
        return self
