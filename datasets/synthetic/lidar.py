"""LiDAR sweeps: the beams of a Velodyne HDL-32E, one revolution at one instant."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64

from datasets.classes import LIDAR_CHANNEL
from datasets.synthetic.arrays import Array
from datasets.synthetic.materials import REFLECTIVITY
from datasets.synthetic.rays import Instant, rays_from
from datasets.synthetic.rig import MOUNTS

# Ring 0 looks down most. The datasheet gives 1.33 degrees between beams, from -30.67 to +10.67.
ELEVATIONS: Float64[Array, "32"] = np.radians(np.linspace(-30.67, 10.67, 32))
_AZIMUTH_STEPS = 1084
_MAX_RANGE, _RANGE_NOISE = 100.0, 0.02
# The vehicle's roof in ego, metres.
_ROOF_HEIGHT, _ROOF_SPAN, _ROOF_HALF_WIDTH = 1.46, (0.0, 1.95), 0.62


def beam_directions() -> Float32[Array, "N 3"]:
    """Unit directions in the lidar frame: clockwise as seen from above, all beams of one azimuth after another."""
    azimuths = np.pi - np.arange(_AZIMUTH_STEPS) * 2 * np.pi / _AZIMUTH_STEPS
    azimuth, elevation = np.repeat(azimuths, len(ELEVATIONS)), np.tile(ELEVATIONS, _AZIMUTH_STEPS)
    flat = np.cos(elevation)
    directions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)
    return np.asarray(directions, np.float32)


@lru_cache(maxsize=1)
def _meets_own_roof() -> Bool[Array, "N"]:
    """Which beams the vehicle's own roof swallows: the lowest ones, except to the sides, where the roof is narrow."""
    ego_from_lidar = MOUNTS[LIDAR_CHANNEL].ego_from_sensor
    origin, down = ego_from_lidar[:3, 3], beam_directions() @ ego_from_lidar[:3, :3].T
    places = origin + down * ((_ROOF_HEIGHT - origin[2]) / np.minimum(down[:, 2], -1e-3))[:, None]
    (rear, front), half_width = _ROOF_SPAN, _ROOF_HALF_WIDTH
    found = (down[:, 2] < 0) & (places[:, 0] > rear) & (places[:, 0] < front) & (np.abs(places[:, 1]) < half_width)
    return np.asarray(found)


def sweep(
    instant: Instant,
    world_from_lidar: Float64[Array, "4 4"],
    directions: Float32[Array, "N 3"],
    rng: np.random.Generator,
) -> Float32[Array, "P 5"]:
    """x, y, z (lidar frame), intensity 0..255 and ring of the returns; `directions` are those of `beam_directions`."""
    rays = rays_from(world_from_lidar, directions)
    hits = instant.cast(rays)
    count = len(rays)
    facing = np.abs(np.einsum("ij,ij->i", hits.normals, rays[:, 3:]))
    # Each beam draws its numbers whether it meets something or not: a change far away leaves the rest as it was.
    noise, luck, speckle = rng.standard_normal(count), rng.random(count), rng.standard_normal(count)
    reflectivity = REFLECTIVITY[np.maximum(hits.materials, 0)]
    distances = np.where(np.isfinite(hits.distances), hits.distances, np.inf)
    strength = reflectivity * (0.25 + 0.75 * facing)
    # What comes back fades with the square of the range; grazing and dark surfaces go first.
    returned = 1.0 - np.exp(-strength * facing**0.35 * (60.0 / np.maximum(distances, 1.0)) ** 2)
    kept = (distances < _MAX_RANGE) & (luck < 0.98 * returned) & ~_meets_own_roof()
    measured = distances[kept] + _RANGE_NOISE * noise[kept]
    points = np.empty((int(kept.sum()), 5), np.float32)
    points[:, :3] = directions[kept] * measured[:, None]
    points[:, 3] = np.clip(np.round(strength[kept] * np.exp(0.25 * speckle[kept])), 0, 255)
    points[:, 4] = np.tile(np.arange(len(ELEVATIONS)), _AZIMUTH_STEPS)[kept]
    return points
