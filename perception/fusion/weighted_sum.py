"""Middle fusion by a weighted sum: a weight for each modality and channel, normalised over what is there."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perception.bev_neck import CellNorm
from perception.fusion.strategy import FusionStrategy, without_absent


@dataclass(frozen=True)
class WeightedSumFusionConfig:
    """There is nothing to choose."""

    kind: Literal["weighted_sum"] = "weighted_sum"


class WeightedSumFusion(FusionStrategy):
    """Channel-normalised weights (UniBEV, Wang et al. 2024): in each channel a softmax over the available sensors.

    The weights are learned numbers, the same in all cells and samples; a missing sensor's share goes to the others. The
    pose is not one more opinion about a cell: its embedding is added.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3, channels))
        self.pose = nn.Linear(channels, channels, bias=False)
        self.norm = CellNorm(channels)

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], Float[Tensor, "B 3 Y X"]]:
        """See FusionStrategy. A sensor's weight is the mean over the channels, the same in all cells."""
        bevs, pose = without_absent(modality_bevs, pose, availability)
        sensors = availability[:, :3, None]
        # Not -inf: without any sensor the softmax would be NaN, also in the gradients.
        shares = torch.where(sensors, self.logits, -1e9).softmax(dim=1) * sensors
        fused = (bevs * shares[..., None, None]).sum(dim=1) + self.pose(pose)[:, :, None, None]
        weights = shares.detach().mean(dim=2)[:, :, None, None].expand(-1, -1, *bevs.shape[-2:])
        return self.norm(fused), weights
