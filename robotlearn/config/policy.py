"""The policy: its kind, its network and how it explores."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from robotlearn.config.lerobot_policies import ACTConfig, DiffusionConfig, VLAConfig
from robotlearn.config.policy_kind import KIND, KINDS, VLAS, Denoising, Kind, Layers, SimulatedDelay
from robotlearn.config.section import Misfit, Widths

Hidden = Annotated[Widths, Field(min_length=1, max_length=64)]


class _Policy(Kind):
    image_encoder: Literal["cnn", "resnet18", "resnet18_imagenet"] = Field(
        "cnn",
        description="What reads the images: a small CNN, ResNet-18 from nothing, or with ImageNet's weights (loaded by "
        "torchvision from its hub).",
    )


class _FlowConfig(Denoising, _Policy):
    pass


class FlowMLPConfig(_FlowConfig):
    """Flow matching over chunks of actions, the velocity given by an MLP."""

    kind: Literal["flow_mlp"] = Field("flow_mlp", description=KIND)
    hidden: Hidden = Field((256, 256, 256), description="Widths of the hidden layers.")


class FlowTransformerConfig(SimulatedDelay, _FlowConfig):
    """Flow matching over chunks of actions, the velocity given by a transformer."""

    kind: Literal["flow_transformer"] = Field(description=KIND)
    width: PositiveInt = Field(128, description="Width of a token; a multiple of heads.")
    depth: Layers = Field(3, description="Layers.")
    heads: PositiveInt = Field(4, description="Attention heads.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise Misfit(("width",), f"{self.width} is not valid, expected a multiple of heads ({self.heads})")
        return self


class GaussianConfig(_Policy):
    """A mean for each action of the chunk and a spread that is learnt with it."""

    kind: Literal["gaussian"] = Field(description=KIND)
    hidden: Hidden = Field((256, 256), description="Widths of the hidden layers.")
    initial_std: PositiveFloat = Field(0.5, description="Standard deviation at the start, in normalised actions.")


class SquashedGaussianConfig(_Policy):
    """A mean and a spread for each action of the chunk, squashed into bounds: the policy that sac and rlpd need."""

    kind: Literal["squashed_gaussian"] = Field(description=KIND)
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

    kind: Annotated[str, Field(min_length=1)] = Field(description=KIND)
    denoising_steps: PositiveInt = Field(1, description="N: steps of the path from noise to a chunk.")
    options: dict[str, Any] = Field({}, description="What else its factory takes.")

    @property
    def path_steps(self) -> int:
        return self.denoising_steps


def _tag(value: Any) -> str:
    kind = value.get("kind", KINDS[0]) if isinstance(value, dict) else getattr(value, "kind", KINDS[0])
    return VLAS[0] if kind in VLAS else kind if kind in KINDS else "other"


PolicyConfig = Annotated[
    Annotated[FlowMLPConfig, Tag("flow_mlp")]
    | Annotated[FlowTransformerConfig, Tag("flow_transformer")]
    | Annotated[GaussianConfig, Tag("gaussian")]
    | Annotated[SquashedGaussianConfig, Tag("squashed_gaussian")]
    | Annotated[VLAConfig, Tag(VLAS[0])]
    | Annotated[ACTConfig, Tag("act")]
    | Annotated[DiffusionConfig, Tag("diffusion")]
    | Annotated[OtherPolicyConfig, Tag("other")],
    Discriminator(_tag),
]
