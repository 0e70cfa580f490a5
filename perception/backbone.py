"""The image backbone: a ResNet, and a feature pyramid that brings its last stages to one stride."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoBackbone, ResNetConfig

from datasets.faults import InputRefused

# RGB, of pixels in 0..1.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# The strides of a ResNet's four stages.
_STAGE_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class BackboneConfig:
    """A ResNet (He et al. 2016) and its pyramid; the defaults are ResNet-50.

    stride: of the features that come out, 8 or 16. channels: of those features. weights: a safetensors file with the
    weights of transformers' ResNetBackbone or ResNetForImageClassification (microsoft/resnet-50 on the hub, say), or
    None for random ones. frozen_norms: the batch norms keep the statistics of their weights, as is usual when a
    pretrained network is trained on few images.
    """

    layer: Literal["basic", "bottleneck"] = "bottleneck"
    embedding: int = 64
    widths: tuple[int, int, int, int] = (256, 512, 1024, 2048)
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    stride: Literal[8, 16] = 16
    channels: int = 256
    weights: Path | None = None
    frozen_norms: bool = False

    def __post_init__(self) -> None:
        if min(self.embedding, *self.widths, *self.depths, self.channels) < 1:
            raise ValueError("embedding, widths, depths and channels must all be at least 1")


class ImageBackbone(nn.Module):
    """Images (K, 3, H, W), RGB 0..255, to features (K, F, H / stride, W / stride), rounded up.

    Raises InputRefused where the weights' file cannot be read or does not fit.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.stride, self.frozen_norms = config.stride, config.frozen_norms
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)
        # Only the stages from the wanted stride on go into the pyramid.
        stages = range(_STAGE_STRIDES.index(config.stride), 4)
        self.resnet = AutoBackbone.from_config(
            ResNetConfig(
                layer_type=config.layer,
                embedding_size=config.embedding,
                hidden_sizes=list(config.widths),
                depths=list(config.depths),
                out_features=[f"stage{stage + 1}" for stage in stages],
            )
        )
        if config.weights is not None:
            _load_strictly(self.resnet, config.weights)
        self.laterals = nn.ModuleList([nn.Conv2d(config.widths[stage], config.channels, 1) for stage in stages])
        self.out = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    mean: Tensor
    std: Tensor

    def train(self, mode: bool = True) -> "ImageBackbone":
        """As in torch, but frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.resnet.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: UInt8[Tensor, "K 3 H W"]) -> Float[Tensor, "K F V U"]:
        """The features of K >= 1 images."""
        # In place: fresh memory for each step would cost more than the arithmetic.
        pixels = images.to(self.mean.dtype, memory_format=torch.channels_last).sub_(self.mean).div_(self.std)
        stages: tuple[Tensor, ...] = self.resnet(pixels).feature_maps
        merged: Tensor | None = None
        for stage, lateral in zip(reversed(stages), reversed(self.laterals), strict=True):
            level = lateral(stage)
            if merged is not None:
                level = level + F.interpolate(merged, size=level.shape[-2:], mode="nearest")
            merged = level
        out: Tensor = self.out(merged)
        return F.relu(out)


def _load_strictly(module: nn.Module, path: Path) -> None:
    try:
        # An image classifier, as the hub has them, holds the backbone under a prefix.
        state = {
            name.removeprefix("resnet."): tensor
            for name, tensor in load_file(path).items()
            if not name.startswith("classifier.")
        }
    except (OSError, safetensors.SafetensorError) as error:
        raise InputRefused(
            f"{path}: the backbone's weights cannot be read ({error}); give a safetensors file"
        ) from error
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    for problem, names in (("lacks", missing), ("has the unknown", unexpected), ("has in another shape", misshapen)):
        if names:
            raise InputRefused(
                f"{path}: the file {problem} {names[0]} ({len(names)} such keys), so its weights are not of this "
                "backbone: give the ResNet that the config describes, or change the config's layer, widths and depths"
            )
    module.load_state_dict(state)
