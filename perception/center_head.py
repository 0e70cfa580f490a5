"""The centre head: a heatmap for each class, and at any cell the box whose centre lies there."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from perception.bev_neck import CellNorm, ConvBlock
from perception.center_targets import CLASS_GROUPS, CODE_SIZE, CellIndex
from perception.grid import BevGrid


@dataclass(frozen=True)
class CenterHeadConfig:
    """`upsample`: cells of the head along a side of one cell of the fused BEV. `channels`: of the head's features.

    `min_radius`: cells around an object's centre that its peak reaches at least; `reach`: cells around it that learn
    its box as well. Weights: of the parts of the loss.
    Decoding keeps the `max_boxes` highest peaks of a sample that reach `score_threshold`.
    """

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

    def __post_init__(self) -> None:
        for name in ("channels", "hidden", "upsample", "max_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_radius", "reach"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")


@dataclass(frozen=True)
class HeadOutputs:
    """Class scores as logits, and the features that `CenterHead.boxes_at` reads boxes from; on the head's grid."""

    heatmap_logits: Float[Tensor, "B 10 Y X"]
    features: Float[Tensor, "B C Y X"]


class CenterHead(nn.Module):
    """After CenterPoint (Yin et al. 2021), with one difference that makes it cheap: boxes are regressed only where
    somebody asks (the objects' cells in training, the peaks in detection), by one small network for all class groups.
    """

    def __init__(self, config: CenterHeadConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.config = config
        self.grid = grid.scaled(1 / config.upsample)
        width = config.channels
        self.enter = ConvBlock(channels, channels)
        # Each cell becomes upsample x upsample cells with weights of their own (Shi et al. 2016).
        self.refine = nn.Linear(channels, width * config.upsample**2)
        # At the fine resolution only a depthwise convolution: a full one costs more than the whole fusion on a CPU.
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = CellNorm(width)
        self.heatmap = nn.Linear(width, len(DETECTION_CLASSES))
        # sigmoid(-2.19) = 0.1: at first everything is unlikely (Lin et al. 2017), or the empty cells drown the rest.
        nn.init.constant_(self.heatmap.bias, -2.19)
        self.regress = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, len(CLASS_GROUPS) * (CODE_SIZE + len(ATTRIBUTES))),
        )

    def forward(self, bev: Float[Tensor, "B C Y X"]) -> HeadOutputs:
        """The fused BEV to heatmap logits and features on `self.grid`."""
        scale = self.config.upsample
        fine = self.refine(self.enter(bev).permute(0, 2, 3, 1)).unflatten(-1, (scale, scale, -1))
        fine = F.relu(fine.transpose(2, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2))
        features = F.relu(self.norm(fine + self.neighbours(fine)))
        return HeadOutputs(self.heatmap(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), features)

    def boxes_at(
        self, features: Float[Tensor, "B C Y X"], cells: CellIndex
    ) -> tuple[Float[Tensor, "K 11"], Float[Tensor, "K 8"]]:
        """Box codes (CODE_SLICES) and attribute logits of the given group at each of the K cells."""
        at_cells = features[cells.sample, :, cells.row, cells.column]
        everything = self.regress(at_cells).unflatten(1, (len(CLASS_GROUPS), CODE_SIZE + len(ATTRIBUTES)))
        chosen = everything[torch.arange(len(cells), device=cells.group.device), cells.group]
        return chosen[:, :CODE_SIZE], chosen[:, CODE_SIZE:]
