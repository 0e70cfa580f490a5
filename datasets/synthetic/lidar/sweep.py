"""LiDAR sweeps: a Velodyne HDL-32E that turns while the vehicle and the others drive, stored as nuScenes stores them.

*Rotation.* The 32 lasers fire one after another in 46.08 us (datasheet: 1.152 us apart, the lower and the upper half
of the fan by turns), 1,085 times in the 50 ms of a revolution. The head turns clockwise; a sweep begins and ends
looking to the left of the vehicle, and its timestamp is that of the last firing ("the time when the full rotation of
the current LIDAR frame is achieved", nuscenes.org; forum.nuscenes.org/t/245: "starts from the left side and proceeds
clockwise"). In two real sweeps the firings of the first column lie within 0.4 degrees of the lidar frame's -x axis,
and so they do here. The cameras' recorded times (`rig.CAMERA_LEAD`) come 2.0 ms after the beam passed their middles,
with a residual of 0.3 ms at most.

*Motion.* Published points are compensated for the motion of the ego vehicle during the sweep (forum.nuscenes.org/t/821
and /t/245), and the files show how: beams that nothing answered are stored with range 0, so what is left of them is the
compensation alone: where the sensor was when they were fired, in its frame at the timestamp. So a point is measured
from where the vehicle was when its column fired, against the others where they were then, and stored in the lidar frame
at the timestamp. Nothing compensates for the motion of others: they stay smeared.

*Returns.* Every firing is stored, so a file holds 32 points a column: also the returns of the own roof, and those of
range 0. Users remove what is close.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from datasets.arrays import Array
from datasets.synthetic.conditions import Conditions
from datasets.synthetic.lidar.droplets import drop_returns, extinction_at_905nm, wet_ground
from datasets.synthetic.lidar.own_vehicle import OwnReturns, own_returns
from datasets.synthetic.lidar.passing import Passage
from datasets.synthetic.rays import BACKGROUND, Hits
from datasets.synthetic.scenery.materials import FALLOFF, REFLECTIVITY
from datasets.synthetic.traffic.motion import Drive
from datasets.synthetic.world import World

RINGS = 32
# Ring 0 looks down most. The datasheet gives 1.33 degrees between beams, from -30.67 to +10.67.
ELEVATIONS: Float64[Array, "32"] = np.radians(np.linspace(-30.67, 10.67, RINGS))
COLUMNS = 1085
_CYCLE, _BETWEEN_LASERS = 46.08e-6, 1.152e-6
# From the first firing to the last, seconds.
DURATION = (COLUMNS - 1) * _CYCLE
# Poses of the vehicle in between are interpolated: 10 ms apart that is good to 1 mm and 1e-5 rad.
_POSES = 6

# Owners of points that no road user and no background sent back.
OWN_VEHICLE, DROPLETS = -2, -3

# Real sweeps of nuScenes end at 103 to 104 m, come in steps of 2 mm, and on a road nearby scatter by 4 to 5 mm (one
# sigma, from the second differences along a ring).
_MAX_RANGE, _RANGE_STEP = 104.0, 0.002
_RANGE_NOISE, _NOISE_PER_METRE = 0.0045, 1e-4
# So much of the roof's returns is missing in real sweeps (rings 0 to 7; most of it behind, where they graze it).
_OWN_LOST = 0.03
# With it the intensities have the quantiles of real sweeps.
_GAIN = 1.3
# The intensity of a beam that nothing answered: real lasers repeat a number of their own, mostly between 2 and 30.
_UNANSWERED: Float32[Array, "32"] = (2 + np.arange(RINGS) * 11 % 29).astype(np.float32)


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep, 32 of each column, oldest first, and what sent them back.

    `points` are x, y, z (metres, lidar frame at the timestamp), intensity 0..255, ring. `owners` are road users'
    numbers, BACKGROUND, OWN_VEHICLE (also for beams that nothing answered) or DROPLETS; `materials` are -1 where no
    surface was met.
    """

    points: Float32[Array, "P 5"]
    materials: Int32[Array, "P"]
    owners: Int32[Array, "P"]


@lru_cache(maxsize=1)
def beam_directions() -> Float32[Array, "N 3"]:
    """Unit directions of a sweep's firings in the lidar frame: all rings of a column, then the next, clockwise."""
    rings = np.arange(RINGS)
    turn = np.where(rings < RINGS // 2, 2 * rings, 2 * rings - RINGS + 1) * _BETWEEN_LASERS / _CYCLE
    azimuths = np.pi - (np.arange(COLUMNS)[:, None] + turn) * 2 * np.pi / COLUMNS
    flat, up = np.cos(ELEVATIONS), np.broadcast_to(np.sin(ELEVATIONS), azimuths.shape)
    directions = np.stack([flat * np.cos(azimuths), flat * np.sin(azimuths), up], axis=2)
    return np.asarray(directions.reshape(-1, 3), np.float32)


@lru_cache(maxsize=1)
def _own_returns() -> OwnReturns:
    return own_returns(beam_directions())


def sweep(
    world: World, passage: Passage, ego_from_lidar: Float64[Array, "4 4"], time: float, rng: np.random.Generator
) -> Sweep:
    """The sweep whose last firing is at `time` (seconds since the scene's start); `passage` is that of the world."""
    world_from_lidar = _column_poses(world.drive, ego_from_lidar, time)
    directions, own = beam_directions(), _own_returns()
    rays = _rays(world_from_lidar, directions)
    # What the own vehicle covers need not be cast at the world.
    free = np.isinf(own.distances).nonzero()[0]
    moments = np.repeat(np.linspace(0.0, 1.0, COLUMNS), RINGS)
    found = passage.cast(rays[free], moments[free], time - DURATION, time)
    facing = own.facing.copy()
    facing[free] = np.abs(np.einsum("ij,ij->i", found.normals, rays[free, 3:]))
    hits = _spread(found, own, free)
    level = np.zeros(len(rays), bool)
    level[free] = found.normals[:, 2] > 0.7
    ranges, intensities, owners = _echoes(hits, facing, level, world.conditions, rng)
    materials = np.where(owners == hits.owners, hits.materials, -1).astype(np.int32)
    materials[ranges == 0] = -1
    points = np.empty((len(rays), 5), np.float32)
    points[:, :3] = _compensated(world_from_lidar, directions * ranges[:, None])
    points[:, 3] = intensities
    points[:, 4] = np.tile(np.arange(RINGS), COLUMNS)
    return Sweep(points, materials, owners)


def _column_poses(drive: Drive, ego_from_lidar: Float64[Array, "4 4"], time: float) -> Float64[Array, "C 4 4"]:
    """world_from_lidar when each column was fired."""
    marks = np.stack([drive.world_from_ego(t) @ ego_from_lidar for t in np.linspace(time - DURATION, time, _POSES)])
    place = np.linspace(0.0, _POSES - 1.0, COLUMNS)
    before = np.minimum(place.astype(int), _POSES - 2)
    share = (place - before)[:, None, None]
    return np.asarray((1.0 - share) * marks[before] + share * marks[before + 1])


def _rays(world_from_lidar: Float64[Array, "C 4 4"], directions: Float32[Array, "N 3"]) -> Float32[Array, "N 6"]:
    rays = np.empty((COLUMNS, RINGS, 6), np.float32)
    rays[..., :3] = world_from_lidar[:, None, :3, 3]
    turned = world_from_lidar[:, :3, :3].astype(np.float32).transpose(0, 2, 1)
    np.matmul(directions.reshape(COLUMNS, RINGS, 3), turned, out=rays[..., 3:])
    return rays.reshape(-1, 6)


def _compensated(world_from_lidar: Float64[Array, "C 4 4"], points: Float32[Array, "N 3"]) -> Float32[Array, "N 3"]:
    """Points in the lidar frames of their columns, moved to the frame of the last column."""
    last_from_lidar = (np.linalg.inv(world_from_lidar[-1]) @ world_from_lidar).astype(np.float32)
    moved = np.matmul(points.reshape(COLUMNS, RINGS, 3), last_from_lidar[:, :3, :3].transpose(0, 2, 1))
    return np.asarray((moved + last_from_lidar[:, None, :3, 3]).reshape(-1, 3))


def _spread(found: Hits, own: OwnReturns, free: Int64[Array, "F"]) -> Hits:
    """What all beams met: `free` of them met `found`, the others the own vehicle."""
    distances, materials = own.distances.copy(), own.materials.copy()
    owners = np.full(len(distances), OWN_VEHICLE, np.int32)
    normals = np.zeros((len(distances), 3), np.float32)
    distances[free], materials[free], owners[free], normals[free] = (
        found.distances, found.materials, found.owners, found.normals,
    )  # fmt: skip
    return Hits(distances, normals, materials, owners)


def _echoes(
    hits: Hits,
    facing: Float32[Array, "N"],
    level: Bool[Array, "N"],
    conditions: Conditions,
    rng: np.random.Generator,
) -> tuple[Float32[Array, "N"], Float32[Array, "N"], Int32[Array, "N"]]:
    """Range (0: nothing came back), intensity and owner of the strongest return of each beam.

    `facing` are cosines of incidence, `level` says which surfaces are horizontal. Each beam draws its numbers whether
    it meets something or not: a change far away leaves the other beams as they were.
    """
    count = len(facing)
    noise, luck, speckle = rng.standard_normal(count), rng.random(count), rng.standard_normal(count)
    drops = drop_returns(conditions, count, rng)
    strength = _GAIN * REFLECTIVITY[np.maximum(hits.materials, 0)] * (0.25 + 0.75 * facing)
    if conditions.rain_rate > 0:
        # The own roof is wet too, but too near for it to matter.
        strength = np.where(level & (hits.owners == BACKGROUND), strength * wet_ground(facing), strength)
    distances = np.minimum(hits.distances, 2 * _MAX_RANGE)
    strength = strength * np.exp(-2.0 * extinction_at_905nm(conditions) * distances)
    # What comes back fades with the square of the range; grazing, dark and glossy surfaces go first.
    power = strength / np.maximum(distances, 1.0) ** 2
    answered = 0.99 * (1.0 - np.exp(-power * facing ** FALLOFF[np.maximum(hits.materials, 0)] * 60.0**2))
    solid = (distances < _MAX_RANGE) & (luck < answered)
    own = hits.owners == OWN_VEHICLE
    solid[own] = luck[own] >= _OWN_LOST
    wet = (drops.distances < distances) & (~solid | (drops.intensities / np.maximum(drops.distances, 1.0) ** 2 > power))
    ranges = np.where(wet, drops.distances, distances)
    ranges = ranges + (_RANGE_NOISE + _NOISE_PER_METRE * ranges) * noise
    ranges = np.where(wet | solid, np.round(np.maximum(ranges, 0.1) / _RANGE_STEP) * _RANGE_STEP, 0.0)
    seen = np.where(wet, drops.intensities, strength) * np.exp(0.45 * speckle)
    intensities = np.where(wet | solid, np.clip(np.round(seen), 0, 255), np.tile(_UNANSWERED, COLUMNS))
    owners = np.where(wet, DROPLETS, np.where(solid, hits.owners, OWN_VEHICLE))
    return ranges.astype(np.float32), intensities.astype(np.float32), owners.astype(np.int32)
