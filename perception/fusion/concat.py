"""Middle fusion by concatenation: one convolution over the modalities' BEVs side by side."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perception.bev_neck import CellNorm
from perception.fusion.strategy import FusionStrategy, without_absent


@dataclass(frozen=True)
class ConcatFusionConfig:
    """`kernel`: of the convolution, odd."""

    kind: Literal["concat"] = "concat"
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, not {self.kernel}")


class ConcatFusion(FusionStrategy):
    """BEVFusion's convolutional fuser (Liu et al. 2022), made to know what is missing.

    A modality that is not there is a map of zeros, and four planes of ones and zeros say which are: without them an
    empty cell and a missing sensor look alike. The pose, the same in all cells, is added to what the convolution gives
    instead of being convolved.
    """

    def __init__(self, config: ConcatFusionConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 * channels + 4, channels, config.kernel, padding=config.kernel // 2)
        self.pose = nn.Linear(channels, channels, bias=False)
        self.norm = CellNorm(channels)

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], None]:
        """See FusionStrategy. The convolution's weights are not shares of anything: there are none to read."""
        bevs, pose = without_absent(modality_bevs, pose, availability)
        batch, _, _, rows, columns = bevs.shape
        planes = availability[:, :, None, None].to(bevs.dtype).expand(batch, 4, rows, columns)
        # In the branches' memory layout: channels last.
        stacked = torch.cat([*bevs.permute(0, 1, 3, 4, 2).unbind(1), planes.permute(0, 2, 3, 1)], dim=-1)
        mixed = self.conv(stacked.permute(0, 3, 1, 2)) + self.pose(pose)[:, :, None, None]
        return F.relu(self.norm(mixed)), None
