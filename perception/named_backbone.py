"""Image backbones by name: published networks that transformers has, or the one that a folder describes.

What a feature of such a network looks at, and so where in the picture it lies, depends on the kind of network. The
kinds are listed here, each with its rule, and tests/test_named_backbone.py measures them: an unknown kind is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from datasets.faults import InputRefused
from perception.image_pyramid import ImagePyramid, Level, Normalization
from perception.pretrained import downloaded_weights, pretrained_backbone

# How the features of a kind of network (transformers' `model_type`) lie in the picture; see Level.offset.
_ALIGNMENT: Mapping[str, Literal["centred", "patches"]] = {
    "resnet": "centred",
    "pvt_v2": "centred",
    "convnext": "patches",
    "convnextv2": "patches",
    "dinov3_convnext": "patches",
    "swin": "patches",
    "swinv2": "patches",
    "dinov2": "patches",
}


@dataclass(frozen=True)
class _Published:
    """A network's config, made with the module transformers, and where on the Hugging Face hub its weights are
    (ImageNet-1k, RGB, ImageNet's mean).
    """

    architecture: Callable[[Any], Any]
    repository: str


def _resnet(layer: str, depths: list[int]) -> Callable[[Any], Any]:
    widths = [64, 128, 256, 512] if layer == "basic" else [256, 512, 1024, 2048]
    return lambda transformers: transformers.ResNetConfig(layer_type=layer, hidden_sizes=widths, depths=depths)


def _convnext(depths: list[int]) -> Callable[[Any], Any]:
    return lambda transformers: transformers.ConvNextConfig(hidden_sizes=[96, 192, 384, 768], depths=depths)


def _convnextv2(widths: list[int], depths: list[int]) -> Callable[[Any], Any]:
    return lambda transformers: transformers.ConvNextV2Config(hidden_sizes=widths, depths=depths)


def _swin(depths: list[int]) -> Callable[[Any], Any]:
    return lambda transformers: transformers.SwinConfig(depths=depths)


# He et al. 2016; Liu et al. 2022 (A ConvNet for the 2020s); Woo et al. 2023; Liu et al. 2021.
PUBLISHED: Mapping[str, _Published] = {
    "resnet-18": _Published(_resnet("basic", [2, 2, 2, 2]), "microsoft/resnet-18"),
    "resnet-34": _Published(_resnet("basic", [3, 4, 6, 3]), "microsoft/resnet-34"),
    "resnet-50": _Published(_resnet("bottleneck", [3, 4, 6, 3]), "microsoft/resnet-50"),
    "resnet-101": _Published(_resnet("bottleneck", [3, 4, 23, 3]), "microsoft/resnet-101"),
    "convnext-tiny": _Published(_convnext([3, 3, 9, 3]), "facebook/convnext-tiny-224"),
    "convnext-small": _Published(_convnext([3, 3, 27, 3]), "facebook/convnext-small-224"),
    "convnextv2-atto": _Published(_convnextv2([40, 80, 160, 320], [2, 2, 6, 2]), "facebook/convnextv2-atto-1k-224"),
    "convnextv2-pico": _Published(_convnextv2([64, 128, 256, 512], [2, 2, 6, 2]), "facebook/convnextv2-pico-1k-224"),
    "convnextv2-nano": _Published(_convnextv2([80, 160, 320, 640], [2, 2, 8, 2]), "facebook/convnextv2-nano-1k-224"),
    "convnextv2-tiny": _Published(_convnextv2([96, 192, 384, 768], [3, 3, 9, 3]), "facebook/convnextv2-tiny-1k-224"),
    "swin-tiny": _Published(_swin([2, 2, 6, 2]), "microsoft/swin-tiny-patch4-window7-224"),
    "swin-small": _Published(_swin([2, 2, 18, 2]), "microsoft/swin-small-patch4-window7-224"),
}


@dataclass(frozen=True)
class NamedBackboneConfig:
    """A network by name, and its pyramid.

    name: one of PUBLISHED (resnet-50, convnext-tiny, swin-tiny, ...), or a folder in the hub's format, with the
    config.json of any network of the kinds above and, where there is one, the preprocessor_config.json that says which
    mean and standard deviation it was trained with (else ImageNet's). The folder is needed again whenever a run with it
    is loaded. stride: of the features that come out, one of the network's own. channels: of those features. weights:
    None for random ones, "hub" for those published under the name, or a weights file (see pretrained.read_weights);
    its mean and standard deviation are `normalization` where they are others. frozen_norms: as of BackboneConfig.
    """

    name: str
    stride: int = 16
    channels: int = 256
    weights: Literal["hub"] | Path | None = None
    normalization: Normalization | None = None
    frozen_norms: bool = False

    def __post_init__(self) -> None:
        if self.channels < 1 or self.stride < 1:
            raise ValueError("channels and stride must be at least 1")
        if self.weights == Path("hub"):
            object.__setattr__(self, "weights", "hub")
        if self.weights == "hub" and self.name not in PUBLISHED:
            raise ValueError(f"the hub's weights are known for {', '.join(PUBLISHED)}; for {self.name} name their file")


class NamedBackbone(ImagePyramid):
    """The pyramid over a network by name.

    Raises InputRefused for a name, folder or weights that cannot be had, ValueError for a stride that the network has
    no stage of.
    """

    def __init__(self, config: NamedBackboneConfig) -> None:
        from transformers import AutoBackbone  # takes seconds: not for commands that build no network

        architecture = _architecture(config.name)
        levels = _levels(architecture)
        if config.stride not in [level.stride for level in levels.values()]:
            strides = ", ".join(str(level.stride) for level in levels.values())
            raise ValueError(f"{config.name} has stages of stride {strides}, and none of {config.stride}")
        used = {stage: level for stage, level in levels.items() if level.stride >= config.stride}
        architecture.set_output_features_output_indices(out_features=list(used), out_indices=None)
        if config.weights is None:
            network = AutoBackbone.from_config(architecture)
        else:
            hub = config.weights == "hub"
            file = downloaded_weights(PUBLISHED[config.name].repository) if hub else Path(config.weights)
            network = pretrained_backbone(architecture, file)
        patches = _ALIGNMENT[architecture.model_type] == "patches"
        super().__init__(
            network,
            list(used.values()),
            config.channels,
            normalization=config.normalization or _normalization(Path(config.name)),
            # A kernel without padding leaves out what is no whole patch.
            multiple=max(level.stride for level in used.values()) if patches else 1,
            frozen_norms=config.frozen_norms,
        )


def _architecture(name: str) -> Any:
    import transformers  # late, as above

    if name in PUBLISHED:
        return PUBLISHED[name].architecture(transformers)
    folder = Path(name)
    if not folder.is_dir():
        raise InputRefused(f"{name} is neither a backbone ({', '.join(PUBLISHED)}) nor a folder with a config.json.")
    try:
        # A folder on this machine, and nothing but its config: no code of its own is run.
        architecture = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(f"{folder}: its config.json describes no network that transformers has: {error}.") from error
    if architecture.model_type not in _ALIGNMENT:
        raise InputRefused(
            f"{folder}: where the features of a {architecture.model_type} lie in the picture is not known here; take "
            f"one of {', '.join(_ALIGNMENT)}."
        )
    return architecture


def _levels(architecture: Any) -> dict[str, Level]:
    """For each stride that the network has, its last stage of it, by the stage's name; strides rise."""
    from transformers import AutoBackbone  # late, as above

    architecture.set_output_features_output_indices(out_features=list(architecture.stage_names), out_indices=None)
    side = 448  # a multiple of the strides 32 and 14
    with torch.device("meta"):  # shapes only: nothing is computed
        network = AutoBackbone.from_config(architecture).eval()
        maps = network(torch.zeros(1, 3, side, side)).feature_maps
    by_stride: dict[int, tuple[str, Level]] = {}
    patches = _ALIGNMENT[architecture.model_type] == "patches"
    for stage, features in zip(architecture.stage_names, maps, strict=True):
        stride = side // features.shape[2]
        by_stride[stride] = (stage, Level(features.shape[1], stride, (stride - 1) / 2 if patches else 0.0))
    return dict(by_stride[stride] for stride in sorted(by_stride))


def _normalization(folder: Path) -> Normalization:
    """What the folder of a network says of the pictures that it was trained with; ImageNet's where it says nothing."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return Normalization()
    try:
        given = json.loads(path.read_text())
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (given["image_mean"], given["image_std"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(f"{path}: expected image_mean and image_std of three numbers each ({error!r}).") from error
    return Normalization(mean, std)
