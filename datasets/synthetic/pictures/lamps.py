"""Lamps: street lamps, headlights and tail lights, found as what glows in the meshes, and where each one shines."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int16

from datasets.arrays import Array
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, connected_parts
from datasets.synthetic.traffic.users import RoadUser

# Side of a cell of the map that says which lamps reach a place (metres), and how many it can hold.
_CELL, _PER_CELL = 8.0, 20
# How far a street lamp and a headlight light the ground, metres.
_LAMP_REACH, _BEAM_REACH = 22.0, 38.0
_LAMP_COLOUR, _BEAM_COLOUR = (1.0, 0.76, 0.46), (1.0, 0.96, 0.88)
_LAMP_POWER, _BEAM_POWER = 3.2, 9.0
# Half angle of a dipped headlight's cone, and how far it looks down, radians.
_BEAM_HALF_ANGLE, _BEAM_DIP = 0.42, 0.045


class Lamps(NamedTuple):
    """L lamps: place, direction, colour times power, cosine of the cone's half angle (-1: all around).

    `cells[row, column]` holds the numbers of the lamps that reach a square of the ground, then -1; the square of
    row 0 and column 0 has its corner at (-half_size, -half_size) in world coordinates.
    """

    places: Float32[Array, "L 3"]
    directions: Float32[Array, "L 3"]
    colours: Float32[Array, "L 3"]
    cone_cosines: Float32[Array, "L"]
    cells: Int16[Array, "Y X K"]
    cell_size: float
    half_size: float


_NOWHERE = np.zeros((0, 3), np.float32)
NO_LAMPS = Lamps(_NOWHERE, _NOWHERE, _NOWHERE, np.zeros(0, np.float32), np.zeros((0, 0, 0), np.int16), _CELL, 0.0)


def lamp_places(mesh: Mesh, material: Material) -> Float64[Array, "L 3"]:
    """The middle of each connected part of a mesh that is made of a glowing material."""
    triangles = mesh.triangles[mesh.materials == material]
    if not len(triangles):
        return np.zeros((0, 3))
    used, numbered = np.unique(triangles, return_inverse=True)
    count, part = connected_parts(numbered.reshape(-1, 3), len(used))
    corners = mesh.vertices[used].astype(np.float64)
    sums = np.stack([np.bincount(part, corners[:, axis], count) for axis in range(3)], axis=1)
    return np.asarray(sums / np.bincount(part, minlength=count)[:, None])


def lamps_at(
    street_lamps: Float64[Array, "S 3"],
    lit: list[tuple[RoadUser, Float64[Array, "_ 3"]]],
    ego: Float64[Array, "4 4"],
    time: float,
    half_size: float,
) -> Lamps:
    """All lamps at a time: street lamps, one beam for each lit user (with its headlights' places), and our own."""
    down = np.array([0.0, 0.0, -1.0])
    rows = [
        (place - [0, 0, 0.1], down, np.array(_LAMP_COLOUR) * _LAMP_POWER, -0.2, _LAMP_REACH) for place in street_lamps
    ]
    rows.append(_beam(ego[:3, :3] @ [3.7, 0.0, 0.65] + ego[:3, 3], ego[:3, 0]))
    for user, headlights in lit:
        x, y, yaw = user.track.at(time)
        ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        left, middle = np.array([-ahead[1], ahead[0], 0.0]), headlights.mean(axis=0)
        place = np.array([x, y, user.track.z]) + middle[0] * ahead + middle[1] * left + [0.0, 0.0, middle[2]]
        rows.append(_beam(place, ahead))
    places, directions, colours = (np.array([row[i] for row in rows], np.float32).reshape(-1, 3) for i in range(3))
    cosines, reaches = (np.array([row[i] for row in rows], np.float32) for i in (3, 4))
    # A beam lights what lies ahead of it: the middle of what it reaches.
    middles = places[:, :2] + directions[:, :2] * reaches[:, None] / 2
    radii = np.where(cosines > 0, reaches / 2, reaches)
    cells = _cells(middles.astype(np.float64), radii.astype(np.float64), half_size)
    return Lamps(places, directions, colours, cosines, cells, _CELL, half_size)


def _beam(
    place: Float64[Array, "3"], ahead: Float64[Array, "3"]
) -> tuple[Float64[Array, "3"], Float64[Array, "3"], Float64[Array, "3"], float, float]:
    direction = ahead * np.cos(_BEAM_DIP) - [0.0, 0.0, np.sin(_BEAM_DIP)]
    return place, direction, np.array(_BEAM_COLOUR) * _BEAM_POWER, float(np.cos(_BEAM_HALF_ANGLE)), _BEAM_REACH


def _cells(middles: Float64[Array, "L 2"], radii: Float64[Array, "L"], half_size: float) -> Int16[Array, "Y X K"]:
    side = int(np.ceil(2 * half_size / _CELL))
    cells = np.full((side, side, _PER_CELL), -1, np.int16)
    used = np.zeros((side, side), np.int64)
    centres = (np.arange(side) + 0.5) * _CELL - half_size
    for number, ((x, y), radius) in enumerate(zip(middles, radii, strict=True)):
        reach = radius + 0.71 * _CELL
        rows, columns = (np.flatnonzero(np.abs(centres - v) < reach) for v in (y, x))
        near = np.hypot(centres[rows][:, None] - y, centres[columns][None] - x) < reach
        row, column = rows[near.nonzero()[0]], columns[near.nonzero()[1]]
        free = used[row, column] < _PER_CELL
        row, column = row[free], column[free]
        cells[row, column, used[row, column]] = number
        used[row, column] += 1
    return cells
