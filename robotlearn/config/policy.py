"""The policy: its kind, its network and how it explores."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from robotlearn.config.section import Interval, Misfit, Section, Widths

KINDS = ("flow_mlp", "flow_transformer", "gaussian", "squashed_gaussian")
"""Our own; the first is the default."""
_KIND = (
    "flow_mlp, flow_transformer: flow matching, with an MLP or a transformer; gaussian: mean and spread; "
    "squashed_gaussian: both by what is seen, bounded, for sac and rlpd; or a kind that an installed package adds "
    "(entry-point group robotlearn.policies)."
)
Hidden = Annotated[Widths, Field(min_length=1, max_length=64)]


class _Policy(Section):
    horizon: PositiveInt = Field(4, description="H: environment steps that one chunk of actions covers.")
    image_encoder: Literal["cnn", "resnet18", "resnet18_imagenet"] = Field(
        "cnn",
        description="What reads the images: a small CNN, ResNet-18 from nothing, or with ImageNet's weights (loaded by "
        "torchvision from its hub).",
    )

    @property
    def path_steps(self) -> int:
        """N: steps of the path from noise to a chunk that is recorded."""
        return 1


class _FlowConfig(_Policy):
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
        description="Which denoising steps explore: all, or one at random per chunk (half the update's cost at N = 2).",
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


class FlowMLPConfig(_FlowConfig):
    """Flow matching over chunks of actions, the velocity given by an MLP."""

    kind: Literal["flow_mlp"] = Field("flow_mlp", description=_KIND)
    hidden: Hidden = Field((256, 256, 256), description="Widths of the hidden layers.")


class FlowTransformerConfig(_FlowConfig):
    """Flow matching over chunks of actions, the velocity given by a transformer."""

    kind: Literal["flow_transformer"] = Field(description=_KIND)
    width: PositiveInt = Field(128, description="Width of a token; a multiple of heads.")
    depth: Annotated[PositiveInt, Field(le=256)] = Field(3, description="Layers.")
    heads: PositiveInt = Field(4, description="Attention heads.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise Misfit(("width",), f"{self.width} is not valid, expected a multiple of heads ({self.heads})")
        return self


class GaussianConfig(_Policy):
    """A mean for each action of the chunk and a spread that is learnt with it."""

    kind: Literal["gaussian"] = Field(description=_KIND)
    hidden: Hidden = Field((256, 256), description="Widths of the hidden layers.")
    initial_std: PositiveFloat = Field(0.5, description="Standard deviation at the start, in normalised actions.")


class SquashedGaussianConfig(_Policy):
    """A mean and a spread for each action of the chunk, squashed into bounds: the policy that sac and rlpd need."""

    kind: Literal["squashed_gaussian"] = Field(description=_KIND)
    hidden: Hidden = Field((256, 256), description="Widths of the hidden layers.")
    bound: PositiveFloat = Field(
        1.0,
        description="Largest action, in standard deviations of the actions' statistics. Without demonstrations those "
        "are of random motion, and 1 is half of what an arm may do per step; with demonstrations 3 leaves room.",
    )
    initial_std: float = Field(
        0.5, gt=0.007, lt=7, description="Standard deviation at the start, before it is squashed, in bounds."
    )


class OtherPolicyConfig(_Policy):
    """A policy of an installed package."""

    kind: Annotated[str, Field(min_length=1)] = Field(description=_KIND)
    denoising_steps: PositiveInt = Field(1, description="N: steps of the path from noise to a chunk.")
    options: dict[str, Any] = Field({}, description="What else its factory takes.")

    @property
    def path_steps(self) -> int:
        return self.denoising_steps


def _tag(value: Any) -> str:
    kind = value.get("kind", KINDS[0]) if isinstance(value, dict) else getattr(value, "kind", KINDS[0])
    return kind if kind in KINDS else "other"


PolicyConfig = Annotated[
    Annotated[FlowMLPConfig, Tag("flow_mlp")]
    | Annotated[FlowTransformerConfig, Tag("flow_transformer")]
    | Annotated[GaussianConfig, Tag("gaussian")]
    | Annotated[SquashedGaussianConfig, Tag("squashed_gaussian")]
    | Annotated[OtherPolicyConfig, Tag("other")],
    Discriminator(_tag),
]
