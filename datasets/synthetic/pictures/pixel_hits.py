"""First hits of all pixels of a picture with fewer rays than pixels, and the shadows on them.

Rays are cast on a lattice of every fourth pixel. Where a square of the lattice and all its neighbours show one plane
of one material, the pixels in it meet that plane: how far away follows from geometry alone. All other pixels are cast.
What is so thin that it could pass between the lattice's rays is known from the meshes: the pixels that it covers are
cast too. So the picture is, but for a few pixels of ten thousand, the one that a ray for each pixel gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int32, Int64

from calibration.cameras import PinholeCamera
from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.rays import Instant, Surfaces, Target, rays_from
from datasets.synthetic.scenery.meshes import connected_parts
from datasets.synthetic.traffic.users import RoadUser

_STEP = 4
# What is narrower than this many pixels is thin.
_THIN = 2.0 * _STEP
_NEAR = 0.05  # metres in front of the camera
# The corners of a box, as np.ndindex counts them, that its edges join.
_EDGES = np.array([(a, b) for a in range(8) for b in range(a, 8) if (a ^ b).bit_count() == 1])


@dataclass(frozen=True)
class View:
    """A camera at one instant. `directions` are those of `pixel_directions`."""

    camera: PinholeCamera
    world_from_cam: Float64[Array, "4 4"]
    directions: Float32[Array, "P 3"]

    def rectangles(self, low: Float64[Array, "K 3"], high: Float64[Array, "K 3"]) -> Float64[Array, "K 4"]:
        """Left, top, right, bottom in pixels of boxes along the world's axes; they may reach out of the picture.

        Of a box that reaches behind the camera the part before it counts; one behind it gets an empty rectangle.
        """
        corners = np.stack([np.where(pick, high, low) for pick in np.ndindex(2, 2, 2)], axis=1)
        in_cam = (corners - self.world_from_cam[:3, 3]) @ self.world_from_cam[:3, :3]
        one, other = in_cam[:, _EDGES[:, 0]], in_cam[:, _EDGES[:, 1]]
        share = (_NEAR - one[..., 2]) / np.where(other[..., 2] == one[..., 2], np.inf, other[..., 2] - one[..., 2])
        crossing = one + np.clip(share, 0.0, 1.0)[..., None] * (other - one)
        points = np.concatenate([in_cam, crossing], axis=1)
        before = points[..., 2:] >= _NEAR * (1 - 1e-9)
        uv = (points @ self.camera.intrinsics.numpy().T)[..., :2] / np.maximum(points[..., 2:], _NEAR)
        found: Float64[Array, "K 4"] = np.concatenate(
            [np.where(before, uv, np.inf).min(axis=1) - 1.0, np.where(before, uv, -np.inf).max(axis=1) + 1.0], axis=1
        )
        return np.clip(found, -1e6, 1e6)


@dataclass(frozen=True)
class PixelHits:
    """What the pixels' rays met first: how far (inf: the sky) and the row of `surfaces` (-1: none)."""

    rays: Float32[Array, "N 6"]
    distances: Float32[Array, "N"]
    triangles: Int32[Array, "N"]
    surfaces: Surfaces


class StillParts:
    """What pictures need to know of what stands still: planes of triangles, and the boxes of connected parts."""

    def __init__(self, still: Target) -> None:
        mesh = still.mesh
        normals, owners = still.surfaces.normals[:-1].astype(np.float64), still.surfaces.owners[:-1]
        # One plane for both sides of it.
        normals *= np.sign(normals @ [1.0, 1e-3, 1e-6] + 1e-12)[:, None]
        offsets = np.einsum("ij,ij->i", normals, mesh.vertices[mesh.triangles[:, 0]].astype(np.float64))
        rows = np.column_stack([np.round(normals * 2000), np.round(offsets * 200), mesh.materials, owners])
        # The number of the first triangle of a plane is the plane's.
        _, first, plane = np.unique(rows.astype(np.int64), axis=0, return_index=True, return_inverse=True)
        self.plane_of_triangle = np.append(first[plane.reshape(-1)], -1).astype(np.int32)
        count, part = connected_parts(mesh.triangles, len(mesh.vertices))
        self.low, self.high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
        np.minimum.at(self.low, part, mesh.vertices)
        np.maximum.at(self.high, part, mesh.vertices)

    def planes_with(self, count: int) -> Int32[Array, "T"]:
        """The plane of each of `count` surfaces: those of what moves, and of none, count as planes of their own."""
        still = self.plane_of_triangle[:-1]
        return np.concatenate([still, np.arange(len(still), count, dtype=np.int32)])


def in_view(view: View, users: Sequence[RoadUser], time: float, margin: float) -> list[RoadUser]:
    """Who can be seen in a picture, or is within `margin` metres of the camera (and may throw a shadow into it)."""
    if not users:
        return []
    low, high = _reach(users, time)
    rectangles = view.rectangles(low, high)
    seen = (rectangles[:, 2] > 0) & (rectangles[:, 3] > 0)
    seen &= (rectangles[:, 0] < view.camera.width) & (rectangles[:, 1] < view.camera.height)
    seen |= np.linalg.norm((low + high) / 2 - view.world_from_cam[:3, 3], axis=1) < margin
    return [users[i] for i in seen.nonzero()[0]]


def _reach(users: Sequence[RoadUser], time: float) -> tuple[Float64[Array, "K 3"], Float64[Array, "K 3"]]:
    """Corners of boxes along the world's axes that hold the users."""
    places = np.array([(*user.track.at(time)[:2], user.track.z) for user in users])
    sizes = np.array([user.body.size_wlh for user in users])
    half = np.hypot(sizes[:, 0], sizes[:, 1])[:, None] / 2 * [1.0, 1.0, 0.0]
    return places - half, places + half + sizes[:, 2:] * [0.0, 0.0, 1.0]


def pixel_hits(instant: Instant, parts: StillParts, view: View) -> PixelHits:
    """What each pixel shows."""
    shape = (view.camera.height, view.camera.width)
    rays = rays_from(view.world_from_cam, view.directions)
    distances, triangles = _still_hits(instant.still, parts, view, rays, shape)
    numbers = np.unique(instant.moving.surfaces.owners[:-1])
    if len(numbers):
        mask = np.zeros(shape, bool)
        _cover(mask, view.rectangles(*_reach([instant.world.users[n] for n in numbers], instant.time)))
        where = mask.ravel().nonzero()[0]
        instant.meet_moving(np.ascontiguousarray(rays[where]), where, distances, triangles)
    return PixelHits(rays, distances, triangles, instant.surfaces)


def _still_hits(
    still: Target, parts: StillParts, view: View, rays: Float32[Array, "N 6"], shape: tuple[int, int]
) -> tuple[Float32[Array, "N"], Int32[Array, "N"]]:
    numbers = np.arange(shape[0] * shape[1]).reshape(shape)
    nodes = numbers[::_STEP, ::_STEP]
    _, node_triangles = still.first(np.ascontiguousarray(rays[nodes.ravel()]))
    rectangles = view.rectangles(parts.low, parts.high)
    size = rectangles[:, 2:] - rectangles[:, :2] - 2.0
    thin = rectangles[(size.min(axis=1) < _THIN) & (size.max(axis=1) > 0.3)]
    must_cast = np.zeros(shape, bool)
    _cover(must_cast, thin)
    triangles = _spread(parts.plane_of_triangle[node_triangles].reshape(nodes.shape), node_triangles, must_cast)
    triangles = triangles.ravel()
    distances = np.empty(len(rays), np.float32)
    cast = (triangles == _UNKNOWN).nonzero()[0]
    distances[cast], triangles[cast] = still.first(np.ascontiguousarray(rays[cast]))
    _along_planes(rays, triangles, still.surfaces.normals, still.mesh.vertices, still.mesh.triangles, cast, distances)
    return distances, triangles


_UNKNOWN = -2


@compiled
def _cover(mask: Bool[Array, "H W"], rectangles: Float64[Array, "K 4"]) -> None:
    """Set what rectangles cover."""
    height, width = mask.shape
    for k in range(len(rectangles)):
        left, top = max(int(rectangles[k, 0]), 0), max(int(rectangles[k, 1]), 0)
        right, bottom = min(int(rectangles[k, 2]) + 1, width), min(int(rectangles[k, 3]) + 1, height)
        for row in range(top, bottom):
            for column in range(left, right):
                mask[row, column] = True


@compiled
def _spread(
    planes: Int32[Array, "h w"], node_triangles: Int32[Array, "K"], must_cast: Bool[Array, "H W"]
) -> Int32[Array, "H W"]:
    """The triangle of each pixel of a lattice square that shows, with its neighbours, one plane; else _UNKNOWN."""
    rows, columns = planes.shape
    height, width = must_cast.shape
    uniform = np.zeros((rows - 1, columns - 1), np.bool_)
    for row in range(rows - 1):
        for column in range(columns - 1):
            plane = planes[row, column]
            uniform[row, column] = (
                plane == planes[row, column + 1] and plane == planes[row + 1, column]
                and plane == planes[row + 1, column + 1]
            )  # fmt: skip
    triangles = np.full((height, width), -2, np.int32)
    for row in range(rows - 1):
        for column in range(columns - 1):
            safe = True
            for r in range(max(row - 1, 0), min(row + 2, rows - 1)):
                for c in range(max(column - 1, 0), min(column + 2, columns - 1)):
                    safe = safe and uniform[r, c] and planes[r, c] == planes[row, column]
            if not safe:
                continue
            triangle = node_triangles[row * columns + column]
            for v in range(row * _STEP, row * _STEP + _STEP):
                for u in range(column * _STEP, column * _STEP + _STEP):
                    if not must_cast[v, u]:
                        triangles[v, u] = triangle
    return triangles


@compiled
def _along_planes(
    rays: Float32[Array, "N 6"],
    triangles: Int32[Array, "N"],
    normals: Float32[Array, "T 3"],
    vertices: Float32[Array, "V 3"],
    corners: Int32[Array, "S 3"],
    cast: Int64[Array, "K"],
    distances: Float32[Array, "N"],
) -> None:
    """Distances to the planes of their triangles for all rays that were not cast."""
    following = 0
    for i in range(len(rays)):
        if following < len(cast) and cast[following] == i:
            following += 1
            continue
        t = triangles[i]
        if t < 0:
            distances[i] = np.inf
            continue
        corner = corners[t, 0]
        above = along = 0.0
        for axis in range(3):
            above += normals[t, axis] * (np.float64(vertices[corner, axis]) - rays[i, axis])
            along += np.float64(normals[t, axis]) * rays[i, 3 + axis]
        distances[i] = above / along


def open_to(
    instant: Instant, parts: StillParts, hits: PixelHits, towards: Float32[Array, "3"], shape: tuple[int, int]
) -> Bool[Array, "N"]:
    """Which pixels' places have nothing between them and the light from this direction.

    Cast for every second pixel of every second row; a pixel between neighbours on the same plane that agree is as they
    are.
    """
    wanted = _facing(hits.rays, hits.surfaces.normals, hits.triangles, towards)
    found = np.zeros(len(wanted), np.int8)
    even = np.zeros(shape, bool)
    even[::2, ::2] = True
    first = (wanted & even.ravel()).nonzero()[0]
    found[first] = _free(instant, hits, first, towards)
    planes = parts.planes_with(len(hits.surfaces.owners))
    rest = _between(found.reshape(shape), wanted.reshape(shape), hits.triangles.reshape(shape), planes)
    found[rest] = _free(instant, hits, rest, towards)
    return np.asarray(found == 1)


def _free(
    instant: Instant, hits: PixelHits, pixels: Int64[Array, "K"], towards: Float32[Array, "3"]
) -> Int8[Array, "K"]:
    """1 where the light reaches, 2 where it does not."""
    rays = np.empty((len(pixels), 6), np.float32)
    # Off the surface by a little, towards the eye: there it stays on the side that is seen.
    rays[:, :3] = hits.rays[pixels, :3] + (hits.distances[pixels, None] * 0.9999 - 0.015) * hits.rays[pixels, 3:]
    rays[:, 3:] = towards
    return np.asarray(1 + instant.blocked(rays), np.int8)


@compiled
def _facing(
    rays: Float32[Array, "N 6"],
    normals: Float32[Array, "T 3"],
    triangles: Int32[Array, "N"],
    towards: Float32[Array, "3"],
) -> Bool[Array, "N"]:
    """Which places show the side that looks towards the light."""
    wanted = np.zeros(len(rays), np.bool_)
    for i in range(len(rays)):
        t = triangles[i]
        eye = light = 0.0
        for axis in range(3):
            eye -= normals[t, axis] * rays[i, 3 + axis]
            light += normals[t, axis] * towards[axis]
        wanted[i] = eye * light > 0.0
    return wanted


@compiled
def _between(
    found: Int8[Array, "H W"], wanted: Bool[Array, "H W"], triangles: Int32[Array, "H W"], planes: Int32[Array, "T"]
) -> Int64[Array, "K"]:
    """Give pixels between agreeing neighbours their value; the numbers of all others that want one."""
    height, width = found.shape
    rest = np.empty(height * width, np.int64)
    count = 0
    for row in range(height):
        for column in range(width):
            if not wanted[row, column] or (row % 2 == 0 and column % 2 == 0):
                continue
            top, left = row - row % 2, column - column % 2
            bottom, right = row + row % 2, column + column % 2
            agreed = 0
            if bottom < height and right < width:
                agreed = found[top, left]
                for r, c in ((top, right), (bottom, left), (bottom, right)):
                    if found[r, c] != agreed:
                        agreed = 0
                for r, c in ((top, left), (top, right), (bottom, left), (bottom, right)):
                    if planes[triangles[r, c]] != planes[triangles[row, column]]:
                        agreed = 0
            if agreed > 0:
                found[row, column] = agreed
            else:
                rest[count] = row * width + column
                count += 1
    return rest[:count].copy()
