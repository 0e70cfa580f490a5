"""The detector: sensor branches, the BEV fusion, the centre head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from datasets.boxes import Boxes3D
from datasets.samples.batch import Batch, PointBatch
from perception.camera_branch import CameraBranch, CameraConfig
from perception.center_decode import decode
from perception.center_head import CenterHead, CenterHeadConfig, HeadOutputs
from perception.center_targets import center_targets
from perception.fusion.transformer import BevFusionTransformer, FusionTransformerConfig
from perception.grid import BevGrid
from perception.lidar_branch import LidarBranch, LidarConfig
from perception.losses import Losses, center_losses
from perception.pose_encoder import PoseConfig, PoseEncoder
from perception.radar_branch import RadarBranch, RadarConfig


@dataclass(frozen=True)
class DetectorConfig:
    """`grid`: the BEV on which sensors meet, with `channels` channels. A branch that is None is not built."""

    grid: BevGrid
    channels: int
    camera: CameraConfig | None
    lidar: LidarConfig | None
    radar: RadarConfig | None
    pose: PoseConfig | None
    fusion: FusionTransformerConfig
    head: CenterHeadConfig

    def __post_init__(self) -> None:
        if self.channels < 1 or self.channels % self.fusion.heads:
            raise ValueError(f"{self.channels} channels do not divide into the fusion's {self.fusion.heads} heads")
        rows, columns = self.grid.shape
        if rows % self.fusion.stride or columns % self.fusion.stride:
            raise ValueError(
                f"a grid of {rows} x {columns} cells is no whole number of the fusion's patches of "
                f"{self.fusion.stride} x {self.fusion.stride} cells"
            )


@dataclass(frozen=True)
class Predictions:
    """What the network puts out, raw. `modality_weights`: how much camera, LiDAR, radar and pose weigh at each cell."""

    bev: Float[Tensor, "B C Y X"]
    head: HeadOutputs
    modality_weights: Float[Tensor, "B 4 Y X"]


class Detector(nn.Module):
    """Any subset of camera, LiDAR, radar and pose to 3D boxes in the ego frame.

    What stands in the data of a camera, or of a whole modality, that the batch marks as unavailable has no influence on
    any output. (Radar points do not say which radar they are from: of a single radar that is unavailable the batch must
    hold none, as `make_sample` sees to it.) A sample's output does not depend on the other samples of its batch, but
    for the rounding of matrix products.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        grid, channels = config.grid, config.channels
        self.camera = None if config.camera is None else CameraBranch(config.camera, grid, channels)
        self.lidar = None if config.lidar is None else LidarBranch(config.lidar, grid, channels)
        self.radar = None if config.radar is None else RadarBranch(config.radar, grid, channels)
        self.pose = None if config.pose is None else PoseEncoder(config.pose, channels)
        self.fusion = BevFusionTransformer(config.fusion, grid, channels)
        self.head = CenterHead(config.head, grid, channels)

    def forward(self, batch: Batch) -> Predictions:
        """Run the network. A modality that no sample has, or that the detector was built without, is not computed."""
        batch = without_absent_data(batch)
        availability = self._usable(batch)
        camera, lidar, radar, pose = availability.any(dim=0).tolist()
        bevs: list[Tensor | None] = [None, None, None]
        if self.camera is not None and camera:
            bevs[0] = self.camera(batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available)
        if self.lidar is not None and lidar:
            bevs[1] = self.lidar(batch.lidar)
        if self.radar is not None and radar:
            bevs[2] = self.radar(batch.radar)
        if self.pose is not None and pose:
            motion = self.pose(batch.ego_motion, batch.ego_motion_valid)
        else:
            motion = torch.zeros(len(availability), self.config.channels, device=availability.device)
        bev, weights = self.fusion(self._stack(bevs, availability), motion, availability)
        return Predictions(bev, self.head(bev), weights)

    def losses(self, predictions: Predictions, boxes: Sequence[Boxes3D]) -> Losses:
        """The losses of these predictions, given the annotated boxes (ego) of each sample."""
        logits = predictions.head.heatmap_logits
        config = self.config.head
        targets = center_targets(boxes, self.head.grid, config.min_radius, config.reach, logits.device)
        codes, attribute_logits = self.head.boxes_at(predictions.head.features, targets.cells)
        return center_losses(config, logits, codes, attribute_logits, targets)

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Boxes3D]:
        """The boxes of each sample in its ego frame, best first; in evaluation mode, whatever mode is set."""
        training = self.training
        self.eval()
        try:
            return self.decode(self(batch))
        finally:
            self.train(training)

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[Boxes3D]:
        """The boxes in predictions; see `detect`."""
        return decode(self.head, predictions.head)

    def _usable(self, batch: Batch) -> Bool[Tensor, "B 4"]:
        """The modalities that a sample has and the detector was built with."""
        built = [branch is not None for branch in (self.camera, self.lidar, self.radar, self.pose)]
        return batch.availability & torch.tensor(built, device=batch.lidar_available.device)

    def _stack(self, bevs: Sequence[Tensor | None], availability: Bool[Tensor, "B 4"]) -> Float[Tensor, "B 3 C Y X"]:
        """The modalities' BEVs in one tensor, channels last in memory; zeros stand in for those not computed."""
        zeros = torch.zeros(
            len(availability), *self.config.grid.shape, self.config.channels, device=availability.device
        )
        cells = [zeros if bev is None else bev.permute(0, 2, 3, 1).to(zeros.dtype) for bev in bevs]
        return torch.stack(cells, dim=1).permute(0, 1, 4, 2, 3)


def without_absent_data(batch: Batch) -> Batch:
    """The batch with everything blanked that an unavailable sensor left in it."""
    camera, pose = batch.camera_available, batch.ego_motion_valid
    return replace(
        batch,
        images=torch.where(camera[..., None, None, None], batch.images, 0),
        intrinsics=torch.where(camera[..., None, None], batch.intrinsics, torch.eye(3, device=camera.device)),
        ego_from_cam=torch.where(camera[..., None, None], batch.ego_from_cam, torch.eye(4, device=camera.device)),
        lidar=_points_of(batch.lidar, batch.lidar_available),
        # Points do not say which radar they are from: they go when all radars of the sample are unavailable.
        radar=_points_of(batch.radar, batch.radar_available.any(dim=1)),
        ego_motion=torch.where(pose[..., None], batch.ego_motion, 0.0),
    )


def _points_of(cloud: PointBatch, available: Bool[Tensor, "B"]) -> PointBatch:
    """The points of those samples that have the sensor."""
    if available.all():
        return cloud
    kept = available[cloud.sample_index]
    return PointBatch(cloud.points[kept], cloud.sample_index[kept], cloud.batch_size)
