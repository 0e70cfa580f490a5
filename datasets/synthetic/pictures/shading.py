"""The light that comes back from what each ray met: one compiled loop over rays.

The loop is a small renderer of its own kind: diffuse surfaces with procedural detail (`surface.py`), sun or sky light
that is shadowed, ambient light from the sky and off the ground, lamps at night, mirrors (glass, paint, wet ground), and
air that hides what is far (Koschmieder's law).
"""

import math
from typing import NamedTuple

from jaxtyping import Bool, Float32, Int32, UInt8

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.pictures.lamps import Lamps
from datasets.synthetic.pictures.light import Light
from datasets.synthetic.pictures.noise import fractal_noise
from datasets.synthetic.pictures.surface import Looks, ground_colour, surface_colour


class Stage(NamedTuple):
    """What shading needs to know of the world besides the hits.

    `cells` is the surface map, `half_size` half its side (metres), `resolution` a cell's. `lit_owners` says by owner
    number plus one whether its lamps are on. `extinction` of the air is in 1/m.
    """

    looks: Looks
    light: Light
    lamps: Lamps
    sun: Float32[Array, "3"]
    cells: UInt8[Array, "Y X"]
    half_size: float
    resolution: float
    extinction: float
    lit_owners: Bool[Array, "U"]


@compiled
def sky_colour(light: Light, sun: Float32[Array, "3"], x: float, y: float, z: float) -> tuple[float, float, float]:
    """The sky in a direction, without clouds: horizon to zenith, brighter around the sun."""
    up = math.sqrt(max(z, 0.0))
    near = max(x * sun[0] + y * sun[1] + z * sun[2], 0.0)
    glow = near**6 * (1.0 - 0.7 * up)
    return (
        light.horizon[0] * (1 - up) + light.zenith[0] * up + light.glow[0] * glow,
        light.horizon[1] * (1 - up) + light.zenith[1] * up + light.glow[1] * glow,
        light.horizon[2] * (1 - up) + light.zenith[2] * up + light.glow[2] * glow,
    )


@compiled
def _clouds(light: Light, x: float, y: float, z: float) -> float:
    """How much of the sky behind a direction is cloud, 0..1: noise on a layer far above, fading at the horizon."""
    if z < 0.02:
        return 0.0
    cover = fractal_noise(2.2 * x / (z + 0.12), 2.2 * y / (z + 0.12), 21, 3) - (1.0 - light.cloudiness) * 0.62
    return min(max(4.0 * cover, 0.0), 1.0) * min(z * 6.0, 1.0)


@compiled
def _open_sky(light: Light, sun: Float32[Array, "3"], x: float, y: float, z: float) -> tuple[float, float, float]:
    """The sky in a direction with its clouds, which are as bright as what lights them."""
    red, green, blue = sky_colour(light, sun, x, y, z)
    cloud = _clouds(light, x, y, z)
    lit = 0.9 * (light.ambient[0] + 0.35 * light.sun[0]) / light.ambient[0]
    red += cloud * (lit * light.ambient[0] - red)
    green += cloud * (lit * light.ambient[1] - green)
    blue += cloud * (lit * light.ambient[2] - blue)
    return red, green, blue


@compiled
def _lamp_light(
    lamps: Lamps, x: float, y: float, z: float, nx: float, ny: float, nz: float
) -> tuple[float, float, float]:
    """Light from all lamps that reach a place with this normal. Lamps cast no shadows."""
    red = green = blue = 0.0
    row = int((y + lamps.half_size) / lamps.cell_size)
    column = int((x + lamps.half_size) / lamps.cell_size)
    if row < 0 or column < 0 or row >= lamps.cells.shape[0] or column >= lamps.cells.shape[1]:
        return red, green, blue
    for slot in range(lamps.cells.shape[2]):
        number = lamps.cells[row, column, slot]
        if number < 0:
            break
        dx, dy, dz = lamps.places[number, 0] - x, lamps.places[number, 1] - y, lamps.places[number, 2] - z
        distance2 = dx * dx + dy * dy + dz * dz + 0.5
        scale = 1.0 / math.sqrt(distance2)
        facing = (dx * nx + dy * ny + dz * nz) * scale
        if facing <= 0.0:
            continue
        along = (
            -(dx * lamps.directions[number, 0] + dy * lamps.directions[number, 1] + dz * lamps.directions[number, 2])
            * scale
        )
        edge = lamps.cone_cosines[number]
        if along <= edge:
            continue
        # Bright in the cone's middle, dark at its edge.
        strength = facing * ((along - edge) / (1.0 - edge)) ** 1.5 / distance2
        red += strength * lamps.colours[number, 0]
        green += strength * lamps.colours[number, 1]
        blue += strength * lamps.colours[number, 2]
    return red, green, blue


@compiled
def shade(
    stage: Stage,
    rays: Float32[Array, "N 6"],
    distances: Float32[Array, "N"],
    triangles: Int32[Array, "N"],
    normals: Float32[Array, "T 3"],
    materials: Int32[Array, "T"],
    owners: Int32[Array, "T"],
    open_to_light: Bool[Array, "N"],
    colours: Float32[Array, "N 3"],
) -> None:
    """Write the linear red, green, blue that comes along each ray to `colours`.

    `distances` is inf for rays that met nothing. Surfaces stand by triangle (`rays.Surfaces`); the ground's material is
    looked up in the surface map. `open_to_light`: nothing stands between the place and the sun (or, where there is
    none, the sky above). On entry `colours` holds what the wet ground mirrors, NaN where that is the sky.
    """
    # One long loop: handing all that a place is from function to function takes twice the time.
    light, sun = stage.light, stage.sun
    for i in range(len(distances)):
        rx, ry, rz = rays[i, 3], rays[i, 4], rays[i, 5]
        distance = distances[i]
        if not distance < 1e6:
            colours[i, 0], colours[i, 1], colours[i, 2] = _open_sky(light, sun, rx, ry, rz)
            continue
        x, y, z = rays[i, 0] + distance * rx, rays[i, 1] + distance * ry, rays[i, 2] + distance * rz
        triangle = triangles[i]
        material, owner = materials[triangle], owners[triangle]
        nx, ny, nz = normals[triangle, 0], normals[triangle, 1], normals[triangle, 2]
        if nx * rx + ny * ry + nz * rz > 0:
            nx, ny, nz = -nx, -ny, -nz
        lamps_lit = light.lamps_on and (owner < 0 or stage.lit_owners[owner + 1])
        if material == stage.looks.ground:
            albedo = ground_colour(stage.looks, stage.cells, stage.half_size, stage.resolution, x, y, distance)
        else:
            albedo = surface_colour(stage.looks, material, x, y, z, nx, ny, nz, distance)
        red, green, blue, gloss, bump, glow = albedo
        nx, ny, nz = nx + bump * nx, ny - bump * 0.7, nz + bump
        size = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        nx, ny, nz = nx * size, ny * size, nz * size

        open_here = 1.0 if open_to_light[i] else 0.0
        direct = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0) * open_here
        # Under a closed sky the ray upward says how much of the sky a place sees: all that the ground has of it, half
        # of what a wall has.
        sky_share = 0.66 + 0.34 * nz
        if light.sun[0] + light.sun[1] == 0.0:
            hidden = 0.55 if nz > 0.7 else 0.2
            sky_share *= 1.0 - hidden * (1.0 - open_here)
        lamp_red = lamp_green = lamp_blue = 0.0
        if light.lamps_on:
            lamp_red, lamp_green, lamp_blue = _lamp_light(stage.lamps, x, y, z, nx, ny, nz)
        out_red = red * (direct * light.sun[0] + sky_share * light.ambient[0] + lamp_red)
        out_green = green * (direct * light.sun[1] + sky_share * light.ambient[1] + lamp_green)
        out_blue = blue * (direct * light.sun[2] + sky_share * light.ambient[2] + lamp_blue)

        if material == stage.looks.ground:
            # Water stands in the hollows and covers the rest thinly.
            gloss = light.wetness * (0.3 + 0.7 * gloss)
        if gloss > 0.0:
            facing = abs(nx * rx + ny * ry + nz * rz)
            # Schlick's approximation of Fresnel's law.
            mirror = gloss * (0.04 + 0.96 * (1.0 - facing) ** 5)
            along = 2.0 * (nx * rx + ny * ry + nz * rz)
            mx, my, mz = rx - along * nx, ry - along * ny, rz - along * nz
            if colours[i, 0] == colours[i, 0]:
                seen = (colours[i, 0], colours[i, 1], colours[i, 2])
            else:
                seen = sky_colour(light, sun, mx, my, mz)
                if (
                    mz < 0.0 and material != stage.looks.ground
                ):  # what a door or a window mirrors below the horizon is the street
                    dim = 0.25
                    seen = (dim * light.ambient[0], dim * light.ambient[1], dim * light.ambient[2])
            out_red += mirror * (seen[0] - out_red)
            out_green += mirror * (seen[1] - out_green)
            out_blue += mirror * (seen[2] - out_blue)
        if glow > 0.0 and lamps_lit:
            out_red += glow * red
            out_green += glow * green
            out_blue += glow * blue

        clear = math.exp(-stage.extinction * distance)
        colours[i, 0] = (out_red - light.horizon[0]) * clear + light.horizon[0]
        colours[i, 1] = (out_green - light.horizon[1]) * clear + light.horizon[1]
        colours[i, 2] = (out_blue - light.horizon[2]) * clear + light.horizon[2]
