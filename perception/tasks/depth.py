"""Depth as an auxiliary task: what the LiDAR measures is what a pixel's depth distribution should say.

BEVDepth (Li et al. 2022): without it the distribution learns from boxes alone, and is poor where there are none.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.samples.batch import PointBatch
from datasets.samples.sample import LIDAR_POINT_FIELDS
from perception.losses import Losses
from perception.view_transform import LiftSplatConfig

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
    height, width = size
    nearest = torch.full((len(sample_index), height * width), torch.inf, dtype=torch.float64, device=intrinsics.device)
    young = points.points[:, _AGE] <= max_age
    cloud, owner = points.points[young, :3].double(), points.sample_index[young]
    cam_from_ego = torch.linalg.inv_ex(ego_from_cam.double()).inverse
    for camera, sample in enumerate(sample_index.tolist()):
        pixels, depth = project(
            intrinsics[camera].double(), transform_points(cam_from_ego[camera], cloud[owner == sample])
        )
        pixels, depth = pixels[depth > 0], depth[depth > 0]
        column, row = torch.floor(pixels / stride + 0.5).unbind(1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cell = row[inside].long() * width + column[inside].long()
        nearest[camera].scatter_reduce_(0, cell, depth[inside], "amin")
    low, high = bins.depth_range
    known = (nearest >= low) & (nearest < high)
    index = ((torch.where(known, nearest, low) - low) / (high - low) * bins.depth_bins).long()
    return torch.where(known, index.clamp(max=bins.depth_bins - 1), -1).view(-1, height, width)


def depth_loss(
    logits: Float[Tensor, "K D V U"], targets: Int64[Tensor, "K V U"], known: Float[Tensor, ""] | None = None
) -> Losses:
    """Cross-entropy of the depth bins, the mean over the pixels that have a target; 0 where none has. Float32.

    `known`: by which number of pixels the sum is divided, instead of those here.
    """
    known = (targets >= 0).sum().clamp(min=1).float() if known is None else known
    return Losses.of({"bins": F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum") / known})
