"""The sensors of the synthetic vehicle: mounted and focused as one of the nuScenes cars was."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64

from calibration.cameras import PinholeCamera
from calibration.transforms import from_quaternion
from datasets.arrays import Array
from datasets.classes import CAMERA_CHANNELS, LIDAR_CHANNEL, RADAR_CHANNELS


@dataclass(frozen=True)
class Mount:
    """Where a sensor is: `translation` (metres) and `rotation_wxyz` of its frame in ego."""

    translation: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]

    @property
    def ego_from_sensor(self) -> Float64[Array, "4 4"]:
        """The mount as a transform."""
        return from_quaternion(self.rotation_wxyz, self.translation).numpy()


# From nuScenes' calibrated_sensor table (vehicle n008, scene-0103; the four corner radars: n015, scene-0061).
MOUNTS: dict[str, Mount] = {
    "CAM_FRONT": Mount(
        (1.72200568478, 0.00475453292289, 1.49491291905),
        (0.5077241387638071, -0.4973392230703816, 0.49837167536166627, -0.4964832014373754),
    ),
    "CAM_FRONT_RIGHT": Mount(
        (1.58082565783, -0.499078711449, 1.51749368405),
        (0.20335173766558642, -0.19146333228946724, 0.6785710044972951, -0.6793609166212989),
    ),
    "CAM_BACK_RIGHT": Mount(
        (1.05945173053, -0.46720294852, 1.55050857555),
        (0.13819187705364147, -0.13796718183628456, -0.6893329941542625, 0.697630335509333),
    ),
    "CAM_BACK": Mount(
        (0.05524611077, 0.0107882366898, 1.56794286957),
        (0.5067997344989889, -0.4977567019405021, -0.4987849934090844, 0.496594225837321),
    ),
    "CAM_BACK_LEFT": Mount(
        (1.04852047718, 0.483058131052, 1.56210154484),
        (0.7048620297871717, -0.6907306801461466, -0.11209091960167808, 0.11617345743327073),
    ),
    "CAM_FRONT_LEFT": Mount(
        (1.5752559464, 0.500519383135, 1.50696032589),
        (0.6812088525125634, -0.6687507165046241, 0.2101702448905517, -0.21108161122114324),
    ),
    "LIDAR_TOP": Mount(
        (0.985793, 0.0, 1.84019),
        (0.706749235646644, -0.015300993788500868, 0.01739745181256607, -0.7070846669051719),
    ),
    "RADAR_FRONT": Mount((3.412, 0.0, 0.5), (0.9999984769132877, 0.0, 0.0, 0.0017453283658983088)),
    "RADAR_FRONT_LEFT": Mount((2.422, 0.8, 0.78), (0.7171539204983457, 0.0, 0.0, 0.6969148113750004)),
    "RADAR_FRONT_RIGHT": Mount((2.422, -0.8, 0.77), (0.7010337393110511, 0.0, 0.0, -0.7131281065471795)),
    "RADAR_BACK_LEFT": Mount((-0.562, 0.628, 0.53), (0.04876260733128922, 0.0, 0.0, 0.9988103964848657)),
    "RADAR_BACK_RIGHT": Mount((-0.562, -0.618, 0.53), (0.0339401344459428, 0.0, 0.0, -0.9994238676726663)),
}

# Focal length and principal point (pixels) of the 1600 x 900 cameras.
_FOCUS: dict[str, tuple[float, float, float]] = {
    "CAM_FRONT": (1252.8131021185304, 826.588114781398, 469.9846626224581),
    "CAM_FRONT_RIGHT": (1256.7485116440405, 817.7887570959712, 451.9541780095127),
    "CAM_BACK_RIGHT": (1249.9629280788233, 825.3768045375984, 462.54816385708756),
    "CAM_BACK": (796.8910634503094, 857.7774326863696, 476.8848988407415),
    "CAM_BACK_LEFT": (1254.9860565800168, 829.5769333630991, 467.1680561863987),
    "CAM_FRONT_LEFT": (1257.8625342125129, 827.2410631095686, 450.915498205774),
}

# When each camera looks, seconds before the LiDAR sweep of its keyframe: the beam passes it at that moment.
CAMERA_LEAD: dict[str, float] = {
    "CAM_FRONT_LEFT": 0.0431,
    "CAM_FRONT": 0.0355,
    "CAM_FRONT_RIGHT": 0.0276,
    "CAM_BACK_RIGHT": 0.0201,
    "CAM_BACK": 0.0104,
    "CAM_BACK_LEFT": 0.0005,
}

CHANNELS: tuple[str, ...] = (*CAMERA_CHANNELS, LIDAR_CHANNEL, *RADAR_CHANNELS)


def modality(channel: str) -> str:
    """ "camera", "lidar" or "radar", as nuScenes' sensor table has it."""
    return "camera" if channel in CAMERA_CHANNELS else "radar" if channel in RADAR_CHANNELS else "lidar"


def camera(channel: str, width: int) -> PinholeCamera:
    """The camera of a channel for pictures of this width."""
    focus, centre_u, centre_v = _FOCUS[channel]
    intrinsics = torch.tensor([[focus, 0.0, centre_u], [0.0, focus, centre_v], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return PinholeCamera(1600, 900, intrinsics).resized(width / 1600)
