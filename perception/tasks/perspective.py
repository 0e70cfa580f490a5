"""Perspective supervision: the features of a picture learn from the annotations what stands where in it, and how far
away, before any of it has gone to the BEV.

Through view transform, neck, fusion and trunk an image backbone with random weights learns next to nothing in the steps
that teach the LiDAR's. BEVFormer v2 (Yang et al. 2023) gives backbones such a second head; DETR3D (Wang et al. 2021)
and BEVFormer start from FCOS3D's weights (Wang et al. 2021), which have learnt just that on nuScenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES
from datasets.samples.batch import Batch
from perception.bev_neck import CellLinear
from perception.camera_branch import CameraBranch, CameraConfig
from perception.heads.box_losses import UNLIKELY_LOGIT, gaussian_focal_loss
from perception.image_features import FeaturePixels, ImageFeatures
from perception.losses import Counts, Losses, at_least_one
from perception.view_transform.lift_splat import LiftSplatConfig

# Boxes with a corner nearer than this to the plane of the pinhole are left out: they have no outline in the picture.
_NEAREST_CORNER = 0.3
# A peak falls off with a sixth of the box's width and height in the picture, at the least with half a feature pixel.
_SPREAD, _LEAST_SPREAD = 1 / 6, 0.5


@dataclass(frozen=True)
class PerspectiveConfig:
    """What the two parts of the loss are multiplied by."""

    heatmap_weight: float = 1.0
    depth_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("heatmap_weight", "depth_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, and finite, not {getattr(self, name)}")


class PerspectiveTargets(NamedTuple):
    """heatmap: 1 where the centre of a box is seen, of its class, falling off around it (CenterNet, Zhou et al. 2019).
    depth_bins: the depth bin of the middle of the nearest box whose outline the pixel lies in; -1: in none.
    """

    heatmap: Float32[Tensor, "K 10 V U"]
    depth_bins: Int64[Tensor, "K V U"]

    def counts(self) -> Counts:
        """What the two parts of the loss are divided by."""
        return {
            "perspective_peaks": (self.heatmap == 1).sum().float(),
            "perspective_pixels": (self.depth_bins >= 0).sum().float(),
        }


class PerspectiveHead(nn.Module):
    """The features of pictures to one logit for each class at each feature pixel. Of use in training alone."""

    def __init__(self, config: PerspectiveConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.classify = CellLinear(channels, len(DETECTION_CLASSES))
        nn.init.constant_(self.classify.linear.bias, UNLIKELY_LOGIT)

    def forward(self, features: Float[Tensor, "K F V U"]) -> Float[Tensor, "K 10 V U"]:
        """Logits."""
        out: Tensor = self.classify(features)
        return out

    def targets(self, camera: CameraBranch, batch: Batch) -> PerspectiveTargets:
        """What the batch's annotations say to the cameras that are there. Raises ValueError where it has none."""
        if batch.boxes is None:
            raise ValueError("perspective is learnt from annotations, and the batch has none")
        return perspective_targets(batch.boxes, camera.feature_pixels(batch), camera.depth_view.config)

    def losses(
        self, camera: CameraBranch, images: ImageFeatures | None, batch: Batch, counts: Counts | None = None
    ) -> Losses:
        """Focal loss of the heatmap and cross-entropy of the depth bins, in float32.

        images: what the branch made of the batch's pictures; None, and the losses 0, where there is none. counts: what
        the losses are divided by, instead of those of the batch's own `targets` (at least 1).
        """
        if images is None:
            nothing = self.classify.linear.weight.new_zeros(())
            return Losses.of({"heatmap": nothing, "bins": nothing})
        targets = self.targets(camera, batch)
        counts = at_least_one(targets.counts()) if counts is None else counts
        heatmap = gaussian_focal_loss(self(images.features), targets.heatmap, counts["perspective_peaks"])
        logits = camera.depth_view.depth_logits(images).float()
        wrong = F.cross_entropy(logits, targets.depth_bins, ignore_index=-1, reduction="sum")
        return Losses.of(
            {
                "heatmap": self.config.heatmap_weight * heatmap,
                "bins": self.config.depth_weight * wrong / counts["perspective_pixels"],
            }
        )


def check_perspective(camera: CameraConfig | None) -> CameraConfig:
    """The branch that learns it. Raises ValueError for a detector that has none, or one without depths."""
    if camera is None:
        raise ValueError("perspective is learnt by the camera branch, and there is none")
    camera.check_has_depths("perspective")
    return camera


def perspective_targets(boxes: Sequence[Boxes3D], pixels: FeaturePixels, bins: LiftSplatConfig) -> PerspectiveTargets:
    """What K cameras should see of the boxes (ego) of their own samples.

    Boxes whose middle lies outside the bins' range are left out, and so are those with a number that is not finite.
    What is hidden behind others is not known, and counts.
    """
    (height, width), intrinsics = pixels.size, pixels.intrinsics
    device = intrinsics.device
    heatmap = torch.zeros(len(intrinsics), len(DETECTION_CLASSES), height, width, device=device)
    nearest = torch.full((len(intrinsics), height, width), torch.inf, device=device)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    for camera, sample in enumerate(pixels.sample_index.tolist()):
        of_sample = boxes[sample].to(device).to(torch.float32)
        seen = _outlines(of_sample, intrinsics[camera], pixels.ego_from_cam[camera], bins)
        low, high, middle = (
            (part - pixels.pixel_offset) / pixels.stride for part in (seen.low, seen.high, seen.middle)
        )
        across = (columns >= low[:, :1].round()) & (columns <= high[:, :1].round())
        down = (rows >= low[:, 1:].round()) & (rows <= high[:, 1:].round())
        depths = torch.where(down[:, :, None] & across[:, None], seen.depth[:, None, None], torch.inf)
        nearest[camera] = torch.cat([nearest[camera, None], depths]).amin(dim=0)
        peak, spread = middle.round(), ((high - low) * _SPREAD).clamp(min=_LEAST_SPREAD)
        # A peak off the picture would leave a rim that never reaches 1.
        in_picture = ((peak >= 0) & (peak < peak.new_tensor([width, height]))).all(dim=1)
        u, v = (columns - peak[:, :1]) / spread[:, :1], (rows - peak[:, 1:]) / spread[:, 1:]
        bumps = torch.exp(-0.5 * (u.square()[:, None] + v.square()[:, :, None]))
        bumps, labels = bumps[in_picture].flatten(1), seen.labels[in_picture]
        heatmap[camera].flatten(1).scatter_reduce_(0, labels[:, None].expand_as(bumps), bumps, "amax")
    return PerspectiveTargets(heatmap, bins.bins_of(nearest))


class _Outlines(NamedTuple):
    """Of M boxes in one picture: the corners of the rectangle around each and its middle, pixels; the middle's depth,
    metres; the classes.
    """

    low: Float32[Tensor, "M 2"]
    high: Float32[Tensor, "M 2"]
    middle: Float32[Tensor, "M 2"]
    depth: Float32[Tensor, "M"]
    labels: Int64[Tensor, "M"]


def _outlines(
    boxes: Boxes3D, intrinsics: Float32[Tensor, "3 3"], ego_from_cam: Float32[Tensor, "4 4"], bins: LiftSplatConfig
) -> _Outlines:
    # The eight corners, then the middle.
    points = torch.cat([boxes.corners(), boxes.centers[:, None]], dim=1)
    cam_from_ego = torch.linalg.inv_ex(ego_from_cam).inverse
    pixels, depths = project(intrinsics, transform_points(cam_from_ego, points.flatten(0, 1)))
    pixels, depths = pixels.view(len(boxes), 9, 2), depths.view(len(boxes), 9)
    depth = depths[:, 8]
    # Comparisons with NaN are false: such boxes go here.
    kept = (depths[:, :8] > _NEAREST_CORNER).all(dim=1)
    kept &= (depth >= bins.depth_range[0]) & (depth < bins.depth_range[1])
    corners, middle = pixels[kept, :8], pixels[kept, 8]
    return _Outlines(corners.amin(dim=1), corners.amax(dim=1), middle, depth[kept], boxes.labels[kept])
