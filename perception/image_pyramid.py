"""A feature pyramid (Lin et al. 2017) over any image network with stages: what it is fed, where its features lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

# RGB, of pixels in 0..1: what networks trained on ImageNet are fed.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Level:
    """A stage's feature map. Feature j of it, along either axis, is of the picture's pixel j * stride + offset.

    offset: the distance, in pixels, of the middle of what feature 0 looks at from the middle of pixel 0. It is 0 where
    all strided kernels are odd and padded by half (ResNet), and (stride - 1) / 2 where each feature is made of a patch
    of its own (ConvNeXt, Swin, ViT).
    """

    channels: int
    stride: int
    offset: float


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of R, G and B that the network's weights were trained with, of pixels in 0..1."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class ImagePyramid(nn.Module):
    """Images (K, 3, H, W), RGB 0..255, to features (K, F, ceil(H / stride), ceil(W / stride)).

    network: its output has `feature_maps`, one for each of `levels`, whose strides rise; it stands in this module, and
    its weights in files, under `name`. `stride` and `offset` of the features are those of the first level. multiple:
    pictures whose sides are no multiple of it get mean pixels on the right and below before they reach the network, and
    the features of those alone are cut off. frozen_norms: batch norms keep the statistics of their weights.
    """

    def __init__(
        self,
        network: nn.Module,
        levels: Sequence[Level],
        channels: int,
        *,
        name: str = "stages",
        normalization: Normalization | None = None,
        multiple: int = 1,
        frozen_norms: bool = False,
    ) -> None:
        super().__init__()
        self.levels, self.channels = tuple(levels), channels
        self.stride, self.offset = levels[0].stride, levels[0].offset
        self._name, self._multiple, self.frozen_norms = name, multiple, frozen_norms
        normalization = normalization or Normalization()
        self.register_buffer("mean", torch.tensor(normalization.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(3, 1, 1) * 255, persistent=False)
        self.add_module(name, network)
        self.laterals = nn.ModuleList([nn.Conv2d(level.channels, channels, 1) for level in levels])
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    mean: Tensor
    std: Tensor

    @property
    def network(self) -> nn.Module:
        """The network under the pyramid."""
        return self.get_submodule(self._name)

    def train(self, mode: bool = True) -> "ImagePyramid":
        """As in torch, but frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: UInt8[Tensor, "K 3 H W"]) -> Float[Tensor, "K F V U"]:
        """The features of K >= 1 images."""
        height, width = images.shape[2:]
        # In place: fresh memory for each step would cost more than the arithmetic.
        pixels = images.to(self.mean.dtype, memory_format=torch.channels_last).sub_(self.mean).div_(self.std)
        if height % self._multiple or width % self._multiple:
            pixels = F.pad(pixels, (0, -width % self._multiple, 0, -height % self._multiple))
        stages: Sequence[Tensor] = self.network(pixels).feature_maps
        merged: Tensor | None = None
        for stage, lateral in zip(reversed(stages), reversed(self.laterals), strict=True):
            level = lateral(stage)
            if merged is not None:
                level = level + F.interpolate(merged, size=level.shape[-2:], mode="nearest")
            merged = level
        out: Tensor = self.out(merged)
        return F.relu(out[:, :, : -(-height // self.stride), : -(-width // self.stride)])
