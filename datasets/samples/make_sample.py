"""From a LogFrame to a Sample: decode, resize and crop (the camera follows), move every sensor to the frame's instant.

A point swept 0.4 s ago is carried into the ego frame of now by the vehicle's own motion, never by the object's; a
radar return is moreover moved by its own compensated velocity.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from calibration.transforms import Transform, invert
from datasets.boxes import Boxes3D
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS
from datasets.faults import SensorFault, SensorFileError
from datasets.frames import Annotations, LogFrame, MergedSweeps
from datasets.samples.ego_motion import ego_motion_rows
from datasets.samples.sample import RadarFields, Sample, radar_point_fields
from datasets.sensors.picture_change import PictureChange
from datasets.sensors.sweeps import (
    RADAR_FILTERS,
    RADAR_RETURN_FIELDS,
    RadarFilter,
    RadarFilterName,
    merge_lidar_sweeps,
    merge_radar_sweeps,
    moving_sweeps,
)


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
    radar_filter: RadarFilterName | RadarFilter = "crn"
    """Which radar returns are kept, by their states: a filter by name (datasets/sensors/sweeps.py) or of one's own."""
    radar_fields: RadarFields | None = None
    """What is said of a radar return: seven fields (basic) or all that the radar gives (full). None: in a RunConfig
    what the detector's radar branch takes, by itself basic."""
    pad_lidar_sweeps: bool = False
    """Put the newest sweep's points, once more, in the place of each sweep that is not there (at the start of a scene,
    say), so that a cloud is as dense as ever: mmdetection3d's `pad_empty_sweeps`."""

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
    def returns_kept(self) -> RadarFilter:
        """The radar filter itself, also where it is given by name."""
        return self.radar_filter if isinstance(self.radar_filter, RadarFilter) else RADAR_FILTERS[self.radar_filter]

    @property
    def channels(self) -> tuple[str, ...]:
        """All that a sample is made of: what other sensors recorded is not read and cannot be missing."""
        return (*self.camera_channels, *self._lidar_channels, *self.radar_channels)

    @property
    def _lidar_channels(self) -> tuple[str, ...]:
        return () if self.lidar_channel is None else (self.lidar_channel,)


def make_sample(frame: LogFrame, config: SampleConfig, pictures: Mapping[str, PictureChange] | None = None) -> Sample:
    """Decode a frame into the ego frame of its instant. A picture that cannot be decoded becomes a fault.

    `pictures`: how the picture of a camera's channel is changed; without an entry it is fitted to the config's size.
    """
    images, intrinsics, ego_from_cam, available, camera_faults = _cameras(frame, config, pictures or {})
    points = lidar_points(frame, config)
    returns, radar_available = _radars(frame, config)
    ego_motion, ego_motion_valid = ego_motion_rows(frame.ego_states, frame.global_from_ego, config.ego_states)
    return Sample(
        token=frame.token,
        scene_name=frame.scene_name,
        timestamp_us=frame.timestamp_us,
        images=images,
        intrinsics=intrinsics,
        ego_from_cam=ego_from_cam,
        camera_available=available,
        lidar_points=points,
        lidar_available=len(points) > 0,
        radar_points=returns,
        radar_available=radar_available,
        ego_motion=ego_motion,
        ego_motion_valid=ego_motion_valid,
        global_from_ego=frame.global_from_ego,
        boxes=None if frame.annotations is None else training_boxes(frame.annotations, frame.global_from_ego),
        faults=_of_channels(frame.faults, config) + camera_faults,
        impairments=_of_channels(frame.impairments, config),
        sweep_counts=_sweep_counts(frame, config),
    )


def _of_channels(faults: Iterable[SensorFault], config: SampleConfig) -> tuple[SensorFault, ...]:
    return tuple(fault for fault in faults if fault.channel in config.channels)


def _sweep_counts(frame: LogFrame, config: SampleConfig) -> tuple[tuple[str, int], ...]:
    counts = []
    if config.lidar_channel is not None:
        merged = frame.merged_lidar.get(config.lidar_channel)
        sweeps = frame.lidar_sweeps.get(config.lidar_channel, ()) if merged is None else merged.sizes
        counts.append((config.lidar_channel, min(len(sweeps), config.lidar_sweeps)))
    for channel in config.radar_channels:
        counts.append((channel, min(len(frame.radar_sweeps.get(channel, ())), config.radar_sweeps)))
    return tuple(counts)


def training_boxes(annotations: Annotations, global_from_ego: Transform) -> Boxes3D:
    """The annotations as targets, in ego, float32: those that at least one LiDAR or radar point hit."""
    hit = (annotations.lidar_point_counts + annotations.radar_point_counts) > 0
    return annotations.boxes_global[hit].transformed(invert(global_from_ego)).to(torch.float32)


def _cameras(
    frame: LogFrame, config: SampleConfig, pictures: Mapping[str, PictureChange]
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
        image, camera = frame.images[channel], frame.rig.cameras[channel]
        change = pictures.get(channel) or PictureChange.fit(camera, height, width)
        try:
            images[index] = change.decoded(image)
        except SensorFileError as error:
            faults.append(SensorFault(channel, error.reason, error.detail))
            continue
        intrinsics[index] = change.intrinsics(camera.intrinsics).float()
        ego_from_cam[index] = (ego_from_global @ image.global_from_ego @ frame.rig.ego_from_sensor[channel]).float()
        available[index] = True
    return images, intrinsics, ego_from_cam, available, tuple(faults)


def lidar_points(frame: LogFrame, config: SampleConfig) -> Float32[Tensor, "P 5"]:
    """The points of the LiDAR's sweeps (LIDAR_POINT_FIELDS) in ego, whether a reader merged them or not.

    Raises ValueError where the reader that merged them left out points of another `close_radius`.
    """
    if config.lidar_channel is None:
        return torch.zeros(0, 5)
    merged = _merged(frame, config.lidar_channel, config)
    points, missing = merged.points, config.lidar_sweeps - len(merged.sizes)
    if config.pad_lidar_sweeps and merged.sizes and missing:
        points = torch.cat([points, *[merged.newest(1).points] * missing])
    return thinned(points, config.max_lidar_points)


def _merged(frame: LogFrame, channel: str, config: SampleConfig) -> MergedSweeps:
    """The newest sweeps of the LiDAR, as many as the config asks for."""
    merged = frame.merged_lidar.get(channel)
    if merged is None:
        moving = moving_sweeps(frame, channel, frame.lidar_sweeps.get(channel, ())[: config.lidar_sweeps])
        return merge_lidar_sweeps(moving, close_radius=config.close_radius, at_most=len(moving))
    if merged.close_radius != config.close_radius:
        raise ValueError(
            f"frame {frame.token}: its reader left out points of {channel} nearer than {merged.close_radius} m, the "
            f"config asks for {config.close_radius} m"
        )
    return merged.newest(config.lidar_sweeps)


def thinned(cloud: Float32[Tensor, "P 5"], most: int) -> Float32[Tensor, "Q 5"]:
    """At most so many points of a cloud, evenly taken from all of it."""
    if len(cloud) <= most:
        return cloud
    return cloud[torch.linspace(0, len(cloud) - 1, most, dtype=torch.float64).long()]


def _radars(frame: LogFrame, config: SampleConfig) -> tuple[Float32[Tensor, "R C"], Bool[Tensor, "K"]]:
    available = torch.tensor([channel in frame.radar_sweeps for channel in config.radar_channels], dtype=torch.bool)
    return radar_points(radar_returns(frame, config), config.radar_fields or "basic"), available


def radar_returns(frame: LogFrame, config: SampleConfig) -> Float32[Tensor, "R 19"]:
    """The returns of all radars (RADAR_RETURN_FIELDS) in ego, radar by radar, moved by their own velocities."""
    moving = [
        sweep
        for channel in config.radar_channels
        for sweep in moving_sweeps(frame, channel, frame.radar_sweeps.get(channel, ())[: config.radar_sweeps])
    ]
    return merge_radar_sweeps(moving, kept=config.returns_kept, move_by_velocity=True)


def radar_points(returns: Float32[Tensor, "R 19"], fields: RadarFields) -> Float32[Tensor, "R C"]:
    """What a Sample holds (`radar_point_fields`) of radar returns (RADAR_RETURN_FIELDS)."""
    return returns[:, [RADAR_RETURN_FIELDS.index(name) for name in radar_point_fields(fields)]]
