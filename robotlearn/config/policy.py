"""The policy: its kind, its network and how it explores."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from robotlearn.config.complaint import shown
from robotlearn.config.section import Interval, ListAsTuple, Misfit, Section, Widths

VLAS = ("smolvla", "pi0", "pi05")
"""LeRobot's vision-language-action models."""
IMITATORS = ("act", "diffusion")
"""LeRobot's policies whose chunks have no probability: for imitation alone."""
KINDS = ("flow_mlp", "flow_transformer", "gaussian", "squashed_gaussian", *VLAS, *IMITATORS)
"""Our own and LeRobot's; the first is the default."""
_KIND = (
    "flow_mlp, flow_transformer: flow matching, with an MLP or a transformer; gaussian: mean and spread; "
    "squashed_gaussian: both by what is seen, bounded, for sac and rlpd; smolvla, pi0, pi05: LeRobot's VLAs (extra "
    "vla); act, diffusion: LeRobot's policies for imitation alone (extra vla); or a kind that an installed package "
    "adds (entry-point group robotlearn.policies)."
)
Layers = Annotated[PositiveInt, Field(le=256)]
Hidden = Annotated[Widths, Field(min_length=1, max_length=64)]


class _Kind(Section):
    horizon: PositiveInt = Field(4, description="H: environment steps that one chunk of actions covers.")

    @property
    def path_steps(self) -> int:
        """N: steps of the path from noise to a chunk that is recorded."""
        return 1

    def path_dim(self, action_dim: int) -> int:
        """Entries of an action as a path has them, given those of the run's actions."""
        return action_dim


class _Policy(_Kind):
    image_encoder: Literal["cnn", "resnet18", "resnet18_imagenet"] = Field(
        "cnn",
        description="What reads the images: a small CNN, ResNet-18 from nothing, or with ImageNet's weights (loaded by "
        "torchvision from its hub).",
    )


class _Denoising(_Kind):
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


class LoRAConfig(Section):
    """Low-rank additions to the weights (arXiv:2106.09685)."""

    rank: PositiveInt = Field(16, description="Of each addition.")
    alpha: PositiveFloat = Field(16, description="Additions count alpha / rank times.")
    targets: str | None = Field(
        None, description="A regular expression for the names of the linear layers; null: those that LeRobot proposes."
    )


class VLAConfig(_Denoising):
    """A VLA of LeRobot: a vision-language model that looks once per chunk, and a flow expert that walks to it."""

    kind: Literal["smolvla", "pi0", "pi05"] = Field(description=_KIND)
    horizon: PositiveInt = Field(50, description="H: environment steps that one chunk of actions covers.")
    denoising_steps: PositiveInt = Field(10, description="N: steps from noise to a chunk.")
    pretrained: Annotated[str, Field(min_length=1)] = Field(
        description="A checkpoint in LeRobot's format: a folder, or a repository of the hub, as lerobot/smolvla_base."
    )
    cameras: dict[str, str | None] = Field(
        {},
        description="For a camera of the checkpoint, by its name there without 'observation.images.' and with _ for "
        "dots, that of the robot, which may come several times; null: it stays dark. Those of equal names need none.",
    )
    statistics: Literal["data", "checkpoint"] = Field(
        "data",
        description="What actions and joints are normalised by: the demonstrations of this run, or what the checkpoint "
        "was trained with, if it was with this robot.",
    )
    width: PositiveInt = Field(32, description="Entries of an action in the checkpoint, its max_action_dim.")
    train: Literal["full", "expert", "lora"] = Field(
        "full",
        description="What is learnt: all, the action expert alone (the vision-language model stays as it is), or "
        "LoRA's low-rank additions. Only what is learnt is published.",
    )
    lora: LoRAConfig = Field(LoRAConfig(), description="Of what; with train=lora only.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="What products are computed in.")
    gradient_checkpointing: bool = Field(
        False, description="Compute a layer's inside anew for its gradient: less memory for a third more time."
    )

    @model_validator(mode="after")
    def _additions_are_wanted(self) -> Self:
        # A dumped config holds the defaults too: only another value can have been wanted.
        if self.train != "lora" and self.lora != LoRAConfig():
            raise Misfit(("lora",), f"not valid with train {self.train}, expected it with lora only")
        return self

    def path_dim(self, action_dim: int) -> int:
        return self.width


class _ImitatorConfig(_Kind):
    pretrained: str | None = Field(
        None,
        description="A checkpoint in LeRobot's format to start from, whose sizes hold: a folder, or a repository of "
        "the hub; null: from nothing.",
    )
    cameras: dict[str, str] = Field(
        {},
        description="For a camera of the checkpoint, by its name there without 'observation.images.' and with _ for "
        "dots, that of the robot, which may come several times. Those of equal names need none.",
    )
    statistics: Literal["data", "checkpoint"] = Field(
        "data",
        description="What actions and joints are normalised by: the demonstrations of this run, or what the checkpoint "
        "was trained with, if it was with this robot.",
    )
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = Field(
        "resnet18", description="What reads the images."
    )
    pretrained_backbone_weights: str | None = Field(
        None,
        description="Its weights at the start, by torchvision's name, as ResNet18_Weights.IMAGENET1K_V1 (loaded from "
        "its hub); null: random ones.",
    )

    @model_validator(mode="after")
    def _sizes_are_the_checkpoints(self) -> Self:
        for key in ("statistics", "cameras") if self.pretrained is None else self._sizes():
            value, default = getattr(self, key), type(self).model_fields[key].default
            # A dumped config holds the defaults too: only another value can have been wanted.
            if value != default:
                said = "without pretrained" if self.pretrained is None else "with pretrained, whose own holds"
                raise Misfit((key,), f"{shown(value)} is not valid {said}, expected the default, {shown(default)}")
        return self

    @classmethod
    def _sizes(cls) -> list[str]:
        free = {"kind", "horizon", "pretrained", "cameras", "statistics"}
        return [key for key in cls.model_fields if key not in free]


class ACTConfig(_ImitatorConfig):
    """ACT of LeRobot (arXiv:2304.13705): a transformer that gives the whole chunk at once."""

    kind: Literal["act"] = Field(description=_KIND)
    horizon: PositiveInt = Field(100, description="H: environment steps that one chunk of actions covers.")
    dim_model: PositiveInt = Field(512, description="Width of a token; a multiple of n_heads.")
    n_heads: PositiveInt = Field(8, description="Attention heads.")
    dim_feedforward: PositiveInt = Field(3200, description="Width of a layer's inside.")
    n_encoder_layers: Layers = Field(4, description="Layers that look at joints and images.")
    n_decoder_layers: Layers = Field(1, description="Layers that look at those for each action.")
    use_vae: bool = Field(True, description="Learn with a variational encoder of the demonstrated chunk.")
    latent_dim: PositiveInt = Field(32, description="Entries of what that encoder says.")
    n_vae_encoder_layers: Layers = Field(4, description="Its layers.")
    kl_weight: NonNegativeFloat = Field(10.0, description="What its distance from a normal distribution costs.")
    dropout: float = Field(0.1, ge=0, lt=1, description="In all layers while it learns.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.dim_model % (2 * self.n_heads) and self.pretrained is None:
            raise Misfit(
                ("dim_model",), f"{self.dim_model} is not valid, expected an even multiple of n_heads ({self.n_heads})"
            )
        return self


class DiffusionConfig(_ImitatorConfig):
    """LeRobot's Diffusion Policy (arXiv:2303.04137), which sees one observation."""

    kind: Literal["diffusion"] = Field(description=_KIND)
    horizon: PositiveInt = Field(
        16, description="H: environment steps that one chunk of actions covers; a multiple of 2 per entry of down_dims."
    )
    down_dims: Annotated[Widths, Field(min_length=1, max_length=8)] = Field(
        (512, 1024, 2048), description="Widths of the U-Net, one per halving of the chunk's length."
    )
    kernel_size: PositiveInt = Field(5, description="Of the U-Net's convolutions over time; odd.")
    n_groups: PositiveInt = Field(8, description="Of its group norms; divides down_dims.")
    spatial_softmax_num_keypoints: PositiveInt = Field(32, description="Points in an image that the backbone tells of.")
    crop_shape: Annotated[tuple[PositiveInt, PositiveInt] | None, ListAsTuple] = Field(
        None, description="Height and width of the part of each image that is looked at, at random while it learns."
    )
    noise_scheduler_type: Literal["DDIM", "DDPM"] = Field(
        "DDIM",
        description="DDIM: a chunk follows from where it starts (arXiv:2010.02502); DDPM: each step adds noise "
        "(arXiv:2006.11239).",
    )
    num_train_timesteps: PositiveInt = Field(100, description="Steps from a chunk to noise in training.")
    num_inference_steps: PositiveInt = Field(10, description="Steps from noise to a chunk.")
    prediction_type: Literal["epsilon", "sample"] = Field("epsilon", description="What is learnt: noise, or the chunk.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.pretrained is not None:
            return self
        halvings = 2 ** len(self.down_dims)
        if self.horizon % halvings:
            raise Misfit(
                ("horizon",),
                f"{self.horizon} is not valid with {len(self.down_dims)} policy.down_dims, expected a multiple of "
                f"{halvings}",
            )
        if self.kernel_size % 2 == 0:
            raise Misfit(("kernel_size",), f"{self.kernel_size} is not valid, expected an odd number")
        for width in self.down_dims:
            if width % self.n_groups:
                raise Misfit(("n_groups",), f"{self.n_groups} is not valid, expected a divisor of {width} (down_dims)")
        if self.num_inference_steps > self.num_train_timesteps:
            raise Misfit(
                ("num_inference_steps",),
                f"{self.num_inference_steps} is not valid, expected at most num_train_timesteps "
                f"({self.num_train_timesteps})",
            )
        return self


class _FlowConfig(_Denoising, _Policy):
    pass


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
    max_delay: NonNegativeInt = Field(
        0,
        description="Imitation with simulated delay: up to so many actions at the beginning of a chunk, drawn anew for "
        "each, are given, and the others learnt from them; for edges with execution.way prefix.",
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
    return "vla" if kind in VLAS else kind if kind in KINDS else "other"


PolicyConfig = Annotated[
    Annotated[FlowMLPConfig, Tag("flow_mlp")]
    | Annotated[FlowTransformerConfig, Tag("flow_transformer")]
    | Annotated[GaussianConfig, Tag("gaussian")]
    | Annotated[SquashedGaussianConfig, Tag("squashed_gaussian")]
    | Annotated[VLAConfig, Tag("vla")]
    | Annotated[ACTConfig, Tag("act")]
    | Annotated[DiffusionConfig, Tag("diffusion")]
    | Annotated[OtherPolicyConfig, Tag("other")],
    Discriminator(_tag),
]
