"""Casting rays each of which has an instant of its own at a world that moves meanwhile.

A body that moves is at rest in its own frame: its triangles are sorted once for a whole scene (of people, those of each
posture), and each ray is turned into the frame of every body whose box it crosses, as the body stood at the ray's
instant.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64, Int64

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.rays import Hits, Surroundings, Target, completed
from datasets.synthetic.scenery.meshes import combined

# Bodies lie in one tree, so far apart that a ray of REACH metres cannot meet the wrong one first.
REACH = 110.0
_SPACING = 2.5 * REACH
_BLOCK = 512


class Passage:
    """A scene's world for the rays of a sensor that turns while road users drive."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._world, self._still, self._users = surroundings.world, surroundings.still, surroundings.movers
        meshes = [posture for user in self._users for posture in user.body.postures]
        counts = [len(user.body.postures) for user in self._users]
        self._first_bodies = np.cumsum([0, *counts[:-1]]) if counts else np.zeros(0, np.int64)
        self._boxes = np.array(
            [(*mesh.vertices.min(axis=0), *mesh.vertices.max(axis=0)) for mesh in meshes], np.float64
        ).reshape(-1, 6)
        numbers, side = np.arange(len(meshes)), math.ceil(math.sqrt(max(len(meshes), 1)))
        self._cells = (np.stack([numbers % side, numbers // side], axis=1) - (side - 1) / 2) * _SPACING
        placed = combined([mesh.moved(x, y, 0.0) for mesh, (x, y) in zip(meshes, self._cells, strict=True)])
        triangles = [len(mesh.triangles) for mesh in meshes]
        owners = np.repeat(np.array([user.number for user in self._users], np.int32), counts)
        self._bodies = Target(placed, np.repeat(owners, triangles))
        # The row after the last belongs to no body: where rays end that meet nothing.
        self._body_of_triangle = np.append(np.repeat(numbers, triangles), -1)

    def cast(self, rays: Float32[Array, "N 6"], moments: Float64[Array, "N"], start: float, end: float) -> Hits:
        """What each ray (origin and unit direction in world coordinates) meets first, each at an instant of its own.

        A ray's moment says when: 0 at the time `start`, 1 at `end`, in between evenly. Road users are met up to REACH
        metres away, and drive evenly from where they are at `start` to where they are at `end`: over 50 ms that is 1 mm
        off when they brake at 3 m/s^2.
        """
        distances, triangles = self._still.first(rays)
        surfaces = self._still.surfaces
        normals, materials, owners = (t[triangles] for t in (surfaces.normals, surfaces.materials, surfaces.owners))
        first, last = (
            np.array([(*user.track.at(time), user.track.z) for user in self._users], np.float64).reshape(-1, 4)
            for time in (start, end)
        )
        columns, within = np.ascontiguousarray(rays.T, np.float64), np.minimum(distances, np.float32(REACH))
        postures = [user.posture((start + end) / 2) for user in self._users]
        shown = self._first_bodies + np.array(postures, np.int64)
        crossing, bodies, local = _crossing(
            columns, moments, within, first, last, self._boxes[shown], self._cells[shown]
        )
        along, met = self._bodies.first(local)
        met[self._body_of_triangle[met] != shown[bodies]] = -1
        nearest = _nearest(crossing, np.where(met >= 0, along, np.inf), distances.astype(np.float64))
        rows = (nearest >= 0).nonzero()[0]
        pairs = nearest[rows]
        distances[rows] = along[pairs]
        surfaces = self._bodies.surfaces
        materials[rows], owners[rows] = surfaces.materials[met[pairs]], surfaces.owners[met[pairs]]
        yaws = first[bodies[pairs], 2] + moments[rows] * (last - first)[bodies[pairs], 2]
        normals[rows] = _turned(surfaces.normals[met[pairs]], yaws)
        return completed(self._world, rays, Hits(distances, normals, materials, owners))


def _turned(vectors: Float32[Array, "K 3"], yaws: Float64[Array, "K"]) -> Float64[Array, "K 3"]:
    """From the bodies' frames to the world."""
    (x, y, z), cos, sin = vectors.T, np.cos(yaws), np.sin(yaws)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1)


@compiled
def _slab(start: float, direction: float, low: float, high: float, enter: float, leave: float) -> tuple[float, float]:
    """The part of a ray between two planes, within the part from `enter` to `leave`; a hair is added on both sides."""
    low, high = low - 1e-3, high + 1e-3
    if abs(direction) < 1e-9:
        return (enter, leave) if low <= start <= high else (1.0, 0.0)
    near, far = (low - start) / direction, (high - start) / direction
    return max(enter, min(near, far)), min(leave, max(near, far))


@compiled
def _circle(
    box: Float64[Array, "6"], first: Float64[Array, "4"], last: Float64[Array, "4"]
) -> tuple[tuple[float, float], float]:
    """Where the middle of a body is at moment 0, seen from above, and how far from there as it moves it reaches."""
    middle_x, middle_y = (box[0] + box[3]) / 2, (box[1] + box[4]) / 2
    cos, sin = math.cos(first[2]), math.sin(first[2])
    middle = (first[0] + cos * middle_x - sin * middle_y, first[1] + sin * middle_x + cos * middle_y)
    # Where it turns, its middle goes around its origin.
    turned = abs(last[2] - first[2]) * math.hypot(middle_x, middle_y)
    return middle, math.hypot(box[3] - box[0], box[4] - box[1]) / 2 + turned + 1e-3


@compiled
def _wedges(columns: Float64[Array, "6 N"], flatness: Float64[Array, "N"]) -> Float64[Array, "B 5"]:
    """Blocks of rays seen from above: the middle of their starts and how far those spread, the bearing and how far."""
    count = (columns.shape[1] + _BLOCK - 1) // _BLOCK
    wedges = np.empty((count, 5))
    for block in range(count):
        part = slice(block * _BLOCK, min((block + 1) * _BLOCK, columns.shape[1]))
        x, y, flat = columns[0, part], columns[1, part], flatness[part]
        dx, dy = columns[3, part] * flat, columns[4, part] * flat
        middle_x, middle_y, bearing = x.mean(), y.mean(), math.atan2(dy.mean(), dx.mean())
        turned = np.arctan2(
            dy * math.cos(bearing) - dx * math.sin(bearing), dx * math.cos(bearing) + dy * math.sin(bearing)
        )
        spread = np.hypot(x - middle_x, y - middle_y).max()
        wedges[block] = np.array([middle_x, middle_y, spread, bearing, np.abs(turned).max()])
    return wedges


@compiled
def _in_wedge(wedge: Float64[Array, "5"], middle: tuple[float, float], radius: float) -> bool:
    """Whether a ray of a block can come within a circle."""
    to_x, to_y = middle[0] - wedge[0], middle[1] - wedge[1]
    away, reach = math.hypot(to_x, to_y), radius + wedge[2]
    if away <= reach:
        return True
    if away > REACH + reach:
        return False
    turned = (math.atan2(to_y, to_x) - wedge[3] + math.pi) % (2 * math.pi) - math.pi
    return bool(abs(turned) <= wedge[4] + math.asin(reach / away))


@compiled
def _crossing(
    columns: Float64[Array, "6 N"],
    moments: Float64[Array, "N"],
    within: Float32[Array, "N"],
    first: Float64[Array, "M 4"],
    last: Float64[Array, "M 4"],
    boxes: Float64[Array, "M 6"],
    cells: Float64[Array, "M 2"],
) -> tuple[Int64[Array, "K"], Int64[Array, "K"], Float32[Array, "K 6"]]:
    """Each pair of a ray and a body whose box it crosses, and the ray where the body lies in the tree.

    Most rays pass most bodies far aside. Seen from above, blocks of rays are settled as a whole, then single rays.
    """
    start_x, start_y, start_z = columns[0], columns[1], columns[2]
    along_x, along_y, along_z = columns[3], columns[4], columns[5]
    # A ray's length over that of its shadow on the ground; straight up it is only very long.
    flatness = 1.0 / np.maximum(np.hypot(along_x, along_y), 1e-6)
    wedges = _wedges(columns, flatness)
    size, count = 4096, 0
    pairs, local = np.empty((size, 2), np.int64), np.empty((size, 6), np.float32)
    for body in range(len(first)):
        middle, radius = _circle(boxes[body], first[body], last[body])
        step_x, step_y = last[body, 0] - first[body, 0], last[body, 1] - first[body, 1]
        for block in range(len(wedges)):
            if not _in_wedge(wedges[block], middle, radius + math.hypot(step_x, step_y)):
                continue
            for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, len(moments))):
                moment, flat = moments[ray], flatness[ray]
                to_x = middle[0] + moment * step_x - start_x[ray]
                to_y = middle[1] + moment * step_y - start_y[ray]
                if abs(to_x * along_y[ray] - to_y * along_x[ray]) * flat > radius:
                    continue
                # Above which part of the ray the circle lies, and whether the ray is at the body's height there.
                ahead = (to_x * along_x[ray] + to_y * along_y[ray]) * flat * flat
                enter, leave = max(0.0, ahead - radius * flat), min(within[ray], ahead + radius * flat)
                z = start_z[ray] - first[body, 3] - moment * (last[body, 3] - first[body, 3])
                enter, leave = _slab(z, along_z[ray], boxes[body, 2], boxes[body, 5], enter, leave)
                if enter > leave:
                    continue
                yaw = first[body, 2] + moment * (last[body, 2] - first[body, 2])
                cos, sin = math.cos(yaw), math.sin(yaw)
                x = start_x[ray] - first[body, 0] - moment * step_x
                y = start_y[ray] - first[body, 1] - moment * step_y
                own_x, own_y = cos * x + sin * y, cos * y - sin * x
                own_dx, own_dy = cos * along_x[ray] + sin * along_y[ray], cos * along_y[ray] - sin * along_x[ray]
                enter, leave = _slab(own_x, own_dx, boxes[body, 0], boxes[body, 3], enter, leave)
                enter, leave = _slab(own_y, own_dy, boxes[body, 1], boxes[body, 4], enter, leave)
                if enter > leave:
                    continue
                if count == size:
                    size *= 2
                    more_pairs, more_local = np.empty((size, 2), np.int64), np.empty((size, 6), np.float32)
                    more_pairs[:count], more_local[:count] = pairs, local
                    pairs, local = more_pairs, more_local
                pairs[count, 0], pairs[count, 1] = ray, body
                local[count, 0], local[count, 1], local[count, 2] = own_x + cells[body, 0], own_y + cells[body, 1], z
                local[count, 3], local[count, 4], local[count, 5] = own_dx, own_dy, along_z[ray]
                count += 1
    return pairs[:count, 0].copy(), pairs[:count, 1].copy(), local[:count].copy()


@compiled
def _nearest(rays: Int64[Array, "K"], along: Float64[Array, "K"], within: Float64[Array, "N"]) -> Int64[Array, "N"]:
    """For each of N rays which of K pairs lies nearest, and nearer than `within`; -1 where none does."""
    nearest = np.full(len(within), -1)
    for pair in range(len(rays)):
        ray = rays[pair]
        if along[pair] < within[ray]:
            nearest[ray], within[ray] = pair, along[pair]
    return nearest
