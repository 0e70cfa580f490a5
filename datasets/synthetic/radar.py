"""Radar returns: a fan of rays in front of each unit, merged to a few returns for each object, with Doppler."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from datasets.frames import RADAR_FIELDS
from datasets.synthetic.arrays import Array
from datasets.synthetic.bodies import RCS_OF_KIND
from datasets.synthetic.rays import BACKGROUND, Instant, rays_from
from datasets.synthetic.world import World

_MAX_RETURNS = 125
_HALF_FOV = np.radians(60.0)
# Range (metres) that a direction reaches: far ahead, close at the sides.
_REACH_ANGLES, _REACH = np.radians([0.0, 9.0, 20.0, 45.0, 60.0]), (120.0, 110.0, 75.0, 70.0, 25.0)
_DOPPLER_NOISE = 0.06
_BACKGROUND_RCS, _CLUTTER_RCS = 2.0, -3.0
_BACKGROUND_RETURNS, _CLUTTER_RETURNS = 28, 5
# dyn_prop of the ARS 408: 0 moving, 1 stationary, 2 oncoming, 3 stationary candidate.
_MOVING, _STATIONARY, _ONCOMING, _CANDIDATE = 0, 1, 2, 3


def fan_directions() -> Float32[Array, "N 3"]:
    """Unit directions in the radar frame: half a degree apart at two heights."""
    azimuths = np.linspace(-_HALF_FOV, _HALF_FOV, 241)
    azimuth, elevation = np.tile(azimuths, 2), np.repeat(np.radians([0.3, 2.5]), len(azimuths))
    flat = np.cos(elevation)
    directions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)
    return np.asarray(directions, np.float32)


def sweep(
    instant: Instant,
    world: World,
    time: float,
    ego_from_radar: Float64[Array, "4 4"],
    directions: Float32[Array, "N 3"],
    rng: np.random.Generator,
) -> Float32[Array, "R 18"]:
    """Returns with the 18 RADAR_FIELDS, nearest first; there is always at least one (clutter)."""
    world_from_radar = world.drive.world_from_ego(time) @ ego_from_radar
    hits = instant.cast(rays_from(world_from_radar, directions))
    angles = np.abs(np.arctan2(directions[:, 1], directions[:, 0]))
    in_reach = hits.distances < np.interp(angles, _REACH_ANGLES, _REACH)
    # The ground throws a radar's beam away from it.
    upright = in_reach & (np.abs(hits.normals[:, 2]) < 0.8)
    chosen = _choose(hits.owners, upright, rng)
    owners = np.concatenate([hits.owners[chosen], np.full(_CLUTTER_RETURNS, BACKGROUND)])
    places = np.concatenate([directions[chosen, :2] * hits.distances[chosen, None], _clutter(rng)])
    places[: len(chosen)] += rng.normal(0.0, 0.12, (len(chosen), 2))
    over_ground = np.zeros((len(owners), 2))
    for owner in np.unique(owners[owners != BACKGROUND]):
        velocity = np.array([*world.users[owner].track.velocity(time), 0.0])
        over_ground[owners == owner] = (world_from_radar[:3, :3].T @ velocity)[:2]
    rcs = np.full(len(owners), _BACKGROUND_RCS)
    rcs[len(chosen) :] = _CLUTTER_RCS
    for i in range(len(chosen)):
        if owners[i] != BACKGROUND:
            rcs[i] = RCS_OF_KIND[world.users[owners[i]].body.kind]
    rcs += rng.normal(0.0, 3.5, len(rcs))
    return _fields(places, over_ground, _own_velocity(world, time, ego_from_radar), rcs, rng)


def _choose(owners: Int32[Array, "N"], upright: Bool[Array, "N"], rng: np.random.Generator) -> Int64[Array, "K"]:
    """Which rays become returns: a few of each object's, more of a wide one's, and some of the background's."""
    chosen = []
    for owner in np.unique(owners[upright]):
        candidates = (upright & (owners == owner)).nonzero()[0]
        if owner == BACKGROUND:
            count = min(_BACKGROUND_RETURNS, len(candidates))
        else:
            count = min(1 + int(np.sqrt(len(candidates)) * rng.uniform(0.2, 0.7)), 8, len(candidates))
            if rng.random() < 0.2:
                continue
        chosen.append(rng.choice(candidates, count, replace=False))
    return np.concatenate(chosen)[: _MAX_RETURNS - _CLUTTER_RETURNS] if chosen else np.zeros(0, np.int64)


def _clutter(rng: np.random.Generator) -> Float64[Array, "K 2"]:
    angle, distance = rng.uniform(-_HALF_FOV, _HALF_FOV, _CLUTTER_RETURNS), rng.uniform(3.0, 90.0, _CLUTTER_RETURNS)
    distance = np.minimum(distance, np.interp(np.abs(angle), _REACH_ANGLES, _REACH))
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def _own_velocity(world: World, time: float, ego_from_radar: Float64[Array, "4 4"]) -> Float64[Array, "2"]:
    """How the radar moves over ground, in its own axes: the vehicle's speed, and its turn at the lever's end."""
    speed, yaw_rate = world.drive.speed(time), world.drive.yaw_rate(time)
    x, y = ego_from_radar[:2, 3]
    moved: Float64[Array, 2] = ego_from_radar[:2, :2].T @ np.array([speed - yaw_rate * y, yaw_rate * x])
    return moved


def _fields(
    places: Float64[Array, "R 2"],
    over_ground: Float64[Array, "R 2"],
    own_velocity: Float64[Array, "2"],
    rcs: Float64[Array, "R"],
    rng: np.random.Generator,
) -> Float32[Array, "R 18"]:
    distances = np.linalg.norm(places, axis=1)
    radial = places / np.maximum(distances, 1e-6)[:, None]
    closing = np.einsum("ij,ij->i", over_ground, radial)
    noise = rng.normal(0.0, _DOPPLER_NOISE, len(places))
    own = radial @ own_velocity
    column = {name: np.zeros(len(places)) for name in RADAR_FIELDS}
    # The unit reports places on a grid of 0.2 m and 0.1 m, cross-sections in half decibels.
    column["x"], column["y"] = np.round(places[:, 0] / 0.2) * 0.2, np.round(places[:, 1] / 0.1) * 0.1
    column["vx"], column["vy"] = ((closing - own + noise)[:, None] * radial).T
    column["vx_comp"], column["vy_comp"] = ((closing + noise)[:, None] * radial).T
    column["rcs"] = np.clip(np.round(rcs * 2) / 2, -5.0, 40.0)
    moving = np.abs(closing) > 0.3
    still = np.where(rng.random(len(places)) < 0.3, _CANDIDATE, _STATIONARY)
    column["dyn_prop"] = np.where(moving, np.where(closing < 0, _ONCOMING, _MOVING), still)
    column["is_quality_valid"] += 1
    column["ambig_state"] += 3
    column["x_rms"], column["y_rms"] = (
        rng.choice([19, 20, 21], len(places), p=[0.6, 0.3, 0.1]),
        rng.choice([19, 20], len(places)),
    )
    column["vx_rms"], column["vy_rms"] = np.full(len(places), 16), np.full(len(places), 3)
    column["pdh0"] = rng.choice([1, 3], len(places), p=[0.7, 0.3])
    order = np.argsort(distances, kind="stable")
    fields = np.stack([column[name] for name in RADAR_FIELDS], axis=1)[order]
    fields[:, RADAR_FIELDS.index("id")] = np.arange(len(places))
    return fields.astype(np.float32)


_SIZES = (4, 4, 4, 1, 2, 4, 4, 4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1)


def encode(fields: Float32[Array, "R 18"]) -> bytes:
    """As a PCD v0.7 file with nuScenes' header; the devkit wants a byte after the last point."""
    types = ["F" if size == 4 else "I" for size in _SIZES]
    header = "\n".join(
        [
            "# .PCD v0.7 - Point Cloud Data file format",
            "VERSION 0.7",
            "FIELDS " + " ".join(RADAR_FIELDS),
            "SIZE " + " ".join(map(str, _SIZES)),
            "TYPE " + " ".join(types),
            "COUNT " + " ".join("1" * len(_SIZES)),
            f"WIDTH {len(fields)}",
            "HEIGHT 1",
            "VIEWPOINT 0 0 0 1 0 0 0",
            f"POINTS {len(fields)}",
            "DATA binary\n",
        ]
    )
    formats = {4: "<f4", 2: "<i2", 1: "i1"}
    records = np.empty(
        len(fields), dtype=[(name, formats[size]) for name, size in zip(RADAR_FIELDS, _SIZES, strict=True)]
    )
    for i, name in enumerate(RADAR_FIELDS):
        records[name] = fields[:, i]
    return header.encode("ascii") + records.tobytes() + b"\n"
