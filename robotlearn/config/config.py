"""The whole config of one run, and the rules that hold between its parts."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from robotlearn.config.algorithms import PPOConfig, SFTConfig
from robotlearn.config.edge import EdgeConfig, PacedEdgeConfig
from robotlearn.config.learner import LearnerConfig
from robotlearn.config.policy import PolicyConfig
from robotlearn.config.section import Interval, ListAsTuple, Misfit, Section


class DemonstrationsConfig(Section):
    """Episodes of the task's scripted expert, from which the policy is taught before any reinforcement."""

    episodes: PositiveInt = Field(16, description="Demonstrations.")
    noise: NonNegativeFloat | None = Field(
        None, description="Deviation of the noise on the expert's actions, in their own units; null: 0.005."
    )


class StartConfig(Section):
    """How good a policy reinforcement starts from, chosen by measurement."""

    success_band: Interval | None = Field(
        (0.30, 0.65),
        description="Imitation goes on until the policy's measured success lies in here; null: for all of sft.steps.",
    )
    episodes: PositiveInt = Field(200, description="Episodes of each measurement, without exploration noise.")
    every: PositiveInt = Field(50, description="Steps of imitation between two measurements.")

    @model_validator(mode="after")
    def _band_is_an_interval(self) -> Self:
        if self.success_band is not None and not 0 <= self.success_band[0] < self.success_band[1] <= 1:
            raise Misfit(
                ("success_band",),
                f"{list(self.success_band)} is not valid, expected [low, high] with 0 <= low < high <= 1",
            )
        return self


class Config(Section):
    """One run: which robot learns which task, with which policy and algorithm, on which processes."""

    seed: NonNegativeInt = Field(lt=2**63, description="Every random number of the run follows from it.")
    robot: str = Field(min_length=1, description="A robot spec: a name in hardware_specs/, or the path of a YAML file.")
    task: str = Field(min_length=1, description="The task's name.")
    episode_steps: Annotated[PositiveInt, Field(le=10**6)] | None = Field(
        None, description="Longest episode, in steps; null: the task's own."
    )
    policy: PolicyConfig = Field(PolicyConfig(), description="The policy.")
    demonstrations: DemonstrationsConfig = Field(DemonstrationsConfig(), description="What the policy is taught from.")
    sft: SFTConfig = Field(SFTConfig(), description="How it is taught.")
    start: StartConfig = Field(StartConfig(), description="How good it is when reinforcement starts.")
    algorithm: PPOConfig = Field(PPOConfig(), description="How it is reinforced.")
    learner: LearnerConfig = Field(LearnerConfig(), description="The learner's process.")
    edges: Annotated[tuple[EdgeConfig, ...], ListAsTuple, Field(min_length=1)] = Field(
        description="The edges that `train` starts on this machine, and that `edge --name` chooses from."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [edge.name for edge in self.edges]
        horizon = self.policy.horizon
        for index, edge in enumerate(self.edges):
            if edge.name in names[:index]:
                raise Misfit(
                    ("edges", index, "name"),
                    f"'{edge.name}' is the name of edges.{names.index(edge.name)} too, expected a name of its own, "
                    "since a record is known by its edge",
                )
            if edge.segment_steps < horizon:
                raise Misfit(
                    ("edges", index, "segment_steps"),
                    f"{edge.segment_steps} is not valid, expected at least policy.horizon ({horizon}), or every chunk "
                    "would be cut in two",
                )
            if isinstance(edge, PacedEdgeConfig) and edge.ahead >= horizon:
                raise Misfit(
                    ("edges", index, "ahead"),
                    f"{edge.ahead} is not valid, expected less than policy.horizon ({horizon}), or a chunk would be "
                    "asked for before the one in front of it has begun",
                )
        return self

    def edge(self, name: str) -> EdgeConfig | None:
        """The edge of that name, or None."""
        return next((edge for edge in self.edges if edge.name == name), None)

    def contract(self) -> dict[str, str | int | float]:
        """What this config adds to the contract that edge and learner must hold alike, by the keys of the config.

        The policy adds its features and shapes. What a station is (robot, arms, paths) is its own business.
        """
        return {
            "task": self.task,
            "policy.kind": self.policy.kind,
            "policy.horizon": self.policy.horizon,
            "policy.hidden": "x".join(map(str, self.policy.hidden)),
            "policy.denoising_steps": self.policy.denoising_steps,
            "policy.noise_level": self.policy.noise_level,
            "policy.stochastic_steps": self.policy.stochastic_steps,
            "policy.deterministic_last": int(self.policy.deterministic_last),
            "algorithm.gamma": self.algorithm.gamma,
        }
