"""The colour of surfaces: albedo with procedural detail by kind of material, compiled for the shading loop."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.pictures.noise import cell_noise, fractal_noise, smooth_noise
from datasets.synthetic.scenery.materials import COLOURS, FACADES, PAINTS, Material

# Kinds of surface that have detail of their own.
_PLAIN, _ROUGH, _FACADE, _BRICK, _PAVED, _PAINT, _GLASS, _LEAVES, _GLOWING = range(9)
# How strongly what glows shines when it is on, by Material.
_GLOW = {Material.LAMP: 4.0, Material.HEADLIGHT: 3.0, Material.TAILLIGHT: 1.6, Material.SIGNAL_RED: 2.5}


class Looks(NamedTuple):
    """By Material: linear colour, kind of surface, strength of its glow when on; and which GROUND and GRASS are."""

    colours: Float32[Array, "K 3"]
    kinds: UInt8[Array, "K"]
    glows: Float32[Array, "K"]
    ground: int
    grass: int


def looks() -> Looks:
    """The tables for all materials."""
    kinds = np.full(len(Material), _PLAIN, np.uint8)
    for kind, members in (
        (_ROUGH, (Material.GRASS, Material.ASPHALT, Material.CURB, Material.BARK, Material.ROOF)),
        (_FACADE, FACADES),
        (_BRICK, (Material.BRICK,)),
        (_PAVED, (Material.SIDEWALK,)),
        (_PAINT, PAINTS),
        (_GLASS, (Material.GLASS,)),
        (_LEAVES, (Material.LEAVES, Material.LEAVES_DARK)),
        (_GLOWING, tuple(_GLOW)),
    ):
        kinds[list(members)] = kind
    glows = np.array([_GLOW.get(material, 0.0) for material in Material], np.float32)
    return Looks(COLOURS, kinds, glows, int(Material.GROUND), int(Material.GRASS))


# Each colour function returns red, green, blue, gloss (0..1, how much of a mirror), bump (how much the normal is
# tilted), glow. Detail finer than a pixel would only flicker: it fades with the distance.
@compiled
def ground_colour(
    looks: Looks, cells: UInt8[Array, "Y X"], half_size: float, resolution: float, x: float, y: float, distance: float
) -> tuple[float, float, float, float, float, float]:
    """The ground at a place: the surface map's four nearest cells blended, so that markings have soft edges."""
    u, v = (x + half_size) / resolution - 0.5, (y + half_size) / resolution - 0.5
    column, row = math.floor(u), math.floor(v)
    u, v = u - column, v - row
    red = green = blue = 0.0
    height, width = cells.shape
    nearest = looks.grass
    for dv in range(2):
        for du in range(2):
            weight = (u if du else 1 - u) * (v if dv else 1 - v)
            r, c = row + dv, column + du
            material = cells[r, c] if 0 <= r < height and 0 <= c < width else looks.grass
            if weight >= 0.25:
                nearest = material
            red += weight * looks.colours[material, 0]
            green += weight * looks.colours[material, 1]
            blue += weight * looks.colours[material, 2]
    detail = 0.75 + 0.5 * fractal_noise(0.35 * x, 0.35 * y, 1, 2)
    if distance < 30.0:
        near = 1.0 - distance / 30.0
        detail *= 1.0 + near * 0.35 * (cell_noise(16.0 * x, 16.0 * y, 2.0) - 0.5)
    if looks.kinds[nearest] == _PAVED:
        detail *= _joints(x, y, 1.5, distance)
    if nearest == looks.grass:
        detail *= 0.7 + 0.6 * smooth_noise(2.5 * x, 2.5 * y, 5)
    puddle = min(max(6.0 * (smooth_noise(0.3 * x, 0.3 * y, 9) - 0.45), 0.0), 1.0)
    return red * detail, green * detail, blue * detail, puddle, 0.0, 0.0


@compiled
def _joints(a: float, b: float, size: float, distance: float) -> float:
    """Darker lines between slabs of this size."""
    if distance > 40.0:
        return 1.0
    u, v = abs(a / size % 1.0 - 0.5), abs(b / size % 1.0 - 0.5)
    return 0.78 if max(u, v) > 0.48 else 1.0


@compiled
def surface_colour(
    looks: Looks, material: int, x: float, y: float, z: float, nx: float, ny: float, nz: float, distance: float
) -> tuple[float, float, float, float, float, float]:
    """Any surface but the ground at a place with this normal."""
    red, green, blue = looks.colours[material, 0], looks.colours[material, 1], looks.colours[material, 2]
    kind = looks.kinds[material]
    detail, gloss, bump, glow = 1.0, 0.0, 0.0, 0.0
    if kind == _ROUGH:
        detail = 0.85 + 0.3 * cell_noise(6.0 * x, 6.0 * y, 6.0 * z)
    elif kind == _PAVED:
        detail = (0.85 + 0.3 * fractal_noise(0.7 * x, 0.7 * y, 3, 2)) * _joints(x, y, 1.5, distance)
    elif kind == _PAINT:
        gloss = 0.75
    elif kind == _GLASS:
        gloss = 1.0
    elif kind == _LEAVES:
        detail = 0.5 + 1.0 * cell_noise(5.0 * x, 5.0 * y, 5.0 * z)
        bump = 1.1 * (cell_noise(4.0 * x + 3.0, 4.0 * y, 4.0 * z) - 0.5)
    elif kind == _GLOWING:
        glow = looks.glows[material]
    elif kind in (_FACADE, _BRICK):
        return _facade(looks, kind, red, green, blue, x, y, z, nx, ny, nz, distance)
    return red * detail, green * detail, blue * detail, gloss, bump, glow


@compiled
def _facade(
    looks: Looks, kind: int, red: float, green: float, blue: float,
    x: float, y: float, z: float, nx: float, ny: float, nz: float, distance: float,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """A wall: shop windows on the ground floor, rows of windows above, bricks or stained plaster between them."""
    detail = 0.82 + 0.36 * fractal_noise(0.5 * (x + y), 0.5 * z, 7, 2)
    if abs(nz) > 0.5:
        return red * detail, green * detail, blue * detail, 0.0, 0.0, 0.0
    along = y * nx - x * ny
    wide, high = (along / 3.6, z / 3.2) if z < 3.2 else (along / 2.6, z / 3.2)
    across, up = wide % 1.0, high % 1.0
    shop = z < 3.2
    inside = 0.12 < across < 0.88 and 0.16 < up < 0.8 if shop else 0.28 < across < 0.72 and 0.3 < up < 0.78
    if inside:
        mullion = abs(across - 0.5) < 0.02 or (not shop and abs(up - 0.55) < 0.02)
        if mullion and distance < 60.0:
            return 0.3, 0.3, 0.3, 0.0, 0.0, 0.0
        room = cell_noise(wide + 31.0 * round(nx * 3), high, 11.0 + round(ny * 3))
        # By day one looks into a dark room; with the lamps on some are lit. Curtains and goods break the plain panes.
        dark = (0.02 + 0.07 * room) * (0.55 + 0.9 * cell_noise(along / 0.45, z / 0.6, 13.0))
        glow = 0.3 + room if room > (0.45 if shop else 0.68) else 0.0
        return dark * 1.15, dark, dark * 0.8, 1.0, 0.0, glow
    framed = (0.25 < across < 0.75 and 0.27 < up < 0.81) and not shop
    if framed:
        detail *= 1.25
    elif kind == _BRICK and distance < 25.0:
        course = math.floor(z / 0.09)
        if z / 0.09 % 1.0 < 0.16 or (along / 0.26 + 0.5 * (course % 2)) % 1.0 < 0.06:
            detail *= 1.35
        else:
            detail *= 0.85 + 0.3 * cell_noise(along / 0.26 + 0.5 * (course % 2), course, 3.0)
    return red * detail, green * detail, blue * detail, 0.0, 0.0, 0.0
