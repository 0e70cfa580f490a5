"""The points of a frame in one place, to compare them with other ways to get there."""

import torch

from calibration.transforms import transform_points
from datasets.classes import LIDAR_CHANNEL
from datasets.frames import LogFrame


def lidar_global(frame: LogFrame, sweep: int = 0) -> torch.Tensor:
    """A sweep's points in global, float64."""
    points = frame.lidar_sweeps[LIDAR_CHANNEL][sweep]
    global_from_lidar = points.global_from_ego @ frame.rig.ego_from_sensor[LIDAR_CHANNEL]
    return transform_points(global_from_lidar, points.points[:, :3].double())
