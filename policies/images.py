"""Encoders of camera images: a small CNN for small pictures, ResNet-18 for larger ones."""

from typing import Literal

import torch
from torch import Tensor, nn

from policies.errors import PolicyConfigError

ImageEncoderKind = Literal["cnn", "resnet18", "resnet18_imagenet"]

CNN_DIM = 64
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_encoder(kind: ImageEncoderKind, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A network from uint8 images (B, height, width, 3) to features (B, dim), and dim.

    cnn: three convolutions and a spatial softmax, for 32 pixels and more; small enough to train on a CPU.
    resnet18: arXiv:1512.03385 with GroupNorm, whose result does not depend on what else is in the batch (as Diffusion
    Policy does, arXiv:2303.04137). resnet18_imagenet: the same with ImageNet's weights, BatchNorm frozen; torchvision
    loads them from its hub, so it needs a network or a filled cache.

    Raises PolicyConfigError for another kind, a shape that is no image, or a picture that is too small.
    """
    if len(shape) != 3 or shape[2] != 3:
        raise PolicyConfigError(f"an image has shape (height, width, 3), not {shape}.")
    if min(shape[:2]) < 32:
        raise PolicyConfigError(f"an image of {shape[0]} x {shape[1]} pixels: the encoders need 32 x 32 or more.")
    if kind == "cnn":
        return CNN(), CNN_DIM
    if kind in ("resnet18", "resnet18_imagenet"):
        return ResNet18(pretrained=kind == "resnet18_imagenet"), 512
    raise PolicyConfigError(f"image_encoder is {kind!r}: expected cnn, resnet18 or resnet18_imagenet.")


class CNN(nn.Module):
    """Convolutions, then where each of 32 features is in the picture (spatial softmax, arXiv:1504.00702).

    What a robot needs of a picture is mostly where things are; 64 coordinates say it with few weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 8, 4, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, CNN_DIM // 2, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> (B, 64), the expected x and y of each feature, -1 ... 1, times 2."""
        dtype = next(self.parameters()).dtype
        x = self.layers(image.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1)
        height, width = x.shape[2:]
        share = x.flatten(2).softmax(-1).view(x.shape)
        across = torch.linspace(-2, 2, width, dtype=dtype, device=x.device)
        down = torch.linspace(-2, 2, height, dtype=dtype, device=x.device)
        return torch.cat([(share.sum(2) * across).sum(-1), (share.sum(3) * down).sum(-1)], -1)


class ResNet18(nn.Module):
    """torchvision's ResNet-18 without its last layer."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        # Imported here: it takes a second, and only who uses it pays for it.
        from torchvision.models import ResNet18_Weights, resnet18
        from torchvision.ops import FrozenBatchNorm2d

        def group_norm(channels: int) -> nn.Module:
            return nn.GroupNorm(channels // 16, channels)

        self.network: nn.Module
        if pretrained:
            try:
                self.network = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1, norm_layer=FrozenBatchNorm2d)
            except OSError as error:
                raise PolicyConfigError(
                    f"image_encoder resnet18_imagenet: torchvision can't load ImageNet's weights ({error}); load them "
                    "once where there is a network, or use resnet18, which learns from nothing."
                ) from error
        else:
            self.network = resnet18(norm_layer=group_norm)
        self.network.fc = nn.Identity()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", 255 * torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(_IMAGENET_STD).view(3, 1, 1)), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> (B, 512)."""
        x = (image.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) * self.scale
        features: Tensor = self.network(x)
        return features
