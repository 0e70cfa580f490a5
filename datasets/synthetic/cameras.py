"""Pictures: one ray for each pixel, materials with procedural detail, sun, sky and shadows."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from calibration.cameras import PinholeCamera
from datasets.synthetic.arrays import Array
from datasets.synthetic.materials import COLOURS, FACADES, PAINTS, Material
from datasets.synthetic.rays import Hits, Instant, rays_from

_HORIZON, _ZENITH = np.array([0.62, 0.7, 0.78], np.float32), np.array([0.2, 0.36, 0.66], np.float32)
_SUN_LIGHT, _SKY_LIGHT = np.array([1.5, 1.42, 1.25], np.float32), np.array([0.5, 0.56, 0.66], np.float32)
_EXPOSURE, _HAZE_LENGTH, _NOISE, _JPEG_QUALITY = 0.92, 700.0, 1.6, 90
# Linear light (0..1 in even steps) to what a picture stores, 0..255.
_GAMMA = (np.linspace(0.0, 1.0, 4096) ** (1 / 2.2) * 255.0).astype(np.float32)
# Look-up tables by Material: grainy surfaces, walls with windows, and how much of a mirror each is.
_ROUGH = np.isin(
    list(Material), [Material.ASPHALT, Material.GRASS, Material.SIDEWALK, Material.LEAVES, Material.LEAVES_DARK]
)
_FACADE = np.isin(list(Material), FACADES)
_GLASSY = (np.isin(list(Material), PAINTS) * 0.35 + np.isin(list(Material), [Material.GLASS])).astype(np.float32)

Colours = Float32[Array, "N 3"]


def pixel_directions(camera: PinholeCamera) -> Float32[Array, "P 3"]:
    """Unit directions in cam through the middle of each pixel, row after row."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1)
    directions = pixels @ np.linalg.inv(camera.intrinsics.numpy()).T
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True), np.float32)


def render(
    instant: Instant,
    world_from_cam: Float64[Array, "4 4"],
    camera: PinholeCamera,
    directions: Float32[Array, "P 3"],
    sun: Float64[Array, "3"],
    rng: np.random.Generator,
) -> UInt8[Array, "H W 3"]:
    """The picture (blue, green, red) that a camera takes; `directions` are those of `pixel_directions`."""
    rays = rays_from(world_from_cam, directions)
    hits = instant.cast(rays)
    colours = np.empty((len(rays), 3), np.float32)
    solid_ground = np.isfinite(hits.distances)
    open_sky, seen = (~solid_ground).nonzero()[0], solid_ground.nonzero()[0]
    colours[open_sky] = _sky(rays[open_sky, 3:])
    solid = Hits(hits.distances[seen], hits.normals[seen], hits.materials[seen], hits.owners[seen])
    colours[seen] = _shade(instant, rays[seen], solid, sun.astype(np.float32))
    exposed = _GAMMA[np.clip(colours * (_EXPOSURE * (len(_GAMMA) - 1)), 0, len(_GAMMA) - 1).astype(np.int32)]
    exposed += rng.standard_normal(exposed.shape, dtype=np.float32) * np.float32(_NOISE)
    picture = np.clip(exposed, 0.0, 255.0).astype(np.uint8).reshape(camera.height, camera.width, 3)
    return np.ascontiguousarray(picture[:, :, ::-1])


def encode(picture: UInt8[Array, "H W 3"]) -> bytes:
    """As JPEG."""
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def _sky(directions: Colours) -> Colours:
    up = np.clip(directions[:, 2:], 0.0, 1.0) ** 0.5
    return _HORIZON * (1 - up) + _ZENITH * up


def _shade(instant: Instant, rays: Float32[Array, "N 6"], hits: Hits, sun: Float32[Array, "3"]) -> Colours:
    places = rays[:, :3] + hits.distances[:, None] * rays[:, 3:]
    albedo, glassy = _surface(places, hits)
    towards_sun = hits.normals @ sun
    lit = (towards_sun > 0).nonzero()[0]
    shadow_rays = np.empty((len(lit), 6), np.float32)
    shadow_rays[:, :3] = places[lit] + 0.02 * hits.normals[lit]
    shadow_rays[:, 3:] = sun
    direct = np.zeros(len(rays), np.float32)
    direct[lit] = towards_sun[lit] * ~instant.blocked(shadow_rays)
    ambient = 0.7 + 0.3 * hits.normals[:, 2]
    colours = albedo * (direct[:, None] * _SUN_LIGHT + ambient[:, None] * _SKY_LIGHT)
    shiny = glassy.nonzero()[0]
    facing = np.abs(np.einsum("ij,ij->i", hits.normals[shiny], rays[shiny, 3:]))
    mirror = (glassy[shiny] * (0.06 + 0.5 * (1 - facing) ** 3))[:, None]
    colours[shiny] += mirror * (_sky(rays[shiny, 3:] * np.array([1, 1, -1], np.float32)) - colours[shiny])
    clear = np.exp(hits.distances * np.float32(-1 / _HAZE_LENGTH))[:, None]
    return np.asarray((colours - _HORIZON) * clear + _HORIZON, np.float32)


def _noise(cells: Float32[Array, "N 3"]) -> Float32[Array, "N"]:
    """A random number in 0..1 for each cell of space, the same whenever it is looked at."""
    mixed = np.sin(np.floor(cells) @ np.array([12.9898, 78.233, 37.719], np.float32)) * np.float32(43758.547)
    return np.asarray(mixed - np.floor(mixed), np.float32)


def _surface(places: Float32[Array, "N 3"], hits: Hits) -> tuple[Colours, Float32[Array, "N"]]:
    """Albedo with procedural detail, and how much of a mirror the surface is (0..1)."""
    materials = hits.materials
    albedo = COLOURS[materials]
    # Detail finer than a pixel would only flicker.
    rough = _ROUGH[materials].nonzero()[0]
    grain = 0.86 + 0.28 * _noise(places[rough] * 0.7)
    close = hits.distances[rough] < 25.0
    grain[close] += 0.28 * _noise(places[rough[close]] * 8.0) - 0.14
    albedo[rough] *= grain[:, None]
    tiles = ((materials == Material.SIDEWALK) & (hits.distances < 40.0)).nonzero()[0]
    joints = (np.abs((places[tiles, :2] / 1.5) % 1.0 - 0.5) > 0.475).any(axis=1)
    albedo[tiles[joints]] *= 0.75
    glassy = _GLASSY[materials]
    walls = (_FACADE[materials] & (np.abs(hits.normals[:, 2]) < 0.5)).nonzero()[0]
    windows = walls[_is_window(places[walls], hits.normals[walls])]
    albedo[windows] = COLOURS[Material.GLASS] * (0.6 + 1.8 * _noise(places[windows] / 3.1))[:, None]
    glassy[windows] = 1.0
    return albedo, glassy


def _is_window(places: Float32[Array, "N 3"], normals: Float32[Array, "N 3"]) -> Bool[Array, "N"]:
    """Windows in rows and columns on a wall."""
    across = (places[:, 1] * normals[:, 0] - places[:, 0] * normals[:, 1]) / 2.6 % 1.0
    up = places[:, 2] / 3.2 % 1.0
    inside: Bool[Array, N] = (across > 0.28) & (across < 0.72) & (up > 0.3) & (up < 0.78)
    return inside
