"""Pictures: one ray for each pixel, shaded and photographed."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from calibration.cameras import PinholeCamera
from datasets.arrays import Array
from datasets.synthetic.pictures.lamps import NO_LAMPS, Lamps, lamp_places, lamps_at
from datasets.synthetic.pictures.lens import photograph
from datasets.synthetic.pictures.light import light_of
from datasets.synthetic.pictures.pixel_hits import PixelHits, StillParts, View, open_to, pixel_hits
from datasets.synthetic.pictures.shading import Stage, shade
from datasets.synthetic.pictures.surface import looks
from datasets.synthetic.rays import Instant
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.roads import RESOLUTION
from datasets.synthetic.world import World

# What moves further away than this (metres) and cannot be seen itself throws no shadow into a picture.
SHADOW_REACH = 30.0
# From this wetness on the ground mirrors what stands on it; how far water tilts a mirrored ray, upwards and aside.
_MIRROR_WETNESS, _RIPPLE = 0.5, (0.05, 0.012)
_MIRROR_REACH = 60.0  # metres
# Drops on the lens for each millimetre an hour of rain.
_DROPS = 1.2


def pixel_directions(camera: PinholeCamera) -> Float32[Array, "P 3"]:
    """Unit directions in cam through the middle of each pixel, row after row."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1)
    directions = pixels @ np.linalg.inv(camera.intrinsics.numpy()).T
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True), np.float32)


def render(instant: Instant, parts: StillParts, view: View, rng: np.random.Generator) -> UInt8[Array, "H W 3"]:
    """The picture (blue, green, red) that a camera takes."""
    world = instant.world
    conditions, light = world.conditions, light_of(world.conditions.name)
    stage = Stage(
        looks=looks(),
        light=light,
        lamps=_lamps(world, instant.time),
        sun=conditions.sun.astype(np.float32),
        cells=world.plan.surface.cells,
        half_size=world.plan.surface.half_size,
        resolution=RESOLUTION,
        extinction=conditions.extinction,
        lit_owners=_lit(world),
    )
    hits = pixel_hits(instant, parts, view)
    colours = np.full((len(hits.rays), 3), np.nan, np.float32)
    if light.wetness > _MIRROR_WETNESS:
        _mirror(instant, stage, hits, colours, rng)
    # Under a closed sky light comes from above.
    towards = conditions.sun if sum(light.sun) > 0.0 else np.array([0.0, 0.0, 1.0])
    shape = (view.camera.height, view.camera.width)
    lit = open_to(instant, parts, hits, towards.astype(np.float32), shape)
    _shade(stage, hits, lit, colours)
    drops = int(_DROPS * conditions.rain_rate)
    return photograph(colours.reshape(*shape, 3), light.brightness, light.gain, drops, rng)


def _mirror(
    instant: Instant,
    stage: Stage,
    hits: PixelHits,
    colours: Float32[Array, "N 3"],
    rng: np.random.Generator,
) -> None:
    """Write to `colours` what the wet ground mirrors, where that is not the sky."""
    rays = hits.rays
    on_ground = hits.surfaces.materials[hits.triangles] == Material.GROUND
    ground = (on_ground & (hits.distances < _MIRROR_REACH)).nonzero()[0]
    mirrored = np.empty((len(ground), 6), np.float32)
    mirrored[:, :3] = rays[ground, :3] + (hits.distances[ground, None] - 0.01) * rays[ground, 3:]
    mirrored[:, 3:] = rays[ground, 3:] * np.array([1.0, 1.0, -1.0], np.float32)
    tilt = rng.standard_normal((len(ground), 2), dtype=np.float32)
    mirrored[:, 5] = np.abs(mirrored[:, 5] + _RIPPLE[0] * tilt[:, 0])
    mirrored[:, 3] += _RIPPLE[1] * tilt[:, 1]
    mirrored[:, 3:] /= np.linalg.norm(mirrored[:, 3:], axis=1, keepdims=True)
    distances, triangles = instant.first(mirrored)
    solid = (triangles >= 0).nonzero()[0]
    seen = PixelHits(mirrored[solid], distances[solid], triangles[solid], hits.surfaces)
    found = np.full((len(solid), 3), np.nan, np.float32)
    _shade(stage, seen, np.ones(len(solid), bool), found)
    colours[ground[solid]] = found


def _shade(stage: Stage, hits: PixelHits, lit: Bool[Array, "N"], colours: Float32[Array, "N 3"]) -> None:
    surfaces = hits.surfaces
    shade(
        stage, hits.rays, hits.distances, hits.triangles, surfaces.normals, surfaces.materials, surfaces.owners,
        lit, colours,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _glowing(world: World) -> tuple[Float64[Array, "L 3"], tuple[tuple[int, Float64[Array, "_ 3"]], ...]]:
    """Street lamps in world coordinates, and the headlights (in its own frame) of each user that has its own on."""
    headlights = (
        (user.number, lamp_places(user.body.mesh, Material.HEADLIGHT)) for user in world.users if not user.parked
    )
    return lamp_places(world.background, Material.LAMP), tuple((n, places) for n, places in headlights if len(places))


def _lamps(world: World, time: float) -> Lamps:
    if not light_of(world.conditions.name).lamps_on:
        return NO_LAMPS
    street, lit = _glowing(world)
    ego = world.drive.world_from_ego(time)
    beams = [(world.users[number], places) for number, places in lit]
    return lamps_at(street, beams, ego, time, world.plan.surface.half_size)


def _lit(world: World) -> Bool[Array, "U"]:
    return np.array([True, *(not user.parked for user in world.users)])
