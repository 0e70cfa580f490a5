"""What an unavailable sensor left in a batch is blanked, so that it has no influence on anything."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from datasets.samples.batch import Batch, PointBatch


def without_absent_data(batch: Batch) -> Batch:
    """The batch with everything blanked that an unavailable sensor left in it."""
    camera, pose = batch.camera_available, batch.ego_motion_valid
    return replace(
        batch,
        images=torch.where(camera[..., None, None, None], batch.images, 0),
        intrinsics=torch.where(camera[..., None, None], batch.intrinsics, torch.eye(3, device=camera.device)),
        ego_from_cam=torch.where(camera[..., None, None], batch.ego_from_cam, torch.eye(4, device=camera.device)),
        lidar=points_of(batch.lidar, batch.lidar_available),
        # Points do not say which radar they are from: they go when all radars of the sample are unavailable.
        radar=points_of(batch.radar, batch.radar_available.any(dim=1)),
        ego_motion=torch.where(pose[..., None], batch.ego_motion, 0.0),
    )


def points_of(cloud: PointBatch, available: Bool[Tensor, "B"]) -> PointBatch:
    """The points of those samples that have the sensor."""
    if available.all():
        return cloud
    kept = available[cloud.sample_index]
    return PointBatch(cloud.points[kept], cloud.sample_index[kept], cloud.batch_size)
