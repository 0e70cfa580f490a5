"""The quality branch: how well a box will overlap its object, so that scores rank boxes by place and not class alone.

After AFDetV2 (Hu et al. 2022): the IoU in space is predicted beside the box and put into its score in detection.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from perception.grid import BevGrid
from perception.heads.box_codes import CellIndex, decode_codes
from perception.rotated_iou import iou_3d


@dataclass(frozen=True)
class QualityConfig:
    """`weight`: of the loss. `powers`: for each class the share a of the quality in score^(1 - a) * IoU^a."""

    weight: float = 0.5
    powers: tuple[float, ...] = (0.5,) * len(DETECTION_CLASSES)

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be a positive number, not {self.weight}: leave the branch out instead")
        if len(self.powers) != len(DETECTION_CLASSES) or not all(0 <= power <= 1 for power in self.powers):
            raise ValueError(f"powers must be {len(DETECTION_CLASSES)} numbers in [0, 1], not {self.powers}")


@torch.no_grad()
def overlaps(
    codes: Float[Tensor, "K 11"], targets: Float[Tensor, "K 11"], cells: CellIndex, grid: BevGrid
) -> Float[Tensor, "K"]:
    """The IoU in space of the boxes that two sets of codes mean at the same cells; nothing is learnt through it."""
    return iou_3d(_boxes(codes.float(), cells, grid), _boxes(targets, cells, grid)).nan_to_num().float()


def quality_loss(
    logits: Float[Tensor, "K"], overlap: Float[Tensor, "K"], share: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Cross-entropy to the overlap itself: least where the sigmoid is the overlap to be expected."""
    return (F.binary_cross_entropy_with_logits(logits.float(), overlap, reduction="none") * share).sum()


def rescored(
    scores: Float[Tensor, "K"], quality_logits: Float[Tensor, "K"], labels: Int64[Tensor, "K"], config: QualityConfig
) -> Float[Tensor, "K"]:
    """The scores with the quality in them."""
    power = torch.tensor(config.powers, device=labels.device)[labels]
    return scores ** (1 - power) * quality_logits.float().sigmoid() ** power


def _boxes(codes: Float[Tensor, "K 11"], cells: CellIndex, grid: BevGrid) -> Boxes3D:
    centers, sizes_wlh, yaws, velocities = decode_codes(codes, cells, grid)
    return Boxes3D(centers, sizes_wlh, yaws, velocities, cells.group, torch.ones_like(yaws), cells.group)
