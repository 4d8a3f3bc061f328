"""LeRobot's policies: VLAs, and those for imitation alone."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from robotlearn.config.complaint import shown
from robotlearn.config.policy_kind import KIND, Denoising, Kind, Layers, SimulatedDelay
from robotlearn.config.section import ListAsTuple, Misfit, Section, Widths


class LoRAConfig(Section):
    """Low-rank additions to the weights (arXiv:2106.09685)."""

    rank: PositiveInt = Field(16, description="Of each addition.")
    alpha: PositiveFloat = Field(16, description="Additions count alpha / rank times.")
    targets: str | None = Field(
        None, description="A regular expression for the names of the linear layers; null: those that LeRobot proposes."
    )


class VLAConfig(SimulatedDelay, Denoising):
    """A VLA of LeRobot: a vision-language model that looks once per chunk, and a flow expert that walks to it."""

    kind: Literal["smolvla", "pi0", "pi05"] = Field(description=KIND)
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


class _ImitatorConfig(Kind):
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

    kind: Literal["act"] = Field(description=KIND)
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

    kind: Literal["diffusion"] = Field(description=KIND)
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
