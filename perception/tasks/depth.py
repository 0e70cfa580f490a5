"""Depth as an auxiliary task: what the LiDAR measures is what a pixel's depth distribution should say.

BEVDepth (Li et al. 2022): without it the distribution learns from boxes alone, and is poor where there are none.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from datasets.samples.batch import Batch, PointBatch
from datasets.samples.sample import LIDAR_POINT_FIELDS
from perception.absent_data import points_of
from perception.camera_branch import CameraBranch
from perception.image_features import FeaturePixels, ImageFeatures
from perception.lidar_depth import nearest_depths
from perception.losses import Counts, Losses
from perception.view_transform.lift_splat import LiftSplatConfig

_AGE = LIDAR_POINT_FIELDS.index("age")


@dataclass(frozen=True)
class DepthTaskConfig:
    """`max_age` (seconds): older points are no targets, what moves is no longer where they were."""

    max_age: float = 0.03

    def __post_init__(self) -> None:
        if not 0 <= self.max_age < float("inf"):
            raise ValueError(f"max_age must not be negative, and finite, not {self.max_age}")


def depth_losses(
    config: DepthTaskConfig, camera: CameraBranch, images: ImageFeatures | None, batch: Batch, counts: Counts | None
) -> Losses:
    """`depth_loss` of a batch, of whose pictures the branch has made `images`: 0 where it has none."""
    if images is None:
        return Losses.of({"bins": next(camera.parameters()).new_zeros(())})
    known = None if counts is None else counts["depth_pixels"]
    return depth_loss(camera.depth_view.depth_logits(images), depth_targets_of(config, camera, batch), known)


def depth_targets_of(config: DepthTaskConfig, camera: CameraBranch, batch: Batch) -> Int64[Tensor, "K V U"]:
    """`depth_targets` of the K cameras of a batch that are there."""
    points = points_of(batch.lidar, batch.lidar_available)
    return depth_targets(points, camera.feature_pixels(batch), camera.depth_view.config, config.max_age)


def depth_targets(
    points: PointBatch, pixels: FeaturePixels, bins: LiftSplatConfig, max_age: float
) -> Int64[Tensor, "K V U"]:
    """The depth bin of the nearest LiDAR point (ego) that falls into each feature pixel of K cameras; -1: none does.

    Depths outside the bins' range are no targets, but they do hide what is behind them.
    """
    young = points.points[:, _AGE] <= max_age
    cloud = PointBatch(points.points[young], points.sample_index[young], points.batch_size)
    return bins.bins_of(nearest_depths(cloud, pixels))


def depth_loss(
    logits: Float[Tensor, "K D V U"], targets: Int64[Tensor, "K V U"], known: Float[Tensor, ""] | None = None
) -> Losses:
    """Cross-entropy of the depth bins, the mean over the pixels that have a target; 0 where none has. Float32.

    `known`: by which number of pixels the sum is divided, instead of those here.
    """
    known = (targets >= 0).sum().clamp(min=1).float() if known is None else known
    return Losses.of({"bins": F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum") / known})
