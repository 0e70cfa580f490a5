"""What comes back to a radar: echoes of all that reflects, weakened by what stands in between, and their ghosts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from datasets.arrays import Array
from datasets.synthetic.radar.reflectors import Reflectors
from datasets.synthetic.radar.shadows import ARRIVED, Scenery
from datasets.synthetic.radar.unit import FAR, HOPE, LOWEST_RCS, MAX_AZIMUTH, MAX_RANGE, NEAR
from datasets.synthetic.rays import BACKGROUND, Target

# Multipath. Each of two reflections at a wall costs this much; one over the own bumper costs more.
_WALL_LOSS, _BUMPER_LOSS = 7.0, 14.0
_MIRROR_REACH, _MIRRORED, _WALLS = 40.0, 8, 6
_BUMPER_REACH, _BUMPER_AZIMUTH = 20.0, np.radians(35.0)
# Specific attenuation by rain at 77 GHz, dB per km = k R^alpha with R in mm/h (ITU-R P.838-3).
_RAIN_K, _RAIN_ALPHA = 1.1, 0.71


@dataclass(frozen=True)
class Motion:
    """How a radar moves over ground: its velocity in its own axes, m/s, and its yaw rate, rad/s."""

    velocity: Float64[Array, "2"]
    yaw_rate: float


@dataclass(frozen=True)
class Echoes:
    """E echoes in the radar's polar coordinates.

    `doppler` is the rate of change of the range as measured (m/s, negative: coming closer), `over_ground` the part of
    it that is not the radar's own motion. `rcs` (dBsm) is what the echo looks like: losses on the way make it smaller.
    """

    ranges: Float64[Array, "E"]
    azimuths: Float64[Array, "E"]
    doppler: Float64[Array, "E"]
    over_ground: Float64[Array, "E"]
    rcs: Float64[Array, "E"]
    owners: Int64[Array, "E"]


@dataclass(frozen=True)
class Sight:
    """The centres that a radar may see, `rcs` with losses, and the directions to them.

    `sight` are unit vectors in the world's plane.
    """

    reflectors: Reflectors
    rcs: Float64[Array, "N"]
    ranges: Float64[Array, "N"]
    sight: Float64[Array, "N 2"]


def echoes_of(
    reflectors: Reflectors,
    scenery: Scenery,
    world_from_radar: Float64[Array, "4 4"],
    motion: Motion,
    rng: np.random.Generator,
) -> Echoes:
    """All echoes of an instant, ghosts last, fluctuating from sweep to sweep (Swerling case 1)."""
    seen = _seen(reflectors, scenery, world_from_radar)
    velocities = seen.reflectors.velocities
    direct = _measured(
        seen.sight * seen.ranges[:, None], velocities, seen.rcs, seen.reflectors.owners, world_from_radar, motion
    )
    ghosts = [mirror_ghosts(seen, scenery, world_from_radar, motion, rng), bumper_ghosts(direct)]
    echoes = joined([direct, *ghosts])
    lost = 2e-3 * _RAIN_K * scenery.rain_rate**_RAIN_ALPHA * echoes.ranges
    fading = 10.0 * np.log10(np.maximum(rng.exponential(1.0, len(echoes.ranges)), 1e-4))
    return Echoes(
        echoes.ranges, echoes.azimuths, echoes.doppler, echoes.over_ground, echoes.rcs - lost + fading, echoes.owners
    )


def _measured(
    offsets: Float64[Array, "N 2"],
    velocities: Float64[Array, "N 2"],
    rcs: Float64[Array, "N"],
    owners: Int64[Array, "N"],
    world_from_radar: Float64[Array, "4 4"],
    motion: Motion,
) -> Echoes:
    """Echoes of places at these offsets from the radar (world axes, in the plane), moving with these velocities."""
    ranges = np.linalg.norm(offsets, axis=1)
    sight = offsets / np.maximum(ranges, 1e-6)[:, None]
    over_ground = np.einsum("ij,ij->i", velocities, sight)
    in_radar = offsets @ world_from_radar[:2, :2]
    azimuths = np.arctan2(in_radar[:, 1], in_radar[:, 0])
    own = motion.velocity[0] * np.cos(azimuths) + motion.velocity[1] * np.sin(azimuths)
    return Echoes(ranges, azimuths, over_ground - own, over_ground, rcs, owners)


def _seen(reflectors: Reflectors, scenery: Scenery, world_from_radar: Float64[Array, "4 4"]) -> Sight:
    """The centres before the radar that are strong enough, with the loss of what hides them."""
    origin = world_from_radar[:3, 3]
    offsets = reflectors.places[:, :2] - origin[:2]
    in_radar = offsets @ world_from_radar[:2, :2]
    ranges = np.hypot(offsets[:, 0], offsets[:, 1])
    before = (ranges < MAX_RANGE) & (ranges > 0.5) & (in_radar[:, 0] > ranges * np.cos(MAX_AZIMUTH))
    chosen = before.nonzero()[0]
    ranges, azimuths = ranges[chosen], np.arctan2(in_radar[chosen, 1], in_radar[chosen, 0])
    needed = np.minimum(NEAR.faintest_at(ranges, azimuths), FAR.faintest_at(ranges, azimuths))
    needed = np.maximum(needed, LOWEST_RCS) - HOPE
    near = reflectors[chosen]
    rcs = near.towards(origin[:2])
    keep = (rcs > needed).nonzero()[0]
    near, rcs, needed, chosen, ranges = near[keep], rcs[keep], needed[keep], chosen[keep], ranges[keep]
    rcs = rcs - scenery.moving.lost(np.broadcast_to(origin, near.places.shape).copy(), near.places, near.owners)
    # What the still world hides of itself is known already.
    moving = near.moves.nonzero()[0]
    rcs[moving] -= scenery.hidden(origin, near.places[moving], near.owners[moving])
    keep = (rcs > needed).nonzero()[0]
    return Sight(near[keep], rcs[keep], ranges[keep], offsets[chosen[keep]] / ranges[keep, None])


def mirror_ghosts(
    seen: Sight,
    scenery: Scenery,
    world_from_radar: Float64[Array, "4 4"],
    motion: Motion,
    rng: np.random.Generator,
) -> Echoes:
    """Road users that are seen once more in a wall or a parked vehicle: by way of it to the object and back again.

    A ghost lies and moves as the object's mirror image does. It is there only where the ray to the image meets that
    wall first, and where the object is in sight from the place where it does.
    """
    origin, centres = world_from_radar[:3, 3], seen.reflectors
    loudness = seen.rcs - 40.0 * np.log10(np.maximum(seen.ranges, 1.0))
    users = ((centres.owners != BACKGROUND) & (seen.ranges < 2 * _MIRROR_REACH)).nonzero()[0]
    users = users[np.argsort(-loudness[users], kind="stable")[:_MIRRORED]]
    # The mirror itself stands.
    walls = (centres.flat & (seen.ranges < _MIRROR_REACH) & (centres.velocities == 0.0).all(axis=1)).nonzero()[0]
    walls = rng.permutation(walls)[:_WALLS]
    target, wall = (a.ravel() for a in np.meshgrid(users, walls, indexing="ij"))
    normals = np.column_stack([np.cos(centres.facing[wall]), np.sin(centres.facing[wall])])
    place, foot = centres.places[target, :2], centres.places[wall, :2]
    behind = np.einsum("ij,ij->i", place - foot, normals)
    own = np.einsum("ij,ij->i", origin[:2] - foot, normals)
    images = place - 2.0 * behind[:, None] * normals
    same_side = (behind * own > 0.0) & (centres.owners[target] != centres.owners[wall])
    share = own / np.where(same_side, own + behind, 1.0)
    offsets = images - origin[:2]
    to_image = np.linalg.norm(offsets, axis=1)
    bounce = origin[:2] + share[:, None] * offsets
    there = same_side.nonzero()[0]
    reached, triangles = _level_cast(
        scenery.still, np.broadcast_to(origin[:2], (len(there), 2)), offsets[there], origin[2]
    )
    met = np.abs(reached - share[there] * to_image[there]) < ARRIVED
    met &= scenery.still.surfaces.owners[triangles] == centres.owners[wall[there]]
    met &= np.abs(np.einsum("ij,ij->i", scenery.still.surfaces.normals[triangles, :2], normals[there])) > 0.97
    there = there[met]
    back = place[there] - bounce[there]
    start = bounce[there] + 0.2 * back / np.maximum(np.linalg.norm(back, axis=1), 1e-6)[:, None]
    reached, triangles = _level_cast(scenery.still, start, back, origin[2])
    owners = centres.owners[target[there]]
    clear = (scenery.still.surfaces.owners[triangles] == owners) | (reached > np.linalg.norm(back, axis=1) - 1.0)
    levels = np.full((len(there), 1), origin[2])
    moving = np.hstack([start, levels]), np.hstack([place[there], levels]), owners
    clear &= scenery.moving.lost(*moving) == 0.0
    there = there[clear]
    # Several centres of one wall show the same image.
    _, first = np.unique(np.round(np.column_stack([images[there], target[there]]), 0), axis=0, return_index=True)
    there = there[first]
    velocities = centres.velocities[target[there]]
    along = np.einsum("ij,ij->i", velocities, normals[there])
    return _measured(
        offsets[there],
        velocities - 2.0 * along[:, None] * normals[there],
        seen.rcs[target[there]] - 2.0 * _WALL_LOSS,
        centres.owners[target[there]],
        world_from_radar,
        motion,
    )


def _level_cast(
    still: Target, starts: Float64[Array, "N 2"], towards: Float64[Array, "N 2"], height: float
) -> tuple[Float32[Array, "N"], Int32[Array, "N"]]:
    """How far rays in the plane at a height go, and the triangles that they meet."""
    rays = np.zeros((len(starts), 6), np.float32)
    rays[:, :2], rays[:, 2] = starts, height
    rays[:, 3:5] = towards / np.maximum(np.linalg.norm(towards, axis=1), 1e-6)[:, None]
    return still.first(rays)


def bumper_ghosts(direct: Echoes) -> Echoes:
    """What went to a strong object twice, thrown back by the own bumper: twice as far, twice as fast."""
    loud = direct.rcs > _BUMPER_LOSS - 5.0
    loud &= (direct.ranges < _BUMPER_REACH) & (np.abs(direct.azimuths) < _BUMPER_AZIMUTH)
    return Echoes(
        2.0 * direct.ranges[loud],
        direct.azimuths[loud],
        2.0 * direct.doppler[loud],
        direct.doppler[loud] + direct.over_ground[loud],
        direct.rcs[loud] - _BUMPER_LOSS,
        direct.owners[loud],
    )


def joined(parts: list[Echoes]) -> Echoes:
    """All parts as one."""
    return Echoes(
        np.concatenate([part.ranges for part in parts]),
        np.concatenate([part.azimuths for part in parts]),
        np.concatenate([part.doppler for part in parts]),
        np.concatenate([part.over_ground for part in parts]),
        np.concatenate([part.rcs for part in parts]),
        np.concatenate([part.owners for part in parts]),
    )
