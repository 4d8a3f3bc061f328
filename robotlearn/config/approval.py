"""What new weights must pass before an arm that could break something has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from robotlearn.config.section import Names, Section

_Share = Annotated[float, Field(ge=0, le=1)]


class ApprovalConfig(Section):
    """Versions are offered for approval one after the other; each decision goes to RUN/weights.jsonl."""

    edges: Names | None = Field(
        None, description="Edges that have approved weights only; null: the paced ones, each of which has a real arm."
    )
    every: PositiveInt = Field(
        1,
        description="Offer each so-many-th version; the ones between go unapproved, but where all edges need approval "
        "and all that they collect with the approved weights is beyond max_staleness.",
    )
    observations: NonNegativeInt = Field(
        256,
        description="Of so many stored observations the chunks must be finite, and their actions within the arm's own "
        "limits; 0: not asked for.",
    )
    max_outside: _Share = Field(0.1, description="Share of those actions that may lie outside.")
    rehearsal_episodes: NonNegativeInt = Field(20, description="Episodes in simulation that come next; 0: none.")
    rehearsal_success: _Share = Field(0.5, description="Success that they must have at least.")
    trial_edge: str | None = Field(None, description="One of `edges` that then goes first; null: none does.")
    trial_episodes: PositiveInt = Field(10, description="Episodes that it does with the new weights.")
    trial_success: _Share = Field(0.5, description="Success that they must have at least.")
    trial_patience_s: PositiveFloat = Field(
        900, description="[s] The trial fails when its edge has ended no episode with the new weights for so long."
    )
    watch_episodes: PositiveInt = Field(
        20, description="Success is watched over so many of the last episodes with the approved weights."
    )
    max_drop: _Share = Field(
        0.3,
        description="If it falls so far below that of the weights approved before, the run goes back to those by "
        "itself: policy, optimiser, and what the edges have.",
    )
