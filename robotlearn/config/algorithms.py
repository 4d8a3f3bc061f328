"""The numbers of the algorithms. Imports no torch, so that an edge can read them.

The defaults are those with which `lift` is learnt by `configs/laptop.yaml`; a field's description is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from robotlearn.config.section import Misfit, Section, Widths


class SFTConfig(Section):
    """Supervised flow matching on demonstrations (imitation), before any reinforcement."""

    steps: NonNegativeInt = Field(
        1500, description="Optimiser steps; 0: none, demonstrations only give the scale of numbers and are replayed."
    )
    batch_size: PositiveInt = Field(256, description="Chunks per optimiser step, drawn with replacement.")
    lr: PositiveFloat = Field(1e-3, description="AdamW's learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay; 0 is plain Adam.")
    grad_clip: PositiveFloat = Field(1.0, description="Largest norm of the gradient; a larger one is scaled down.")


NAMES = ("ppo", "grpo", "sac", "rlpd", "hgdagger")
"""Our own; the first is the default."""
_NAME = (
    "ppo: from whole episodes; grpo: from groups of them that began alike; sac, rlpd, hgdagger: from all that is "
    "stored (section replay); or an algorithm that an installed package adds (entry-point group robotlearn.algorithms)."
)


class PathConfig(Section):
    """How PPO and GRPO move a policy along the path of its chunks (denoising steps, or one Gaussian step).

    Ratios are taken to a proximal policy, importance weights from it to the behaviour policy that ran on the robot.
    """

    clip: float = Field(0.2, gt=0, lt=1, description="c: the ratio to the proximal policy is held in [1 - c, 1 + c].")
    dual_clip: float = Field(
        3.0, gt=1, description="Where the advantage is negative, a unit's ratio counts at most this much."
    )
    behaviour_weight_cap: PositiveFloat = Field(
        2.0, description="Units whose weight, proximal over behaviour policy, is above this are masked and counted."
    )
    epochs: PositiveInt = Field(8, description="Passes over the chunks of one update.")
    minibatch: PositiveInt = Field(512, description="Chunks per optimiser step.")
    actor_lr: float = Field(3e-4, ge=0, description="Adam's learning rate of the policy; 0 leaves it as it is.")
    actor_lr_halving: PositiveInt | None = Field(
        None, description="The policy's learning rate halves, smoothly, every so many updates; null: it stays."
    )
    grad_clip: PositiveFloat = Field(0.5, description="Largest norm of the gradient, of each network that learns.")
    target_kl: PositiveFloat | None = Field(
        1.0, description="An update ends early once half the mean squared log-ratio is above this; null: never."
    )
    prox: Literal["recompute", "interpolate"] = Field(
        "recompute",
        description="Where the proximal policy's log-probabilities come from: recomputed by the learner when a batch "
        "arrives, or interpolated between behaviour and current policy (cheaper, but clips less with staler data).",
    )
    ratio: Literal["unit", "chunk"] = Field(
        "unit",
        description="One ratio per denoising step and action step, or one per chunk (far coarser: a single optimiser "
        "step can then move it by a KL of 1).",
    )
    lossy_images: bool = Field(
        False,
        description="Take images that an edge encoded as jpeg or video: what the policy did is then judged by slightly "
        "other images than those it saw, and the ratios are off by that.",
    )
    entropy_bonus: float = Field(
        0.0, ge=0, description="Reward for the entropy of noise whose size is learnt (Flow-Noise, gaussian), per unit."
    )


class PPOConfig(PathConfig):
    """PPO, asynchronous: advantages by a critic, over chunks."""

    name: Literal["ppo"] = Field("ppo", description=_NAME)
    gamma: float = Field(0.99, gt=0, le=1, description="Discount per environment step (not per chunk).")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Lambda of the advantage estimation over chunks.")
    timeout: Literal["bootstrap", "failure"] = Field(
        "bootstrap",
        description="What an episode is worth where the time limit cut it off: bootstrap: the value of its last state, "
        "as if it went on; failure: nothing, for tasks that must be done in time.",
    )
    critic_lr: PositiveFloat = Field(5e-4, description="Adam's learning rate of the value network.")
    critic_warmup: int = Field(2, ge=0, description="First updates, in which only the value network learns.")
    value_hidden: Annotated[Widths, Field(min_length=1, max_length=64)] = Field(
        (256, 256), description="Widths of the value network's hidden layers."
    )
    value_image_encoder: Literal["cnn", "resnet18"] = Field(
        "cnn", description="What reads the images for the value network."
    )
    normalize_advantages: bool = Field(
        True, description="Shift and scale the advantages of one update to mean 0 and deviation 1."
    )


class GRPOConfig(PathConfig):
    """GRPO (arXiv:2402.03300), asynchronous: no critic; an episode is compared with others that began alike.

    For batch edges: only a simulation can begin in the same scene again.
    """

    name: Literal["grpo"] = Field(description=_NAME)
    group: Annotated[int, Field(ge=2, le=65536)] = Field(
        8,
        description="G: so many episodes begin in the same scene under the same version and are compared with each "
        "other; with fewer than 8 their mean and deviation are rough.",
    )
    gamma: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Discount per environment step of an episode's return; 1: its sum of rewards. Below 1, sooner is "
        "better, also in a group that always succeeds.",
    )


class _ActorCriticConfig(Section):
    gamma: float = Field(0.96, gt=0, le=1, description="Discount per environment step (not per chunk).")
    timeout: Literal["bootstrap", "failure"] = Field(
        "bootstrap",
        description="What an episode is worth where the time limit cut it off: bootstrap: the value of its last state, "
        "as if it went on; failure: nothing, for tasks that must be done in time.",
    )
    reward_scale: PositiveFloat = Field(
        1.0,
        description="Rewards are multiplied by it for the critics. Where they are far below 1, what Adam's steps leave "
        "in a critic drowns them; initial_temperature wants the same factor.",
    )
    subset: PositiveInt = Field(
        2, description="So many critics, chosen at random for each step, make the target by their minimum."
    )
    critic_hidden: Annotated[Widths, Field(min_length=1, max_length=64)] = Field(
        (256, 256), description="Widths of each critic's hidden layers."
    )
    critic_layer_norm: bool = Field(True, description="Layer norm in the critics.")
    image_encoder: Literal["cnn", "resnet18"] = Field("cnn", description="What reads the images for the critics.")
    tau: float = Field(0.005, gt=0, le=1, description="Share of the critics that their targets take over per step.")
    actor_lr: float = Field(3e-4, ge=0, description="Adam's learning rate of the policy; 0 leaves it as it is.")
    critic_lr: PositiveFloat = Field(3e-4, description="Adam's learning rate of the critics.")
    temperature_lr: float = Field(3e-4, ge=0, description="Adam's learning rate of the temperature; 0 fixes it.")
    initial_temperature: PositiveFloat = Field(1.0, description="What entropy is worth at the start.")
    target_entropy: float | None = Field(
        None,
        description="Entropy of one action of the chunk, normalised, that the temperature holds; null: ln(bound) - 1/2 "
        "per dim, so -1/2 where the policy's bound is 1.",
    )
    entropy_backup: bool = Field(False, description="Count the entropy in the critics' targets, too.")
    actor_every: PositiveInt = Field(1, description="Optimiser steps of the critics per one of the policy.")
    grad_clip: PositiveFloat = Field(10.0, description="Largest norm of the gradient, policy and critics each.")

    @model_validator(mode="after")
    def _subset_of_the_critics(self) -> Self:
        critics = getattr(self, "critics")  # noqa: B009
        if self.subset > critics:
            raise Misfit(("subset",), f"{self.subset} is not valid, expected at most critics ({critics})")
        return self


class SACConfig(_ActorCriticConfig):
    """Soft actor-critic (arXiv:1812.05905) on chunks of a squashed_gaussian policy, from all that is stored."""

    name: Literal["sac"] = Field(description=_NAME)
    critics: PositiveInt = Field(2, description="How many critics there are.")


class RLPDConfig(_ActorCriticConfig):
    """RLPD (arXiv:2302.02948): SAC with many critics, layer norm in them, and half of each batch demonstrations."""

    name: Literal["rlpd"] = Field(description=_NAME)
    critics: PositiveInt = Field(10, description="How many critics there are.")


class HGDaggerConfig(Section):
    """HG-DAgger (arXiv:1810.02890): imitation of what a person does when they take over, and of demonstrations."""

    name: Literal["hgdagger"] = Field(description=_NAME)
    lr: PositiveFloat = Field(3e-4, description="AdamW's learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay; 0 is plain Adam.")
    grad_clip: PositiveFloat = Field(1.0, description="Largest norm of the gradient; a larger one is scaled down.")


class OtherAlgorithmConfig(Section):
    """An algorithm of an installed package."""

    name: Annotated[str, Field(min_length=1)] = Field(description=_NAME)
    gamma: float = Field(0.99, gt=0, le=1, description="Discount per environment step (not per chunk).")
    options: dict[str, Any] = Field({}, description="What else it takes.")


def _tag(value: Any) -> str:
    name = value.get("name", NAMES[0]) if isinstance(value, dict) else getattr(value, "name", NAMES[0])
    return name if name in NAMES else "other"


AlgorithmConfig = Annotated[
    Annotated[PPOConfig, Tag("ppo")]
    | Annotated[GRPOConfig, Tag("grpo")]
    | Annotated[SACConfig, Tag("sac")]
    | Annotated[RLPDConfig, Tag("rlpd")]
    | Annotated[HGDaggerConfig, Tag("hgdagger")]
    | Annotated[OtherAlgorithmConfig, Tag("other")],
    Discriminator(_tag),
]
