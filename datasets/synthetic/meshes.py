"""Triangle meshes with a material for each triangle, and the solids that objects are put together from.

Objects look along x; y is left, z is up; metres. Rays do not care which side of a triangle they meet, so the
orientation of triangles carries no meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32

from datasets.synthetic.arrays import Array
from datasets.synthetic.materials import Material

_QUADS = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))


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

    def pitched(self, pitch: float) -> "Mesh":
        """Turned about y; positive lifts the front."""
        cos, sin = np.cos(pitch), np.sin(pitch)
        rotation = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
        return Mesh((self.vertices @ rotation.T).astype(np.float32), self.triangles, self.materials)

    def fitted(self, length: float, width: float, height: float) -> "Mesh":
        """Scaled along each axis to fill exactly the box of this size that stands centred on the origin's ground."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        size = np.array([length, width, height])
        unit = (self.vertices - low) / np.maximum(high - low, 1e-6)
        vertices = unit * size - np.array([length / 2, width / 2, 0.0])
        return Mesh(vertices.astype(np.float32), self.triangles, self.materials)


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
    triangles = [triangle for a, b, c, d in _QUADS for triangle in ((a, b, c), (a, c, d))]
    materials = [bottom] * 2 + [top] * 2 + [sides] * 8
    return Mesh(vertices.astype(np.float32), np.array(triangles, np.int32), np.array(materials, np.int32))


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


def bar(start: Sequence[float], end: Sequence[float], thickness: float, material: Material) -> Mesh:
    """A square bar between two points."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
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
    corners = [side + up, side - up, -side - up, -side + up]
    return _hexahedron(np.array([a + c for c in corners] + [b + c for c in corners]), material, material, material)


def cone(
    radii: tuple[float, float],
    z_range: tuple[float, float],
    material: Material,
    sides: int = 8,
    top: Material | None = None,
) -> Mesh:
    """An upright (truncated) cone or cylinder on the z axis, closed at the top."""
    angles = np.arange(sides) * 2 * np.pi / sides
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rings = [np.column_stack([circle * radius, np.full(sides, z)]) for radius, z in zip(radii, z_range, strict=True)]
    vertices = np.concatenate([*rings, [[0.0, 0.0, z_range[1]]]]).astype(np.float32)
    triangles, materials = [], []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [(i, j, sides + j), (i, sides + j, sides + i), (sides + i, sides + j, 2 * sides)]
        materials += [material, material, material if top is None else top]
    return Mesh(vertices, np.array(triangles, np.int32), np.array(materials, np.int32))


def wheel(x: float, y: float, radius: float, width: float, sides: int = 10) -> Mesh:
    """A wheel that stands on the ground and rolls along x, with a bright rim on both faces."""
    angles = np.arange(sides) * 2 * np.pi / sides
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius
    hub = [[0.0, 0.0]]
    faces = [np.concatenate([circle, 0.55 * circle, hub]) for _ in range(2)]
    vertices = np.concatenate(
        [
            np.column_stack([x + face[:, 0], np.full(len(face), y + side), radius + face[:, 1]])
            for face, side in zip(faces, (-width / 2, width / 2), strict=True)
        ]
    ).astype(np.float32)
    count = 2 * sides + 1
    triangles, materials = [], []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [(i, j, count + j), (i, count + j, count + i)]
        materials += [Material.TYRE] * 2
        for base in (0, count):
            inner_i, inner_j, middle = base + sides + i, base + sides + j, base + 2 * sides
            triangles += [(base + i, base + j, inner_j), (base + i, inner_j, inner_i), (inner_i, inner_j, middle)]
            materials += [Material.TYRE, Material.TYRE, Material.RIM]
    return Mesh(vertices, np.array(triangles, np.int32), np.array(materials, np.int32))


def ball(
    middle: tuple[float, float, float],
    radii: tuple[float, float, float],
    material: Material,
    sides: int = 8,
    rings: int = 4,
) -> Mesh:
    """An ellipsoid."""
    polar = np.linspace(0.0, np.pi, rings + 1)[1:-1]
    angles = np.arange(sides) * 2 * np.pi / sides
    unit = [[np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)] for p in polar for a in angles]
    vertices = np.array([*unit, [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]) * np.array(radii) + np.array(middle)
    north, south, last = len(unit), len(unit) + 1, (rings - 2) * sides
    triangles = []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [(north, i, j), (south, last + i, last + j)]
        for ring in range(rings - 2):
            a, b = ring * sides, (ring + 1) * sides
            triangles += [(a + i, a + j, b + j), (a + i, b + j, b + i)]
    return Mesh(vertices.astype(np.float32), np.array(triangles, np.int32), np.full(len(triangles), material, np.int32))


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
    triangles = []
    for i in range(count):
        j = (i + 1) % count
        triangles += [(i, j, count + j), (i, count + j, count + i)]
    for i in range(1, count - 1):
        triangles += [(0, i, i + 1), (count, count + i, count + i + 1)]
    vertices = np.concatenate([left, right]).astype(np.float32)
    return Mesh(vertices, np.array(triangles, np.int32), np.full(len(triangles), material, np.int32))
