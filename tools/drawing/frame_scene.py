"""What of a LogFrame is to be seen from above: the newest sweep of each sensor, moved to the frame's instant."""

import torch
from jaxtyping import Float32
from torch import Tensor

from calibration.transforms import Transform, invert, rotate_vectors, transform_points
from datasets.boxes import Boxes3D
from datasets.frames import RADAR_FIELDS, LogFrame, PointSweep
from tools.drawing.bev import BevScene, class_colors
from tools.drawing.palette import ANNOTATION, Color, dimmed

_VELOCITY = [RADAR_FIELDS.index("vx_comp"), RADAR_FIELDS.index("vy_comp")]


def bev_scene(frame: LogFrame, detections: Boxes3D | None) -> BevScene:
    """The frame's points, returns and annotations in ego, beside the detections (ego)."""
    annotations = None
    if frame.annotations is not None:
        annotations = frame.annotations.boxes_global.transformed(invert(frame.global_from_ego)).to(torch.float32)
    return BevScene(
        lidar_points=_lidar_points(frame),
        radar_returns=_radar_returns(frame),
        annotations=annotations,
        annotation_colors=annotation_colors(frame, plain=detections is None),
        detections=None if detections is None else detections.to(torch.float32),
    )


def annotation_colors(frame: LogFrame, plain: bool) -> tuple[Color, ...]:
    """One colour for each annotation: its class's where it is drawn `plain`, without detections, otherwise white.

    An object that no LiDAR or radar point hit is dimmed: it is behind something, and nobody can be asked to find it.
    """
    if frame.annotations is None:
        return ()
    boxes = frame.annotations.boxes_global
    colors = class_colors(boxes) if plain else [ANNOTATION] * len(boxes)
    hit = (frame.annotations.lidar_point_counts + frame.annotations.radar_point_counts) > 0
    return tuple(color if seen else dimmed(color) for color, seen in zip(colors, hit.tolist(), strict=True))


def _ego_from_sweep(frame: LogFrame, channel: str, sweep: PointSweep) -> Transform:
    return invert(frame.global_from_ego) @ sweep.global_from_ego @ frame.rig.ego_from_sensor[channel]


def _lidar_points(frame: LogFrame) -> Float32[Tensor, "P 3"]:
    clouds = [torch.zeros(0, 3)]
    for channel, sweeps in frame.raw_lidar_sweeps.items():
        if sweeps:
            clouds.append(transform_points(_ego_from_sweep(frame, channel, sweeps[0]), sweeps[0].points[:, :3]))
    return torch.cat(clouds)


def _radar_returns(frame: LogFrame) -> Float32[Tensor, "R 4"]:
    returns = [torch.zeros(0, 4)]
    for channel, sweeps in frame.radar_sweeps.items():
        if sweeps:
            ego_from_radar = _ego_from_sweep(frame, channel, sweeps[0])
            positions = transform_points(ego_from_radar, sweeps[0].points[:, :3])
            velocities = rotate_vectors(ego_from_radar, sweeps[0].points[:, _VELOCITY])
            returns.append(torch.cat([positions[:, :2], velocities], dim=1))
    return torch.cat(returns)
