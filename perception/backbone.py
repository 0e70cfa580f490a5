"""The image backbone with dimensions of one's own: a ResNet. Published ones: perception/named_backbone.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perception.image_pyramid import ImagePyramid, Level
from perception.pretrained import pretrained_backbone

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


class ImageBackbone(ImagePyramid):
    """The pyramid over a ResNet. Raises InputRefused where the weights' file cannot be read or does not fit."""

    def __init__(self, config: BackboneConfig) -> None:
        from transformers import AutoBackbone, ResNetConfig  # takes seconds: not for commands that build no network

        # Only the stages from the wanted stride on go into the pyramid.
        stages = range(_STAGE_STRIDES.index(config.stride), 4)
        architecture = ResNetConfig(
            layer_type=config.layer,
            embedding_size=config.embedding,
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            out_features=[f"stage{stage + 1}" for stage in stages],
        )
        if config.weights is None:
            network = AutoBackbone.from_config(architecture)
        else:
            network = pretrained_backbone(architecture, config.weights)
        levels = [Level(config.widths[stage], _STAGE_STRIDES[stage], 0.0) for stage in stages]
        super().__init__(network, levels, config.channels, name="resnet", frozen_norms=config.frozen_norms)
