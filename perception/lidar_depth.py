"""LiDAR points seen from the cameras: how far away the nearest point in a pixel of the features is."""

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from calibration.cameras import project
from calibration.transforms import transform_points
from datasets.samples.batch import PointBatch


def nearest_depths(
    points: PointBatch,
    intrinsics: Float32[Tensor, "K 3 3"],
    ego_from_cam: Float32[Tensor, "K 4 4"],
    sample_index: Int64[Tensor, "K"],
    size: tuple[int, int],
    stride: int,
) -> Float64[Tensor, "K V U"]:
    """Metres along the optical axis of K cameras to the nearest point (ego) of their own sample; inf: no point.

    size: (V, U) of the features, whose pixel j lies around image pixel j * stride.
    """
    height, width = size
    nearest = torch.full((len(sample_index), height * width), torch.inf, dtype=torch.float64, device=intrinsics.device)
    cloud, owner = points.points[:, :3].double(), points.sample_index
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
    return nearest.view(-1, height, width)
