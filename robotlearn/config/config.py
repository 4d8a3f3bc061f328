"""The whole config of one run, and the rules that hold between its parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from robotlearn.config.algorithms import (
    AlgorithmConfig,
    GRPOConfig,
    HGDaggerConfig,
    PathConfig,
    PPOConfig,
    RLPDConfig,
    SACConfig,
    SFTConfig,
)
from robotlearn.config.edge import DEFAULT, LATE, BatchEdgeConfig, EdgeConfig, PacedEdgeConfig
from robotlearn.config.environment import ObservationsConfig, RandomizationConfig
from robotlearn.config.learner import LearnerConfig
from robotlearn.config.lerobot_policies import VLAConfig
from robotlearn.config.policy import FlowMLPConfig, PolicyConfig
from robotlearn.config.policy_kind import IMITATORS, KINDS, VLAS, SimulatedDelay
from robotlearn.config.replay import ReplayConfig
from robotlearn.config.section import Interval, ListAsTuple, Misfit, Names, Section
from robotlearn.wire.encodings import IMAGES, LOSSY


class DemonstrationsConfig(Section):
    """Episodes from which the policy is taught before any reinforcement: of its scripted expert, or a person's."""

    path: str | None = Field(
        None,
        description="A folder that `robotlearn record` made, for a run of one robot and one task: all its successes; "
        "null: the expert's.",
    )

    episodes: NonNegativeInt = Field(
        16,
        description="Demonstrations per robot and task; 0: none, the policy starts from nothing (with "
        "start.success_band null).",
    )
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
    every: PositiveInt | None = Field(
        None,
        description="Steps of imitation between two measurements; null: 50 with a band, no measurement without one.",
    )

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
    robot: Names = Field(
        description="A robot spec, or a list of them: a name in hardware_specs/, or the path of a YAML file."
    )
    task: Names = Field(description="A task's name, or a list of them: each robot learns each task.")
    episode_steps: Annotated[PositiveInt, Field(le=10**6)] | None = Field(
        None, description="Longest episode, in steps; null: the task's own."
    )
    observations: ObservationsConfig = Field(ObservationsConfig(), description="What the policy is shown.")
    reward: Literal["sparse", "shaped"] = Field(
        "sparse", description="1 at success, else 0; shaped: besides, what each step adds to the task's progress."
    )
    randomization: RandomizationConfig = Field(RandomizationConfig(), description="How much the physics vary.")
    policy: PolicyConfig = Field(FlowMLPConfig(), description="The policy.")
    demonstrations: DemonstrationsConfig = Field(DemonstrationsConfig(), description="What the policy is taught from.")
    sft: SFTConfig = Field(SFTConfig(), description="How it is taught.")
    start: StartConfig = Field(StartConfig(), description="How good it is when reinforcement starts.")
    algorithm: AlgorithmConfig = Field(PPOConfig(), description="How it is reinforced.")
    replay: ReplayConfig = Field(ReplayConfig(), description="What off-policy algorithms draw batches from.")
    learner: LearnerConfig = Field(LearnerConfig(), description="The learner's process.")
    edges: Annotated[tuple[EdgeConfig, ...], ListAsTuple] = Field(
        (),
        description="The edges that `train` starts on this machine, and that `edge --name` chooses from; none are "
        "needed without updates.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for key in ("robot", "task"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise Misfit((key,), f"{list(getattr(self, key))} is not valid, expected each name once")
        if len(self.task) > 1 and not self.observations.instruction:
            raise Misfit(
                ("observations", "instruction"),
                f"false is not valid with {len(self.task)} tasks, expected true, or the policy can't tell them apart",
            )
        if not self.observations.environment_state and not self.observations.cameras:
            raise Misfit(
                ("observations", "cameras"),
                "[] is not valid without environment_state, expected a camera, or the policy could not see its objects",
            )
        if self.observations.image_size == "auto" and not isinstance(self.policy, VLAConfig):
            raise Misfit(
                ("observations", "image_size"),
                f"'auto' is not valid with policy {self.policy.kind}, expected height and width: only a checkpoint "
                "says what it takes",
            )
        if self.demonstrations.path is not None and len(self.cells()) > 1:
            raise Misfit(
                ("demonstrations", "path"),
                f"'{self.demonstrations.path}' is not valid with {len(self.cells())} robots and tasks, expected one",
            )
        if self.demonstrations.path is not None and not self.demonstrations.episodes:
            raise Misfit(("demonstrations", "episodes"), "0 is not valid with demonstrations.path, expected at least 1")
        if not self.demonstrations.episodes and self.start.success_band is not None:
            raise Misfit(
                ("start", "success_band"),
                f"{list(self.start.success_band)} is not valid without demonstrations, expected null",
            )
        if self.learner.updates and not self.edges:
            raise Misfit(
                ("edges",), f"[] is not valid with {self.learner.updates} learner.updates, expected at least one edge"
            )
        self._algorithm_fits()
        names = [edge.name for edge in self.edges]
        self._approval_fits(names)
        horizon = self.policy.horizon
        for index, edge in enumerate(self.edges):
            if isinstance(edge, PacedEdgeConfig) and edge.server is not None:
                self._server_fits(index, edge)
            if self.group > 1:
                self._groups_fit(index, edge)
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
            if isinstance(edge, PacedEdgeConfig):
                self._execution_fits(index, edge)
            self._edge_fits(index, edge)
        return self

    def _algorithm_fits(self) -> None:
        algorithm, kind = self.algorithm, self.policy.kind
        if not self.sft.steps and self.start.success_band is not None:
            raise Misfit(
                ("start", "success_band"),
                f"{list(self.start.success_band)} is not valid with sft.steps 0, expected null: nothing is imitated",
            )
        if kind in (*VLAS, *IMITATORS) and len(self.robot) > 1:
            raise Misfit(
                ("robot",),
                f"{list(self.robot)} is not valid with policy.kind {kind}, expected one: LeRobot's policies have the "
                "joints of one robot",
            )
        if kind in IMITATORS and not isinstance(algorithm, HGDaggerConfig) and self.learner.updates:
            raise Misfit(
                ("policy", "kind"),
                f"'{kind}' is not valid with {algorithm.name}: its chunks have no probability. It is for imitation: "
                "sft alone (learner.updates=0), or algorithm.name=hgdagger",
            )
        if isinstance(algorithm, PPOConfig) and kind in VLAS and algorithm.value_image_encoder != "cnn":
            raise Misfit(
                ("algorithm", "value_image_encoder"),
                f"'{algorithm.value_image_encoder}' is not valid with policy.kind {kind}, expected the default, cnn: "
                "the critic sees what the vision-language model made of the images",
            )
        if isinstance(algorithm, PathConfig):
            for key, value in ReplayConfig():
                if getattr(self.replay, key) != value:
                    wrong = f"not valid with {algorithm.name}, which learns from each episode once"
                    raise Misfit(("replay", key), wrong)
            if (given := self.learner.episodes_per_update) % self.group:
                raise Misfit(
                    ("learner", "episodes_per_update"),
                    f"{given} is not valid with grpo, expected a multiple of algorithm.group ({self.group})",
                )
            return
        if isinstance(algorithm, SACConfig | RLPDConfig) and kind in KINDS and kind != "squashed_gaussian":
            raise Misfit(
                ("policy", "kind"),
                f"'{kind}' is not valid with {algorithm.name}, expected squashed_gaussian: it needs the gradient of "
                "what is drawn",
            )
        if isinstance(algorithm, RLPDConfig | HGDaggerConfig) and self.replay.sampling is None:
            self._there_will_be("demonstrations", ("algorithm", "name"), f"'{algorithm.name}'")
        if isinstance(algorithm, HGDaggerConfig) and self.replay.sampling is None:
            self._there_will_be("interventions", ("algorithm", "name"), "'hgdagger'")
        known = isinstance(algorithm, SACConfig | RLPDConfig | HGDaggerConfig)
        default = LearnerConfig.model_fields["episodes_per_update"].default
        if known and (given := self.learner.episodes_per_update) != default:
            raise Misfit(
                ("learner", "episodes_per_update"),
                f"{given} is not valid with {algorithm.name}, which draws its batches: replay.batch_size and "
                "replay.steps_per_update say what an update learns from; expected the default, "
                f"learner.episodes_per_update={default}",
            )
        self._replay_fits()
        for index, part in enumerate(self.replay.sampling or ()):
            self._there_will_be(part.source, ("replay", "sampling", index, "source"), f"'{part.source}'")

    def _replay_fits(self) -> None:
        replay, imitates = self.replay, isinstance(self.algorithm, HGDaggerConfig)
        prioritized = [index for index, part in enumerate(replay.sampling or ()) if part.how == "prioritized"]
        if imitates and prioritized:
            raise Misfit(
                ("replay", "sampling", prioritized[0], "how"), "'prioritized' is not valid with hgdagger, which has no "
                "critic whose errors would say what to draw"
            )  # fmt: skip
        if imitates and replay.n_step != 1:
            raise Misfit(("replay", "n_step"), f"{replay.n_step} is not valid with hgdagger, which has no critic")
        for key in ("priority_exponent", "priority_correction"):
            default = type(replay).model_fields[key].default
            known = isinstance(self.algorithm, SACConfig | RLPDConfig | HGDaggerConfig)
            if known and not prioritized and (value := getattr(replay, key)) != default:
                raise Misfit(("replay", key), f"{value} is not valid where no part of replay.sampling is prioritized")

    def _there_will_be(self, source: str, key: tuple[str | int, ...], given: str) -> None:
        """That batches are not to be made of what never comes, which they would wait for."""
        if source == "demonstrations" and not self.demonstrations.episodes:
            raise Misfit(key, f"{given} is not valid without demonstrations, expected demonstrations.episodes above 0")
        if source == "interventions" and self.edges and all(edge.person is None for edge in self.edges):
            raise Misfit(key, f"{given} is not valid where nobody intervenes, expected an edge with a person")

    def _approval_fits(self, names: list[str]) -> None:
        approval = self.learner.approval
        if approval is None:
            return
        paced = [edge.name for edge in self.edges if isinstance(edge, PacedEdgeConfig)]
        for name in approval.edges or ():
            if name not in names:
                wrong = f"'{name}' is not valid, expected of: {', '.join(names)}"
                raise Misfit(("learner", "approval", "edges"), wrong)
        held = paced if approval.edges is None else list(approval.edges)
        if not held:
            raise Misfit(("learner", "approval", "edges"), "null is not valid without a paced edge, expected names")
        if approval.trial_edge is not None and approval.trial_edge not in held:
            raise Misfit(
                ("learner", "approval", "trial_edge"),
                f"'{approval.trial_edge}' is not valid, expected one that needs approval: {', '.join(held)}",
            )

    def _edge_fits(self, index: int, edge: EdgeConfig) -> None:
        for key in ("robot", "task"):
            for name in getattr(edge, key) or ():
                if name not in getattr(self, key):
                    raise Misfit(
                        ("edges", index, key),
                        f"'{name}' is not valid, expected of the run's own: {', '.join(getattr(self, key))}",
                    )
        count = len(self.cells(edge))
        if isinstance(edge, PacedEdgeConfig) and count > 1:
            key = "robot" if len(edge.robot or self.robot) > 1 else "task"
            raise Misfit(
                ("edges", index, key),
                "null is not valid, expected one name: a paced edge has one arm that does one task",
            )
        if isinstance(edge, BatchEdgeConfig) and edge.arms < count:
            raise Misfit(
                ("edges", index, "arms"),
                f"{edge.arms} is not valid, expected at least {count}, one for each of its robots and tasks",
            )
        self._images_fit(index, edge)

    def _execution_fits(self, index: int, edge: PacedEdgeConfig) -> None:
        here, way, policy = ("edges", index, "execution"), edge.execution.way, self.policy
        ahead, horizon = edge.execution.ahead, policy.horizon
        if way != "wait" and ahead >= horizon:
            raise Misfit(
                (*here, "ahead"),
                f"{ahead} is not valid, expected less than policy.horizon ({horizon}), or a chunk would be asked for "
                "before the one in front of it has begun",
            )
        if way in ("overlap", "rtc", "prefix") and self.randomization.latency:
            raise Misfit(
                (*here, "way"),
                f"'{way}' is not valid with randomization.latency {self.randomization.latency}, expected 0: it counts "
                "what the arm was told as done",
            )
        if way in LATE and edge.explore:
            raise Misfit(
                (*here, "way"),
                f"'{way}' is not valid with explore true, expected explore false: what the arm does is not what the "
                "recorded probability is of",
            )
        if way == "rtc" and policy.kind in KINDS and not policy.kind.startswith("flow") and policy.kind not in VLAS:
            raise Misfit((*here, "way"), f"'rtc' is not valid with policy.kind {policy.kind}, expected a flow policy")
        if way == "prefix" and not (isinstance(policy, SimulatedDelay) and ahead <= policy.max_delay):
            raise Misfit(
                (*here, "way"),
                "'prefix' is not valid with this policy, expected policy.kind flow_transformer or a VLA, with "
                f"policy.max_delay of at least execution.ahead ({ahead}): it must have been trained with so much delay",
            )

    def _server_fits(self, index: int, edge: PacedEdgeConfig) -> None:
        if self.learner.approval is not None:
            raise Misfit(
                ("edges", index, "server"),
                f"'{edge.server}' is not valid with learner.approval, which tries weights on one arm, expected null",
            )
        first = next(
            other for other in self.edges if isinstance(other, PacedEdgeConfig) and other.server == edge.server
        )
        # Where the objects are is of another shape in each task.
        same = ("task",) if self.observations.environment_state else ()
        for key in ("robot", *same, "execution", "device", "threads", "compile", "explore"):
            here, there = getattr(edge, key), getattr(first, key)
            if here != there:
                raise Misfit(
                    ("edges", index, key),
                    f"not that of {first.name}, with which it shares the policy server '{edge.server}': expected equal "
                    f"{key}",
                )

    def _groups_fit(self, index: int, edge: EdgeConfig) -> None:
        least = self.group * len(self.cells(edge))
        if isinstance(edge, PacedEdgeConfig):
            raise Misfit(
                ("edges", index, "kind"),
                "'paced' is not valid with grpo, expected batch: only a simulation can begin in the same scene again",
            )
        if edge.person is not None:
            raise Misfit(
                ("edges", index, "person"),
                "not valid with grpo, expected null: what a person did would be credited to the policy",
            )
        if edge.arms % self.group or edge.arms < least:
            raise Misfit(
                ("edges", index, "arms"),
                f"{edge.arms} is not valid with grpo, expected a multiple of algorithm.group ({self.group}), at least "
                f"{least}",
            )

    def _images_fit(self, index: int, edge: EdgeConfig) -> None:
        cameras = self.observations.cameras
        for camera in edge.images:
            if camera not in (*cameras, DEFAULT):
                raise Misfit(
                    ("edges", index, "images", camera),
                    f"no camera of observations.cameras, which are {', '.join(cameras)}"
                    if cameras
                    else "not valid without observations.cameras",
                )
        if not isinstance(self.algorithm, PathConfig) or self.algorithm.lossy_images or not self.learner.updates:
            return
        encodings = edge.encodings()
        for camera in cameras:
            how = encodings.image(IMAGES + camera).name
            if how in LOSSY:
                raise Misfit(
                    ("edges", index, "images"),
                    f"{how} is not valid for {camera} with {self.algorithm.name}, which computes probabilities anew "
                    "from the images that the policy saw, and gets others: expected raw or lossless, or "
                    "algorithm.lossy_images=true",
                )

    def cells(self, edge: EdgeConfig | None = None) -> tuple[tuple[str, str], ...]:
        """Each (robot, task) of the run, or of one of its edges."""
        robots = self.robot if edge is None or edge.robot is None else edge.robot
        tasks = self.task if edge is None or edge.task is None else edge.task
        return tuple((robot, task) for robot in robots for task in tasks)

    @property
    def group(self) -> int:
        """So many episodes begin together, in the same scene; 1: each by itself."""
        return self.algorithm.group if isinstance(self.algorithm, GRPOConfig) else 1

    def edge(self, name: str) -> EdgeConfig | None:
        """The edge of that name, or None."""
        return next((edge for edge in self.edges if edge.name == name), None)

    def contract(self) -> dict[str, str | int | float]:
        """What this config adds to the contract that edge and learner must hold alike, by the keys of the config.

        The policy adds its features and shapes. What a station is (robot, arms, paths) is its own business.
        """
        return {
            "task": ", ".join(self.task),
            **{f"policy.{key}": _value(value) for key, value in self.policy.model_dump().items()},
            "policy.path_steps": self.policy.path_steps,
            "observations.instruction": int(self.observations.instruction),
            "reward": self.reward,
            **({} if isinstance(self.algorithm, HGDaggerConfig) else {"algorithm.gamma": self.algorithm.gamma}),
            **({"algorithm.group": self.group} if isinstance(self.algorithm, GRPOConfig) else {}),
        }


def _value(value: Any) -> str | int | float:
    """A key's value as a contract holds it."""
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str | int | float) else repr(value)
