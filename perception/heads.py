"""The detection head: which one a config means, its losses and its boxes."""

from collections.abc import Sequence

from datasets.boxes import Boxes3D
from perception.center_decode import decode
from perception.center_head import CenterHead, CenterHeadConfig, HeadOutputs
from perception.center_targets import center_targets
from perception.grid import BevGrid
from perception.losses import Losses, center_losses

HeadConfig = CenterHeadConfig
Head = CenterHead


def build_head(config: HeadConfig, grid: BevGrid, channels: int) -> Head:
    """The head for a BEV with so many channels on this grid."""
    return CenterHead(config, grid, channels)


def head_losses(head: Head, outputs: HeadOutputs, boxes: Sequence[Boxes3D]) -> Losses:
    """The losses of what a head put out, given the annotated boxes (ego) of each sample."""
    logits = outputs.heatmap_logits
    targets = center_targets(boxes, head.grid, head.config.min_radius, head.config.reach, logits.device)
    codes, attribute_logits = head.boxes_at(outputs.features, targets.cells)
    return center_losses(head.config, logits, codes, attribute_logits, targets)


def head_boxes(head: Head, outputs: HeadOutputs) -> list[Boxes3D]:
    """The boxes (ego) of each sample, best first."""
    return decode(head, outputs)
