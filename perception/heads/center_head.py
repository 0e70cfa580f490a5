"""The centre head: a heatmap for each class, and at any cell the box whose centre lies there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from datasets.boxes import Boxes3D
from perception.grid import BevGrid
from perception.heads.box_codes import CLASS_GROUPS, GROUP_OF_CLASS, BoxRegression, CellIndex, decode_boxes
from perception.heads.box_losses import gaussian_focal_loss, weighted_box_losses
from perception.heads.box_regressor import BoxRegressor
from perception.heads.center_targets import CenterTargets, center_targets
from perception.heads.detection_head import DetectionHead
from perception.heads.peaks import circle_nms, highest, local_maxima
from perception.heads.quality import QualityConfig, rescored
from perception.heads.trunk import HeatmapTrunk
from perception.losses import Counts, Losses, at_least_one

# Peaks that are looked at for each box that may be kept: several cells of a crowded class are one object.
_PEAKS_PER_BOX = 2


@dataclass(frozen=True)
class CenterHeadConfig:
    """`upsample`: cells of the head along a side of one cell of the fused BEV. `channels`: of the head's features.

    `min_radius`: cells around an object's centre that its peak reaches at least; `reach`: cells around it that learn
    its box as well. Weights: of the parts of the loss.
    Decoding keeps the `max_boxes` highest peaks of a sample that reach `score_threshold`. `quality`: the branch that
    predicts how well a box overlaps its object; None leaves it out.
    """

    kind: Literal["center"] = "center"
    channels: int = 32
    hidden: int = 64
    upsample: int = 2
    min_radius: int = 2
    reach: int = 1
    heatmap_weight: float = 1.0
    box_weight: float = 0.25
    velocity_weight: float = 0.2
    attribute_weight: float = 0.2
    front_weight: float = 0.2
    max_boxes: int = 500
    score_threshold: float = 0.03
    quality: QualityConfig | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "hidden", "upsample", "max_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_radius", "reach"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")


@dataclass(frozen=True)
class CenterOutputs:
    """Class scores as logits, and what `CenterHead.boxes_at` reads boxes from: features, on the head's grid, and the
    radars' velocities on the BEV's, if the head has them.
    """

    heatmap_logits: Float[Tensor, "B 10 Y X"]
    features: Float[Tensor, "B C Y X"]
    velocities: Float[Tensor, "B W V U"] | None = None


class CenterHead(DetectionHead[CenterOutputs]):
    """After CenterPoint (Yin et al. 2021), with one difference that makes it cheap: boxes are regressed only where
    somebody asks (the objects' cells in training, the peaks in detection), by one small network for all class groups.
    """

    def __init__(self, config: CenterHeadConfig, grid: BevGrid, channels: int, velocities: int = 0) -> None:
        super().__init__()
        self.config = config
        self.trunk = HeatmapTrunk(grid, channels, config.channels, config.upsample)
        self.grid = self.trunk.grid
        self.regress = BoxRegressor(
            config.channels,
            config.hidden,
            groups=len(CLASS_GROUPS),
            quality=config.quality is not None,
            velocities=velocities,
        )

    def forward(
        self, bev: Float[Tensor, "B C V U"], velocities: Float[Tensor, "B W V U"] | None = None
    ) -> CenterOutputs:
        """The fused BEV to heatmap logits and features on `self.grid`."""
        logits, features = self.trunk(bev)
        return CenterOutputs(logits, features, velocities)

    def boxes_at(self, outputs: CenterOutputs, cells: CellIndex) -> BoxRegression:
        """The box of the given group at each of the K cells. Float32 also under autocast, or of what came from it."""
        scale = self.config.upsample
        with torch.autocast(outputs.features.device.type, enabled=False):
            read, around = outputs.features[cells.sample, :, cells.row, cells.column].float(), None
            if outputs.velocities is not None:
                around = outputs.velocities[cells.sample, :, cells.row // scale, cells.column // scale].float()
            numbers = self.regress(read, around)
        return BoxRegression.of(numbers[torch.arange(len(cells), device=cells.group.device), cells.group])

    def counts(self, boxes: Sequence[Boxes3D]) -> Counts:
        """`peaks` of the heatmap and the weights of the `cells` that learn a box."""
        config = self.config
        device = next(self.parameters()).device
        return _counts(center_targets(boxes, self.grid, config.min_radius, config.reach, device))

    def losses(self, outputs: CenterOutputs, boxes: Sequence[Boxes3D], counts: Counts | None = None) -> Losses:
        """The weighted losses: the heatmap's divided by the number of peaks, the others by the cells' weights.

        Unknown (NaN) velocities and attributes play no part. Without any object everything but the heatmap is 0, with
        zero gradients.
        """
        config, device = self.config, outputs.heatmap_logits.device
        targets = center_targets(boxes, self.grid, config.min_radius, config.reach, device)
        found = self.boxes_at(outputs, targets.cells)
        counts = at_least_one(_counts(targets)) if counts is None else counts
        share = targets.weights / counts["cells"]
        heatmap = gaussian_focal_loss(outputs.heatmap_logits, targets.heatmap, counts["peaks"])
        parts = {"heatmap": config.heatmap_weight * heatmap}
        parts |= weighted_box_losses(
            config, found, targets.codes, targets.attributes, targets.labels, targets.cells, self.grid, share
        )
        return Losses.of(parts)

    @torch.no_grad()
    def decode(self, outputs: CenterOutputs) -> list[Boxes3D]:
        """The boxes (ego) of each sample, best first."""
        peaks = outputs.heatmap_logits.float().sigmoid()
        peaks = torch.where(local_maxima(peaks), peaks, 0.0)
        return [self._decode_sample(outputs, peaks, index) for index in range(len(peaks))]

    def _decode_sample(self, outputs: CenterOutputs, peaks: Float[Tensor, "B 10 Y X"], index: int) -> Boxes3D:
        config, (rows, columns) = self.config, peaks.shape[-2:]
        scores, where = highest(peaks[index].flatten(), _PEAKS_PER_BOX * config.max_boxes, config.score_threshold)
        labels = where // (rows * columns)
        cells = CellIndex(
            sample=torch.full_like(where, index),
            group=torch.tensor(GROUP_OF_CLASS, device=where.device)[labels],
            row=where // columns % rows,
            column=where % columns,
        )
        found = self.boxes_at(outputs, cells)
        if config.quality is not None and found.quality_logits is not None:
            scores = rescored(scores, found.quality_logits, labels, config.quality)
        boxes = decode_boxes(found, cells, labels, scores, self.grid)
        boxes = boxes[torch.argsort(boxes.scores, descending=True, stable=True)]
        return boxes[circle_nms(boxes.centers[:, :2], boxes.labels).nonzero().flatten()[: config.max_boxes]]


def _counts(targets: CenterTargets) -> Counts:
    return {"peaks": (targets.heatmap == 1).sum().float(), "cells": targets.weights.sum()}
