"""Early fusion: points carry the image features of the pixels that they fall on, before any encoder sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.samples.batch import PointBatch
from perception.bev_neck import CellNorm, ConvBlock
from perception.fusion.strategy import FusionStrategy, mean_of_available, without_absent
from perception.image_features import ImageFeatures

# What lies nearer to the camera than this along its axis, metres, is behind it or on its lens.
_NEAREST = 0.1


@dataclass(frozen=True)
class EarlyFusionConfig:
    """`width`: image channels that a point gets."""

    kind: Literal["early"] = "early"
    width: int = 16

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")

    @property
    def columns(self) -> int:
        """Columns that a painted point has more: the image channels, and whether a camera sees it."""
        return self.width + 1


class PointPainting(nn.Module):
    """PointPainting (Vora et al. 2020) with learned image features instead of class scores, as in PointAugmenting
    (Wang et al. 2021), for LiDAR and radar points alike.

    Each point is projected into every camera that its sample has; it gets the mean of the features, bilinear, at the
    pixels of those that see it, and a 1. A point that no camera sees gets zeros.
    """

    def __init__(self, config: EarlyFusionConfig, in_channels: int) -> None:
        super().__init__()
        self.columns = config.columns
        self.project = ConvBlock(in_channels, config.width, kernel=1)

    def forward(self, clouds: Sequence[PointBatch], images: ImageFeatures | None) -> list[PointBatch]:
        """The clouds with `columns` more columns; `images` is None where no sample has a camera."""
        if images is None:
            return [self._with(cloud, cloud.points.new_zeros(len(cloud.points), self.columns)) for cloud in clouds]
        maps = self.project(images.features).float()
        return [self._with(cloud, self._paint(cloud, images, maps)) for cloud in clouds]

    @staticmethod
    def _with(cloud: PointBatch, paint: Float32[Tensor, "P K"]) -> PointBatch:
        return replace(cloud, points=torch.cat([cloud.points, paint], dim=1))

    def _paint(
        self, cloud: PointBatch, images: ImageFeatures, maps: Float32[Tensor, "K F V U"]
    ) -> Float32[Tensor, "P D"]:
        rows, colors = [], []
        for camera, sample in enumerate(images.sample_index.tolist()):
            own = torch.nonzero(cloud.sample_index == sample)[:, 0]
            pixels, seen = pixels_of_points(
                cloud.points[own, :3], images.intrinsics[camera], images.ego_from_cam[camera], images.image_size
            )
            rows.append(own[seen])
            colors.append(sample_features(maps[camera], pixels[seen], images.stride))
        row = torch.cat(rows)
        color = F.pad(torch.cat(colors), (0, 1), value=1.0)  # the last column counts the cameras
        total = color.new_zeros(len(cloud.points), self.columns).index_add(0, row, color)
        return total / total[:, -1:].detach().clamp(min=1.0)


def pixels_of_points(
    points_ego: Float32[Tensor, "P 3"],
    intrinsics: Float32[Tensor, "3 3"],
    ego_from_cam: Float32[Tensor, "4 4"],
    image_size: tuple[int, int],
) -> tuple[Float32[Tensor, "P 2"], Bool[Tensor, "P"]]:
    """The pixels (u, v) of points, and which points lie in front of the camera and in its picture (H, W)."""
    # A plain inverse: augmentation may have scaled or mirrored the world, and with it ego_from_cam.
    cam_from_ego = torch.linalg.inv(ego_from_cam.double()).float()
    pixels, depth = project(intrinsics, transform_points(cam_from_ego, points_ego))
    height, width = image_size
    u, v = pixels.unbind(dim=1)
    seen = (depth > _NEAREST) & (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    return pixels, seen


def sample_features(
    features: Float32[Tensor, "F V U"], pixels: Float32[Tensor, "S 2"], stride: int
) -> Float32[Tensor, "S F"]:
    """Features (F, V, U) at pixels of the picture, bilinear; feature (v, u) is of the pixel (v, u) * stride."""
    size = pixels.new_tensor([features.shape[2], features.shape[1]])
    places = (pixels / stride * 2 + 1) / size - 1
    sampled = F.grid_sample(features[None], places[None, :, None], padding_mode="border", align_corners=False)
    return sampled[0, :, :, 0].T


class EarlyFusion(FusionStrategy):
    """What is left to do after painting: the mean of the BEVs that are there, plus the pose.

    The sensors have met on the points, so the BEVs are merged in the plainest way. The camera's own BEV is among them:
    its lifted pixels are the points of a sample that has no others, so that cameras alone detect as well.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pose = nn.Linear(channels, channels, bias=False)
        self.norm = CellNorm(channels)

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], None]:
        """See FusionStrategy. Which sensor a painted point's feature is from cannot be told: there are no weights."""
        bevs, pose = without_absent(modality_bevs, pose, availability)
        return self.norm(mean_of_available(bevs, availability) + self.pose(pose)[:, :, None, None]), None
