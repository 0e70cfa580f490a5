"""LiDAR points seen from the cameras: how far away the nearest point in a pixel of the features is."""

import torch
from jaxtyping import Float64
from torch import Tensor

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.samples.batch import PointBatch
from perception.image_features import FeaturePixels


def nearest_depths(points: PointBatch, pixels: FeaturePixels) -> Float64[Tensor, "K V U"]:
    """Metres along the optical axis of K cameras to the nearest point (ego) of their own sample; inf: no point."""
    height, width = pixels.size
    cloud, owner = points.points[:, :3].double(), points.sample_index
    nearest = cloud.new_full((len(pixels.sample_index), height * width), torch.inf)
    cam_from_ego = torch.linalg.inv_ex(pixels.ego_from_cam.double()).inverse
    for camera, sample in enumerate(pixels.sample_index.tolist()):
        seen, depth = project(
            pixels.intrinsics[camera].double(), transform_points(cam_from_ego[camera], cloud[owner == sample])
        )
        seen, depth = seen[depth > 0], depth[depth > 0]
        column, row = torch.floor((seen - pixels.pixel_offset) / pixels.stride + 0.5).unbind(1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cell = row[inside].long() * width + column[inside].long()
        nearest[camera].scatter_reduce_(0, cell, depth[inside], "amin")
    return nearest.view(-1, height, width)
