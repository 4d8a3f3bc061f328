"""The edges: what runs on one robot workstation, or on this machine in its place."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from robotlearn.config.section import Names, Section


class SpoolConfig(Section):
    """The edge's log of records that the learner hasn't acknowledged yet."""

    max_bytes: Annotated[int, Field(ge=2**20)] = Field(
        2**30, description="Beyond this the oldest records are evicted, and counted."
    )
    sync: Literal["process", "power"] = Field(
        "process",
        description="What a record survives before it is sent: the death of the process, or the loss of power too "
        "(one fdatasync more per batch of records).",
    )


_KIND = "batch: many simulated arms as fast as they go; paced: one arm by the wall clock."


class _Edge(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="Its name in messages, metrics and file names; no two edges of a run share one."
    )
    robot: Names | None = Field(None, description="Which of the run's robots it has; null: all of them.")
    task: Names | None = Field(None, description="Which of the run's tasks it works on; null: all of them.")
    threads: Annotated[PositiveInt, Field(le=1024)] = Field(
        1, description="Threads of the policy and, in a batch edge, of the simulation."
    )
    segment_steps: PositiveInt = Field(32, description="Longest segment, in environment steps; an episode is cut so.")
    offline_episodes: NonNegativeInt = Field(
        256, description="Episodes that it still starts while it can't reach the learner, over all its arms."
    )
    spool: SpoolConfig = Field(SpoolConfig(), description="Its log of what isn't acknowledged yet.")


class BatchEdgeConfig(_Edge):
    """Many simulated arms in lockstep, as fast as they go."""

    kind: Literal["batch"] = Field(description=_KIND)
    arms: Annotated[PositiveInt, Field(le=65536)] = Field(
        64, description="Simulated arms, shared out evenly among its robots and tasks."
    )


class PacedEdgeConfig(_Edge):
    """One arm by the wall clock, behind an arm process and a policy server, as a real one is."""

    kind: Literal["paced"] = Field(description=_KIND)
    ahead: NonNegativeInt = Field(
        2, description="The next chunk is asked for this many steps before the running one ends."
    )


EdgeConfig = Annotated[BatchEdgeConfig | PacedEdgeConfig, Field(discriminator="kind")]
