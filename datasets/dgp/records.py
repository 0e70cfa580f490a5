"""What DGP's tables say of a scene: its samples, their readings, and where and when each was taken."""

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.rig import SensorRig
from calibration.transforms import Transform, invert
from datasets.classes import LIDAR_CHANNEL
from datasets.nuscenes.ego_motion import PoseTrack

# DGP's sensors (as DDAD's vehicles carry them) by the channel of nuScenes that looks the same way.
CHANNELS: Mapping[str, str] = {
    "LIDAR": LIDAR_CHANNEL,
    "CAMERA_01": "CAM_FRONT",
    "CAMERA_05": "CAM_FRONT_LEFT",
    "CAMERA_06": "CAM_FRONT_RIGHT",
    "CAMERA_07": "CAM_BACK_LEFT",
    "CAMERA_08": "CAM_BACK_RIGHT",
    "CAMERA_09": "CAM_BACK",
}


@dataclass(frozen=True)
class Datum:
    """One reading of one sensor. `filename` and `boxes_filename` ("" where there are none) are relative to the root."""

    timestamp_us: int
    global_from_sensor: Transform
    filename: str
    width: int
    height: int
    point_format: tuple[str, ...]
    boxes_filename: str


@dataclass(frozen=True)
class DgpSample:
    """One synchronized sample: its readings by channel, and the rig of its calibration."""

    token: str
    timestamp_us: int
    readings: dict[str, Datum]
    rig: SensorRig

    def global_from_ego(self, channel: str) -> Transform:
        """Where the vehicle was when this sensor read."""
        return self.readings[channel].global_from_sensor @ invert(self.rig.ego_from_sensor[channel])


@dataclass(frozen=True)
class DgpScene:
    """One scene. `file` is relative to the root, `name` what the user calls it."""

    file: str
    name: str
    samples: tuple[DgpSample, ...]
    class_of_id: dict[int, str]
    poses: PoseTrack
