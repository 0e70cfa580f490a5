"""What the vehicle says about itself: CAN bus poses as the CAN bus expansion has them, and GPS fixes."""

import numpy as np
import pymap3d

from datasets.synthetic.config import WorldConfig
from datasets.synthetic.schedule import scene_start_us
from datasets.synthetic.world import World

LOCATION = "boston-seaport"
# Latitude and longitude (degrees) of the south-western corner of nuScenes' map of LOCATION: its global (0, 0).
_ORIGIN = (42.336849169438615, -71.05785369873047)
_POSE_RATE, _GPS_RATE = 50.0, 10.0
_GPS_NOISE, _GPS_DRIFT = 0.35, 0.35
_GRAVITY = 9.81


def _instants(config: WorldConfig, rate: float) -> list[float]:
    return [-0.5 + step / rate for step in range(int((config.duration + 1.0) * rate))]


def pose_messages(config: WorldConfig, index: int, world: World) -> list[dict[str, object]]:
    """The messages of `can_bus/<scene>_pose.json`: 50 Hz, positions in global, velocity in ego axes."""
    rng = np.random.default_rng([config.seed, index, 3])
    messages: list[dict[str, object]] = []
    for time in _instants(config, _POSE_RATE):
        x, y, yaw = world.drive.track.at(time)
        ahead, left = world.drive.acceleration(time)
        jitter = rng.normal(0.0, 1.0, 7)
        messages.append(
            {
                "utime": scene_start_us(config, index) + round(time * 1e6),
                "pos": [x + float(world.global_offset[0]), y + float(world.global_offset[1]), 0.0],
                "orientation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                "vel": [world.drive.speed(time) + 0.01 * float(jitter[0]), 0.0, 0.0],
                "accel": [
                    ahead + 0.1 * float(jitter[1]),
                    left + 0.1 * float(jitter[2]),
                    _GRAVITY + 0.1 * float(jitter[3]),
                ],
                "rotation_rate": [
                    0.005 * float(jitter[4]),
                    0.005 * float(jitter[5]),
                    world.drive.yaw_rate(time) + 0.003 * float(jitter[6]),
                ],
            }
        )
    return messages


def gps_messages(config: WorldConfig, index: int, world: World) -> list[dict[str, object]]:
    """The messages of `can_bus/<scene>_gps.json`, our addition: 10 Hz, degrees and metres, half a metre of error.

    Part of the error is constant over a scene, part is new in each fix.
    """
    rng = np.random.default_rng([config.seed, index, 4])
    drift = rng.normal(0.0, _GPS_DRIFT, 3)
    messages: list[dict[str, object]] = []
    for time in _instants(config, _GPS_RATE):
        x, y, _ = world.drive.track.at(time)
        east, north, up = np.array([x, y, 0.0]) + world.global_offset + drift + rng.normal(0.0, _GPS_NOISE, 3)
        latitude, longitude, altitude = pymap3d.enu2geodetic(east, north, up, *_ORIGIN, 0.0)
        messages.append(
            {
                "utime": scene_start_us(config, index) + round(time * 1e6),
                "latitude": float(latitude),
                "longitude": float(longitude),
                "altitude": float(altitude),
            }
        )
    return messages
