"""The policy: its kind, its network and how it denoises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from robotlearn.config.section import Section, Widths


class PolicyConfig(Section):
    """A flow-matching policy over chunks of actions."""

    kind: Literal["flow_mlp"] = Field("flow_mlp", description="The network.")
    horizon: PositiveInt = Field(4, description="H: environment steps that one chunk of actions covers.")
    hidden: Annotated[Widths, Field(min_length=1, max_length=64)] = Field(
        (256, 256, 256), description="Widths of the hidden layers."
    )
    denoising_steps: PositiveInt = Field(2, description="N: steps from noise to a chunk.")
    noise_level: PositiveFloat = Field(
        0.5, description="Alpha of Flow-SDE: how much noise an exploring step adds, in normalised actions."
    )
    stochastic_steps: Literal["all", "one"] = Field(
        "all",
        description="Which denoising steps explore: all, or one at random per chunk (half the update's cost at N = 2).",
    )
    deterministic_last: bool = Field(
        False,
        description="The last denoising step adds no noise: exploration then passes through the policy once more, "
        "which keeps it near what the policy would do.",
    )
