"""What heads begin with: features at the resolution at which objects are apart, and a heatmap for each class."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from datasets.classes import DETECTION_CLASSES
from perception.bev_neck import CellNorm, ConvBlock
from perception.grid import BevGrid
from perception.heads.box_losses import UNLIKELY_LOGIT


class HeatmapTrunk(nn.Module):
    """The fused BEV to class heatmaps and features on `grid`, whose cells are `upsample` times as small."""

    def __init__(self, grid: BevGrid, in_channels: int, channels: int, upsample: int) -> None:
        super().__init__()
        self.grid = grid.scaled(1 / upsample)
        self.upsample = upsample
        self.enter = ConvBlock(in_channels, in_channels)
        # Each cell becomes upsample x upsample cells with weights of their own (Shi et al. 2016).
        self.refine = nn.Linear(in_channels, channels * upsample**2)
        # At the fine resolution only a depthwise convolution: a full one costs more than the whole fusion on a CPU.
        self.neighbours = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = CellNorm(channels)
        self.heatmap = nn.Linear(channels, len(DETECTION_CLASSES))
        nn.init.constant_(self.heatmap.bias, UNLIKELY_LOGIT)

    def forward(self, bev: Float[Tensor, "B D V U"]) -> tuple[Float[Tensor, "B 10 Y X"], Float[Tensor, "B C Y X"]]:
        """Heatmap logits and features."""
        scale = self.upsample
        fine = self.refine(self.enter(bev).permute(0, 2, 3, 1)).unflatten(-1, (scale, scale, -1))
        fine = F.relu(fine.transpose(2, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2))
        features = F.relu(self.norm(fine + self.neighbours(fine)))
        return self.heatmap(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), features
