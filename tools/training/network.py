"""What a run trains: a detector, or sensor branches alone. All go from a batch to predictions to losses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perception.camera_pretraining import CameraPretraining
from perception.detector import Detector, DetectorConfig
from perception.pretraining import BranchPretraining
from perception.weights import PartsFound, load_parts, parts_of
from tools.run_config import RunConfig

Network = Detector | BranchPretraining | CameraPretraining


def network_of(config: RunConfig, *, pretrained: bool = True) -> Network:
    """The network of `training.objective`, with new weights.

    `pretrained`: the backbone has those of the file that the config names; False: all are random, for a network that
    gets its weights elsewhere.
    """
    detector = config.detector if pretrained else without_pretrained_weights(config.detector)
    match config.training.objective:
        case "detection":
            return Detector(detector)
        case "cross_modal":
            return BranchPretraining(detector)
        case "perspective":
            return CameraPretraining(detector)


def network_from(config: RunConfig, weights: Sequence[Path]) -> tuple[Network, list[PartsFound]]:
    """A new network with the parts that weights files have, and what each had; a later file's take an earlier one's
    place, and new is what none has. Raises InputRefused as `load_parts` does.
    """
    network = network_of(config, pretrained=not any("camera" in parts_of(path) for path in weights))
    found = [load_parts(network, path) for path in weights]
    loaded = {part for parts in found for part in parts.loaded}
    new = [{part: count for part, count in parts.new.items() if part not in loaded} for parts in found]
    return network, [replace(parts, new=left) for parts, left in zip(found, new, strict=True)]


def without_pretrained_weights(config: DetectorConfig) -> DetectorConfig:
    """A run's own weights hold the backbone's: the file that they once came from may be on another machine."""
    if config.camera is None:
        return config
    backbone = replace(config.camera.backbone, weights=None)
    return replace(config, camera=replace(config.camera, backbone=backbone))
