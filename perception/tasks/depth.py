"""Depth as an auxiliary task: what the LiDAR measures is what a pixel's depth distribution should say.

BEVDepth (Li et al. 2022): without it the distribution learns from boxes alone, and is poor where there are none.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from datasets.samples.batch import PointBatch
from datasets.samples.sample import LIDAR_POINT_FIELDS
from perception.lidar_depth import nearest_depths
from perception.losses import Losses
from perception.view_transform.lift_splat import LiftSplatConfig

_AGE = LIDAR_POINT_FIELDS.index("age")


@dataclass(frozen=True)
class DepthTaskConfig:
    """`max_age` (seconds): older points are no targets, what moves is no longer where they were."""

    max_age: float = 0.03

    def __post_init__(self) -> None:
        if not 0 <= self.max_age < float("inf"):
            raise ValueError(f"max_age must not be negative, and finite, not {self.max_age}")


def depth_targets(
    points: PointBatch,
    intrinsics: Float32[Tensor, "K 3 3"],
    ego_from_cam: Float32[Tensor, "K 4 4"],
    sample_index: Int64[Tensor, "K"],
    size: tuple[int, int],
    stride: int,
    bins: LiftSplatConfig,
    max_age: float,
) -> Int64[Tensor, "K V U"]:
    """The depth bin of the nearest LiDAR point (ego) that falls into each feature pixel of K cameras; -1: none does.

    size: (V, U) of the features, whose pixel j lies around image pixel j * stride. Depths outside the bins' range are
    no targets, but they do hide what is behind them.
    """
    young = points.points[:, _AGE] <= max_age
    cloud = PointBatch(points.points[young], points.sample_index[young], points.batch_size)
    nearest = nearest_depths(cloud, intrinsics, ego_from_cam, sample_index, size, stride)
    low, high = bins.depth_range
    known = (nearest >= low) & (nearest < high)
    index = ((torch.where(known, nearest, low) - low) / (high - low) * bins.depth_bins).long()
    return torch.where(known, index.clamp(max=bins.depth_bins - 1), -1)


def depth_loss(logits: Float[Tensor, "K D V U"], targets: Int64[Tensor, "K V U"]) -> Losses:
    """Cross-entropy of the depth bins, the mean over the pixels that have a target; 0 where none has. Float32."""
    known = (targets >= 0).sum().clamp(min=1)
    return Losses.of({"bins": F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum") / known})
