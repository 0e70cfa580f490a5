"""From a LogFrame to a Sample: decode, resize and crop (the camera follows), move every sensor to the frame's instant.

A point swept 0.4 s ago is carried into the ego frame of now by the vehicle's own motion, never by the object's; a
radar return is moreover moved by its own compensated velocity (CRN and BEVFusion's radar configuration do so: a radar
measures how fast the thing was, a LiDAR does not).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor

from calibration.cameras import PinholeCamera
from calibration.transforms import Transform, invert, rotate_vectors, transform_points
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.ego_motion import ego_motion_rows
from datasets.faults import SensorFault, SensorFileError
from datasets.frames import RADAR_FIELDS, Annotations, LogFrame, PointSweep
from datasets.images import decode_image
from datasets.sample import Sample

_RCS, _VX_COMP, _VY_COMP = (RADAR_FIELDS.index(name) for name in ("rcs", "vx_comp", "vy_comp"))
_INVALID_STATE, _AMBIG_STATE = RADAR_FIELDS.index("invalid_state"), RADAR_FIELDS.index("ambig_state")

# The states that CRN (Kim et al. 2023) keeps: more than the devkit's default, without the certain clutter.
RADAR_VALID_STATES = (0, 4, 8, 9, 10, 11, 12, 15, 16, 17)
RADAR_UNAMBIGUOUS = 3


@dataclass(frozen=True)
class SampleConfig:
    """What a Sample is made of. Channels that a log does not have stay empty and are marked unavailable.

    Pictures are resized to `image_width` and cropped at the top to `image_height`: the sky goes, the road stays.
    """

    image_height: int
    image_width: int
    camera_channels: tuple[str, ...] = CAMERA_CHANNELS
    lidar_channel: str | None = LIDAR_CHANNEL
    radar_channels: tuple[str, ...] = RADAR_CHANNELS
    lidar_sweeps: int = 10
    """Sweeps of the LiDAR, the keyframe's own included."""
    radar_sweeps: int = 6
    """Sweeps of each radar, the keyframe's own included."""
    ego_states: int = 5
    """Past states of the vehicle, half a second apart, the present one included."""
    max_lidar_points: int = 400_000
    """A bound on memory: a cloud with more points is thinned evenly. Ten nuScenes sweeps have about 300,000."""
    close_radius: float = 1.0
    """LiDAR points nearer to the sensor than this (metres, in x and y) lie on the vehicle itself and are dropped."""

    def __post_init__(self) -> None:
        counts = ("image_height", "image_width", "lidar_sweeps", "radar_sweeps", "ego_states", "max_lidar_points")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.close_radius < math.inf:
            raise ValueError(f"close_radius must not be negative, and finite, not {self.close_radius}")
        for name, channels, known in (
            ("camera_channels", self.camera_channels, CAMERA_CHANNELS),
            ("lidar_channel", self._lidar_channels, (LIDAR_CHANNEL,)),
            ("radar_channels", self.radar_channels, RADAR_CHANNELS),
        ):
            if len(set(channels)) < len(channels) or not set(channels) <= set(known):
                raise ValueError(f"{name} must be some of {', '.join(known)}, each once, not {', '.join(channels)}")

    @property
    def channels(self) -> tuple[str, ...]:
        """All that a sample is made of: what other sensors recorded is not read and cannot be missing."""
        return (*self.camera_channels, *self._lidar_channels, *self.radar_channels)

    @property
    def _lidar_channels(self) -> tuple[str, ...]:
        return () if self.lidar_channel is None else (self.lidar_channel,)


def make_sample(frame: LogFrame, config: SampleConfig) -> Sample:
    """Decode a frame into the ego frame of its instant. A picture that cannot be decoded becomes a fault."""
    images, intrinsics, ego_from_cam, available, camera_faults = _cameras(frame, config)
    lidar_points = _lidar(frame, config)
    radar_points, radar_available = _radars(frame, config)
    ego_motion, ego_motion_valid = ego_motion_rows(frame.ego_states, frame.global_from_ego, config.ego_states)
    return Sample(
        token=frame.token,
        scene_name=frame.scene_name,
        timestamp_us=frame.timestamp_us,
        images=images,
        intrinsics=intrinsics,
        ego_from_cam=ego_from_cam,
        camera_available=available,
        lidar_points=lidar_points,
        lidar_available=len(lidar_points) > 0,
        radar_points=radar_points,
        radar_available=radar_available,
        ego_motion=ego_motion,
        ego_motion_valid=ego_motion_valid,
        global_from_ego=frame.global_from_ego,
        boxes=None if frame.annotations is None else training_boxes(frame.annotations, frame.global_from_ego),
        faults=_of_channels(frame.faults, config) + camera_faults,
        impairments=_of_channels(frame.impairments, config),
    )


def _of_channels(faults: Iterable[SensorFault], config: SampleConfig) -> tuple[SensorFault, ...]:
    return tuple(fault for fault in faults if fault.channel in config.channels)


def training_boxes(annotations: Annotations, global_from_ego: Transform) -> Boxes3D:
    """The annotations as targets, in ego, float32: those that at least one LiDAR or radar point hit."""
    hit = (annotations.lidar_point_counts + annotations.radar_point_counts) > 0
    return annotations.boxes_global[hit].transformed(invert(global_from_ego)).to(torch.float32)


def fit_picture(camera: PinholeCamera, height: int, width: int) -> tuple[PinholeCamera, int]:
    """The camera of a picture resized to `width` and cropped to `height` at the bottom, and the rows cut off the top.

    A picture that is too flat gets black rows on top: the number of rows is then negative.
    """
    resized = camera.resized(width / camera.width)
    top = resized.height - height
    return resized.cropped(0, top, width, height), top


def _cameras(
    frame: LogFrame, config: SampleConfig
) -> tuple[
    UInt8[Tensor, "N 3 H W"],
    Float32[Tensor, "N 3 3"],
    Float32[Tensor, "N 4 4"],
    Bool[Tensor, "N"],
    tuple[SensorFault, ...],
]:
    count, height, width = len(config.camera_channels), config.image_height, config.image_width
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    # A missing camera keeps valid matrices, so that no singular one reaches the geometry.
    intrinsics, ego_from_cam = torch.eye(3).repeat(count, 1, 1), torch.eye(4).repeat(count, 1, 1)
    available = torch.zeros(count, dtype=torch.bool)
    faults: list[SensorFault] = []
    ego_from_global = invert(frame.global_from_ego)
    for index, channel in enumerate(config.camera_channels):
        if channel not in frame.images:
            continue
        image = frame.images[channel]
        camera, top = fit_picture(frame.rig.cameras[channel], height, width)
        try:
            picture = decode_image(image).numpy()
        except SensorFileError as error:
            faults.append(SensorFault(channel, error.reason, error.detail))
            continue
        shrunk = cv2.resize(picture, (width, height + top), interpolation=cv2.INTER_LINEAR)
        rows = shrunk[max(top, 0) :]
        images[index, :, height - len(rows) :] = torch.from_numpy(np.ascontiguousarray(rows.transpose(2, 0, 1)))
        intrinsics[index] = camera.intrinsics.float()
        ego_from_cam[index] = (ego_from_global @ image.global_from_ego @ frame.rig.ego_from_sensor[channel]).float()
        available[index] = True
    return images, intrinsics, ego_from_cam, available, tuple(faults)


def ego_from_sweep(frame: LogFrame, channel: str, sweep: PointSweep) -> Transform:
    """Sensor coordinates at the sweep's instant to ego coordinates at the frame's."""
    return invert(frame.global_from_ego) @ sweep.global_from_ego @ frame.rig.ego_from_sensor[channel]


def _age(frame: LogFrame, sweep: PointSweep) -> float:
    return (frame.timestamp_us - sweep.timestamp_us) * 1e-6


def _lidar(frame: LogFrame, config: SampleConfig) -> Float32[Tensor, "P 5"]:
    clouds = [torch.zeros(0, 5)]
    if config.lidar_channel is None:
        return clouds[0]
    for sweep in frame.lidar_sweeps.get(config.lidar_channel, ())[: config.lidar_sweeps]:
        points = sweep.points
        near = (points[:, 0].abs() < config.close_radius) & (points[:, 1].abs() < config.close_radius)
        points = points[~near]
        xyz = transform_points(ego_from_sweep(frame, config.lidar_channel, sweep), points[:, :3])
        age = torch.full((len(points), 1), _age(frame, sweep))
        clouds.append(torch.cat([xyz, points[:, 3:4] / 255.0, age], dim=1))
    cloud = torch.cat(clouds)
    if len(cloud) > config.max_lidar_points:
        cloud = cloud[torch.linspace(0, len(cloud) - 1, config.max_lidar_points, dtype=torch.float64).long()]
    return cloud


def _radars(frame: LogFrame, config: SampleConfig) -> tuple[Float32[Tensor, "R 7"], Bool[Tensor, "K"]]:
    clouds = [torch.zeros(0, 7)]
    available = torch.zeros(len(config.radar_channels), dtype=torch.bool)
    for index, channel in enumerate(config.radar_channels):
        if channel not in frame.radar_sweeps:
            continue
        available[index] = True
        for sweep in frame.radar_sweeps[channel][: config.radar_sweeps]:
            clouds.append(_radar_sweep(sweep.points, ego_from_sweep(frame, channel, sweep), _age(frame, sweep)))
    return torch.cat(clouds), available


def _radar_sweep(
    points: Float32[Tensor, "P 18"], ego_from_radar: Float64[Tensor, "4 4"], age: float
) -> Float32[Tensor, "R 7"]:
    states = torch.tensor(RADAR_VALID_STATES, dtype=points.dtype)
    kept = torch.isin(points[:, _INVALID_STATE], states) & (points[:, _AMBIG_STATE] == RADAR_UNAMBIGUOUS)
    points = points[kept]
    velocities = rotate_vectors(ego_from_radar, points[:, [_VX_COMP, _VY_COMP]])
    xyz = transform_points(ego_from_radar, points[:, :3])
    xyz = torch.cat([xyz[:, :2] + velocities * age, xyz[:, 2:]], dim=1)
    return torch.cat([xyz, points[:, [_RCS]], velocities, torch.full((len(points), 1), age)], dim=1)
