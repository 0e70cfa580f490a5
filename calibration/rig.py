"""What is mounted where, and how the vehicle moves: rig, ego state, GPS fix."""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from calibration.cameras import PinholeCamera
from calibration.transforms import Transform


@dataclass(frozen=True)
class SensorRig:
    """The calibration of one log. Channels are names as nuScenes has them (CAM_FRONT, LIDAR_TOP, RADAR_FRONT ...).

    `ego_from_sensor`: one transform for each channel that the log has; `cameras`: the cameras among them.
    """

    ego_from_sensor: dict[str, Transform]
    cameras: dict[str, PinholeCamera]


@dataclass(frozen=True)
class GpsFix:
    """A position on the WGS84 ellipsoid: degrees, degrees, metres."""

    latitude: float
    longitude: float
    altitude: float


@dataclass(frozen=True)
class EgoState:
    """The vehicle at one instant.

    `velocity` (3) m/s and `acceleration` (3) m/s^2 over ground, in ego axes; `yaw_rate` rad/s;
    `gps` is None where no receiver was recorded (a pose is never dressed up as a fix).
    """

    timestamp_us: int
    global_from_ego: Transform
    velocity: Float64[Tensor, "3"]
    acceleration: Float64[Tensor, "3"]
    yaw_rate: float
    gps: GpsFix | None
