"""The replay memory: what off-policy algorithms draw their batches from, and how often."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from robotlearn.config.section import ListAsTuple, Misfit, Section

Share = Annotated[float, Field(gt=0, le=1)]


class PartConfig(Section):
    """One part of every batch: which stored steps it is drawn from, and how."""

    source: Literal["all", "online", "demonstrations", "interventions", "successes", "failures"] = Field(
        "all",
        description="Which steps: all; online, what edges of this run did; demonstrations; interventions, those whose "
        "whole chunk a person did; successes, failures: online steps of episodes that ended so.",
    )
    share: Share = Field(1.0, description="Of each batch; the shares of all parts add up to 1.")
    how: Literal["uniform", "prioritized", "newest"] = Field(
        "uniform",
        description="uniform over steps; prioritized, by the critic's last error (arXiv:1511.05952); newest, the later "
        "the more often.",
    )
    balance: Annotated[tuple[Literal["robot", "task", "success"], ...], ListAsTuple] = Field(
        (),
        description="Equally often from each: robot, models of robot; task, instructions; success, steps of episodes "
        "that succeeded and of the others.",
    )
    robot: str | None = Field(None, description="Only of this model of robot; null: of all.")
    task: str | None = Field(None, description="Only steps with these words in their instruction; null: all.")


class ReplayConfig(Section):
    """What off-policy algorithms (sac, rlpd, hgdagger) learn from: every step that is stored."""

    batch_size: PositiveInt = Field(256, description="Steps of one optimiser step.")
    update_to_data: Annotated[float, Field(ge=1e-6)] = Field(
        1.0, description="Optimiser steps per environment step. It is held: learner and edges wait for each other."
    )
    steps_per_update: PositiveInt = Field(
        50, description="Optimiser steps of one update, after which new weights go out."
    )
    starts_after: NonNegativeInt = Field(500, description="Environment steps that are there before the first update.")
    sampling: Annotated[tuple[PartConfig, ...], ListAsTuple] | None = Field(
        None,
        description="What a batch is made of; null: the algorithm's own: sac, uniform over all; rlpd, half of it "
        "demonstrations; hgdagger, half interventions, half demonstrations. A part of which nothing is stored yet "
        "leaves its share to the others.",
    )
    n_step: PositiveInt = Field(
        1, description="Steps until the critic's estimate takes over from rewards; at least policy.horizon counts."
    )
    priority_exponent: Annotated[float, Field(ge=0, le=1)] = Field(
        0.6, description="Of prioritized sampling: 0 is uniform, 1 in proportion to the error."
    )
    priority_correction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="Of prioritized sampling: how far the weights in the loss make up for it; 1 is wholly."
    )
    cache_bytes: Annotated[int, Field(ge=2**20)] = Field(
        2**30,
        description="Memory for images: the newest stay in it, older ones are read from the disk. All other arrays "
        "are held in memory, and don't count here.",
    )
    runs: Annotated[tuple[str, ...], ListAsTuple] = Field(
        (), description="Run folders (or their segments) of former runs whose steps are drawn, too: they are read only."
    )

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if self.sampling is None:
            return self
        total = sum(part.share for part in self.sampling)
        if abs(total - 1) > 1e-6:
            raise Misfit(("sampling",), f"shares that add up to {total:g} are not valid, expected 1")
        return self
