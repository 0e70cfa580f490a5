"""A Sample: what the network sees of one frame, everything in the ego frame of the frame's instant."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor

from datasets.boxes import Boxes3D
from datasets.faults import SensorFault
from datasets.frames import RADAR_FIELDS

# Columns of `Sample.lidar_points`: ego frame, metres; intensity scaled to 0..1; age in seconds before the frame.
LIDAR_POINT_FIELDS: tuple[str, ...] = ("x", "y", "z", "intensity", "age")

# Columns of `Sample.radar_points`: ego frame; rcs in dBsm; compensated velocity over ground in ego axes, m/s.
RADAR_POINT_FIELDS: tuple[str, ...] = ("x", "y", "z", "rcs", "vx_comp", "vy_comp", "age")

# The same, and behind them all else that the radar says of a return (datasets.frames.RADAR_FIELDS): the velocity that
# it measured, uncompensated, in ego axes too; the states and uncertainties in the radar's own numbers.
FULL_RADAR_POINT_FIELDS: tuple[str, ...] = (
    *RADAR_POINT_FIELDS,
    *(name for name in RADAR_FIELDS if name not in RADAR_POINT_FIELDS),
)

RadarFields = Literal["basic", "full"]


def radar_point_fields(fields: RadarFields) -> tuple[str, ...]:
    """The columns of `Sample.radar_points`."""
    return FULL_RADAR_POINT_FIELDS if fields == "full" else RADAR_POINT_FIELDS


# Columns of `Sample.ego_motion`, one row for each past state: where the vehicle was (x, y, yaw) in today's ego frame,
# how it moved there, how long ago; and where GPS saw it relative to GPS's newest fix, turned into today's ego axes.
EGO_MOTION_FIELDS: tuple[str, ...] = (
    "x", "y", "sin_yaw", "cos_yaw", "speed", "yaw_rate", "acceleration", "age", "gps_x", "gps_y", "gps_valid",
)  # fmt: skip

# What a map can say of the ground: nuScenes' masks have one class, all that is paved for vehicles and pedestrians. (The
# synthetic world's masks leave the sidewalks out.)
MAP_CLASSES: tuple[str, ...] = ("semantic_prior",)


@dataclass(frozen=True)
class MapRaster:
    """The map's classes (L: MAP_CLASSES) at each cell of a BEV, and which cells the map reaches at all."""

    masks: Bool[Tensor, "L Y X"]
    known: Bool[Tensor, "Y X"]


@dataclass(frozen=True)
class Sample:
    """One frame, decoded and moved into the ego frame of its instant.

    images: RGB, 0..255, resized and cropped; a camera that is not available is black. intrinsics: of those resized
    pictures. ego_from_cam: also undoes the ego motion between the picture's instant and the frame's. The order of
    cameras and radars is that of the SampleConfig that made the sample. radar_available: one for each radar.
    radar_points: RADAR_POINT_FIELDS or, where the config says so, FULL_RADAR_POINT_FIELDS.
    ego_motion: oldest first, with rows of zeros where `ego_motion_valid` is False. boxes: the training targets or
    None. faults: why a sensor is absent. impairments: what a sensor that is there has lost all the same. sweep_counts:
    of the LiDAR and of each radar, how many sweeps went in; fewer than asked for at the start of a scene. map_raster:
    the map where it is asked for (datasets/samples/map_raster.py). previous: the frames before this one where they are
    asked for, newest first, fewer at the start of a scene; augmented as this one is.
    """

    token: str
    scene_name: str
    timestamp_us: int
    images: UInt8[Tensor, "N 3 H W"]
    intrinsics: Float32[Tensor, "N 3 3"]
    ego_from_cam: Float32[Tensor, "N 4 4"]
    camera_available: Bool[Tensor, "N"]
    lidar_points: Float32[Tensor, "P 5"]
    lidar_available: bool
    radar_points: Float32[Tensor, "R C"]
    radar_available: Bool[Tensor, "K"]
    ego_motion: Float32[Tensor, "T 11"]
    ego_motion_valid: Bool[Tensor, "T"]
    global_from_ego: Float64[Tensor, "4 4"]
    boxes: Boxes3D | None
    faults: tuple[SensorFault, ...]
    impairments: tuple[SensorFault, ...] = ()
    sweep_counts: tuple[tuple[str, int], ...] = ()
    map_raster: MapRaster | None = None
    previous: tuple["Sample", ...] = ()
