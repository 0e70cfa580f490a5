"""Triangle meshes with a material for each triangle, and the solids that objects are put together from.

Objects look along x; y is left, z is up; metres. Rays do not care which side of a triangle they meet, so the
orientation of triangles carries no meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64, Int32, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.arrays import Array
from datasets.synthetic.scenery.materials import Material

# Corners 0 to 3 go around the bottom of a hexahedron, 4 to 7 around its top: bottom, top and the four sides.
_QUADS = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
_HEXAHEDRON = np.array([t for a, b, c, d in _QUADS for t in ((a, b, c), (a, c, d))], np.int32)
_SLEEVE = _HEXAHEDRON[4:]


@dataclass(frozen=True)
class Mesh:
    """V vertices and T triangles."""

    vertices: Float32[Array, "V 3"]
    triangles: Int32[Array, "T 3"]
    materials: Int32[Array, "T"]

    def moved(self, x: float, y: float, z: float, yaw: float = 0.0) -> "Mesh":
        """Turned about z by `yaw`, then moved."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        vertices = (self.vertices @ rotation.T + np.array([x, y, z])).astype(np.float32)
        return Mesh(vertices, self.triangles, self.materials)

    def fitted(self, length: float, width: float, height: float, reference: "Mesh | None" = None) -> "Mesh":
        """Scaled along each axis to fill exactly the box of this size that stands centred on the origin's ground.

        Where a `reference` is given, it is that mesh which would fill the box: one object in another posture. What
        reaches further than it is pressed into the box.
        """
        vertices = self.vertices if reference is None else reference.vertices
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        size = np.array([length, width, height])
        unit = (self.vertices - low) / np.maximum(high - low, 1e-6)
        fitted = np.clip(unit, 0.0, 1.0) * size - np.array([length / 2, width / 2, 0.0])
        return Mesh(fitted.astype(np.float32), self.triangles, self.materials)


def connected_parts(triangles: Integer[Array, "T 3"], count: int) -> tuple[int, Int32[Array, "V"]]:
    """How many parts triangles over `count` vertices hang together in, and the part of each vertex."""
    a, b, c = triangles.T
    edges = (np.concatenate([a, b]), np.concatenate([b, c]))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), (count, count))
    found: tuple[int, Int32[Array, V]] = connected_components(graph, directed=False)
    return found


def combined(parts: Sequence[Mesh]) -> Mesh:
    """All parts as one mesh; no part gives the empty mesh."""
    if not parts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros(0, np.int32))
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate([part.materials for part in parts]),
    )


def _hexahedron(vertices: Float64[Array, "8 3"], sides: Material, top: Material, bottom: Material) -> Mesh:
    materials = [bottom] * 2 + [top] * 2 + [sides] * 8
    return Mesh(vertices.astype(np.float32), _HEXAHEDRON, np.array(materials, np.int32))


def frustum(
    bottom_xxyy: tuple[float, float, float, float],
    top_xxyy: tuple[float, float, float, float],
    z_range: tuple[float, float],
    sides: Material,
    top: Material | None = None,
) -> Mesh:
    """A solid between two rectangles (x0, x1, y0, y1) at two heights."""
    rings = [
        [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
        for (x0, x1, y0, y1), z in ((bottom_xxyy, z_range[0]), (top_xxyy, z_range[1]))
    ]
    return _hexahedron(np.array(rings[0] + rings[1]), sides, sides if top is None else top, sides)


def box(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    z_range: tuple[float, float],
    material: Material,
    top: Material | None = None,
) -> Mesh:
    """An upright box."""
    return frustum((*x_range, *y_range), (*x_range, *y_range), z_range, material, top)


def panel(x: float, y_range: tuple[float, float], z_range: tuple[float, float], material: Material) -> Mesh:
    """An upright rectangle across x: a lamp, a plate, a stripe."""
    (y0, y1), (z0, z1) = y_range, z_range
    vertices = np.array([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), np.full(2, material, np.int32))


def bar(start: Sequence[float], end: Sequence[float], thickness: float, material: Material) -> Mesh:
    """A square bar between two points, open at its ends (they meet other parts)."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (b - a) / max(float(np.sqrt(((b - a) ** 2).sum())), 1e-6)
    # Any direction across the bar: horizontal, unless the bar itself stands upright.
    side = np.array([along[1], -along[0], 0.0]) if abs(along[2]) < 0.9 else np.array([0.0, along[2], -along[1]])
    side *= thickness / 2 / np.sqrt((side**2).sum())
    up = np.array(
        [
            side[1] * along[2] - side[2] * along[1],
            side[2] * along[0] - side[0] * along[2],
            side[0] * along[1] - side[1] * along[0],
        ]
    )
    corners = np.array([side + up, side - up, -side - up, -side + up])
    vertices = np.concatenate([a + corners, b + corners]).astype(np.float32)
    return Mesh(vertices, _SLEEVE, np.full(len(_SLEEVE), material, np.int32))


@lru_cache
def _circle(sides: int) -> Float64[Array, "N 2"]:
    angles = np.arange(sides) * 2 * np.pi / sides
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@lru_cache
def _bands(sides: int, rings: int) -> Int32[Array, "T 3"]:
    """The triangles between `rings` rings of `sides` vertices each, ring after ring."""
    i = np.arange(sides)
    j = (i + 1) % sides
    band = np.concatenate([np.stack([i, j, sides + j], axis=1), np.stack([i, sides + j, sides + i], axis=1)])
    return np.asarray(np.concatenate([band + ring * sides for ring in range(rings - 1)]), np.int32)


@lru_cache
def _fan(sides: int, first: int, middle: int) -> Int32[Array, "T 3"]:
    """The triangles between a ring of vertices that starts at `first` and one vertex."""
    i = np.arange(sides)
    return np.asarray(np.stack([first + i, first + (i + 1) % sides, np.full(sides, middle)], axis=1), np.int32)


def cone(
    radii: tuple[float, float],
    z_range: tuple[float, float],
    material: Material,
    sides: int = 8,
    top: Material | None = None,
) -> Mesh:
    """An upright (truncated) cone or cylinder on the z axis, closed at the top."""
    rings = [
        np.column_stack([_circle(sides) * radius, np.full(sides, z)]) for radius, z in zip(radii, z_range, strict=True)
    ]
    vertices = np.concatenate([*rings, [[0.0, 0.0, z_range[1]]]]).astype(np.float32)
    triangles = np.concatenate([_bands(sides, 2), _fan(sides, sides, 2 * sides)])
    materials = np.repeat(np.array([material, material if top is None else top], np.int32), [2 * sides, sides])
    return Mesh(vertices, triangles, materials)


def wheel(x: float, y: float, radius: float, width: float, outward: float, sides: int = 8) -> Mesh:
    """A wheel that stands on the ground and rolls along x; its outward face (towards the sign of y) has a bright rim.

    The other face, which nobody sees under a vehicle, is left open.
    """
    circle, face = _circle(sides) * radius, y + np.sign(outward) * width / 2
    rings = ((circle, 2 * y - face), (circle, face), (0.6 * circle, face), (np.zeros((1, 2)), face))
    vertices = np.concatenate(
        [np.column_stack([x + c[:, 0], np.full(len(c), at), radius + c[:, 1]]) for c, at in rings]
    )
    triangles = np.concatenate([_bands(sides, 3), _fan(sides, 2 * sides, 3 * sides)])
    materials = np.repeat(np.array([Material.TYRE, Material.RIM], np.int32), [4 * sides, sides])
    return Mesh(vertices.astype(np.float32), triangles, materials)


def hoop(x: float, radius: float, thickness: float, material: Material, sides: int = 10) -> Mesh:
    """A bicycle's wheel without spokes, in the middle plane, standing on the ground: a ring of triangular section."""
    circle = _circle(sides)
    inner = (radius - thickness) * circle
    rings = ((inner, -thickness / 2), (radius * circle, 0.0), (inner, thickness / 2))
    vertices = np.concatenate([np.column_stack([x + c[:, 0], np.full(sides, y), radius + c[:, 1]]) for c, y in rings])
    triangles = _bands(sides, 3)
    return Mesh(vertices.astype(np.float32), triangles, np.full(len(triangles), material, np.int32))


@lru_cache
def _sphere(sides: int, rings: int) -> tuple[Float64[Array, "V 3"], Int32[Array, "T 3"]]:
    polar = np.linspace(0.0, np.pi, rings + 1)[1:-1]
    circle = _circle(sides)
    around = [np.column_stack([np.sin(p) * circle, np.full(sides, np.cos(p))]) for p in polar]
    count = sides * len(polar)
    triangles = [_bands(sides, rings - 1), _fan(sides, 0, count), _fan(sides, count - sides, count + 1)]
    return np.concatenate([*around, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]]), np.concatenate(triangles)


def ball(
    middle: tuple[float, float, float],
    radii: tuple[float, float, float],
    material: Material,
    sides: int = 8,
    rings: int = 4,
) -> Mesh:
    """An ellipsoid."""
    unit, triangles = _sphere(sides, rings)
    vertices = (unit * np.array(radii) + np.array(middle)).astype(np.float32)
    return Mesh(vertices, triangles, np.full(len(triangles), material, np.int32))


def prism(
    profile_xz: Sequence[tuple[float, float]], y_range: tuple[float, float], material: Material, top_inset: float = 0.0
) -> Mesh:
    """A convex side profile (x, z), in order around it, drawn out along y; the upper points may be inset."""
    profile = np.asarray(profile_xz, np.float64)
    count = len(profile)
    height = (profile[:, 1] - profile[:, 1].min()) / max(float(np.ptp(profile[:, 1])), 1e-6)
    inset = top_inset * height
    left = np.column_stack([profile[:, 0], y_range[1] - inset, profile[:, 1]])
    right = np.column_stack([profile[:, 0], y_range[0] + inset, profile[:, 1]])
    flat = [(0, i, i + 1) for i in range(1, count - 1)] + [
        (count, count + i, count + i + 1) for i in range(1, count - 1)
    ]
    triangles = np.concatenate([_bands(count, 2), np.array(flat, np.int32)])
    vertices = np.concatenate([left, right]).astype(np.float32)
    return Mesh(vertices, triangles, np.full(len(triangles), material, np.int32))
