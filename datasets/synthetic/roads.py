"""The road plan of a scene: a main road, a crossing road, what the ground is made of where, raised sidewalks."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8

from datasets.synthetic.arrays import Array
from datasets.synthetic.materials import Material
from datasets.synthetic.meshes import Mesh, combined
from datasets.synthetic.paths import Path, through

LANE_WIDTH = 3.5
PARKING_WIDTH = 3.0
SIDEWALK_WIDTH = 4.5
CURB_HEIGHT = 0.12
CORNER = 6.0  # From the edge of the crossing road to where the raised sidewalk begins.
RESOLUTION = 0.1  # Metres for each cell of the surface map, as in nuScenes' map masks.


@dataclass(frozen=True)
class SurfaceMap:
    """The ground's Material in cells of RESOLUTION; row 0 is at y = -half_size, column 0 at x = -half_size."""

    cells: UInt8[Array, "Y X"]
    half_size: float

    def at(self, xy: Float64[Array, "N 2"]) -> Int32[Array, "N"]:
        """The Material at each place (world x, y); GRASS outside the map."""
        column, row = (np.floor((xy[:, i] + self.half_size) / RESOLUTION).astype(np.int64) for i in (0, 1))
        inside = (column >= 0) & (row >= 0) & (column < self.cells.shape[1]) & (row < self.cells.shape[0])
        found = np.full(len(xy), Material.GRASS, np.int32)
        found[inside] = self.cells[row[inside], column[inside]]
        return found


@dataclass(frozen=True)
class RoadPlan:
    """Two roads that cross at the world's origin. Half widths reach to the curb."""

    main: Path
    cross: Path
    lanes: int
    main_half_width: float
    cross_half_width: float
    surface: SurfaceMap

    def lane(self, forward: bool, index: int) -> Path:
        """The middle of a lane of the main road in driving direction; index 0 lies beside the centre line."""
        offset = (index + 0.5) * LANE_WIDTH
        return self.main.shifted(-offset) if forward else self.main.shifted(offset).reversed()

    def cross_lane(self, forward: bool) -> Path:
        """The middle of the crossing road's lane in driving direction."""
        return self.cross.shifted(-LANE_WIDTH / 2) if forward else self.cross.shifted(LANE_WIDTH / 2).reversed()


def plan_roads(half_size: float, curvature: float, lanes: int, yaw: float, skew: float) -> RoadPlan:
    """A main road of this curvature and heading at the origin, crossed at a right angle plus `skew`."""
    main = through(0.0, 0.0, yaw, curvature, half_size * 1.3)
    cross = through(0.0, 0.0, yaw + np.pi / 2 + skew, 0.0, half_size * 1.3)
    main_half, cross_half = lanes * LANE_WIDTH + PARKING_WIDTH, LANE_WIDTH + 0.6
    surface = _paint(half_size, main, cross, lanes, main_half, cross_half)
    return RoadPlan(main, cross, lanes, main_half, cross_half, surface)


def _ribbon(path: Path, left: float, right: float, span: tuple[float, float]) -> Float64[Array, "K 2 2"]:
    """Left and right edge points of the strip of a path between two offsets (positive to the left)."""
    poses = path.at(np.arange(span[0], span[1] + 1e-9, 1.0))
    normals = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
    return np.stack([poses[:, :2] + left * normals, poses[:, :2] + right * normals], axis=1)


class _Painter:
    """Draws strips of material on the surface map."""

    def __init__(self, half_size: float) -> None:
        count = int(2 * half_size / RESOLUTION)
        self.cells = np.full((count, count), int(Material.GRASS), np.uint8)
        self._half_size = half_size

    def strip(self, path: Path, left: float, right: float, span: tuple[float, float], material: Material) -> None:
        if span[1] - span[0] < 0.05:
            return
        poses = path.at(np.linspace(span[0], span[1], max(2, int((span[1] - span[0]) / 2.0))))
        normals = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
        outline = np.concatenate([poses[:, :2] + left * normals, (poses[:, :2] + right * normals)[::-1]])
        # Sixteenths of a cell; cv2 counts from the middle of a cell.
        corners = np.round(((outline + self._half_size) / RESOLUTION - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(self.cells, [corners], (int(material),), lineType=cv2.LINE_8, shift=4)


def _paint(half_size: float, main: Path, cross: Path, lanes: int, main_half: float, cross_half: float) -> SurfaceMap:
    painter = _Painter(half_size)
    reach = half_size * 1.25
    roads = ((main, main_half), (cross, cross_half))
    for path, half in roads:
        painter.strip(path, half + SIDEWALK_WIDTH, -half - SIDEWALK_WIDTH, (-reach, reach), Material.SIDEWALK)
    for path, half in roads:
        painter.strip(path, half, -half, (-reach, reach), Material.ASPHALT)
    for (path, half), other_half, count in ((roads[0], cross_half, lanes), (roads[1], main_half, 1)):
        for side in (-1, 1):
            span = (other_half + CORNER, reach) if side > 0 else (-reach, -other_half - CORNER)
            _paint_lines(painter, path, count, half, span)
            _paint_crossing(painter, path, count * LANE_WIDTH, half, side, other_half)
    return SurfaceMap(painter.cells, half_size)


def _paint_lines(painter: _Painter, path: Path, lanes: int, half: float, span: tuple[float, float]) -> None:
    for offset in (-0.2, 0.2):
        painter.strip(path, offset + 0.1, offset - 0.1, span, Material.MARKING_YELLOW)
    edge = lanes * LANE_WIDTH
    for side in (-1, 1):
        if half - edge > 1.0:
            painter.strip(path, side * edge + 0.1, side * edge - 0.1, span, Material.MARKING_WHITE)
        for index in range(1, lanes):
            for start in np.arange(span[0], span[1] - 3.0, 9.0):
                offset = side * index * LANE_WIDTH
                painter.strip(
                    path, offset + 0.1, offset - 0.1, (float(start), float(start) + 3.0), Material.MARKING_WHITE
                )


def _paint_crossing(painter: _Painter, path: Path, edge: float, half: float, side: int, other_half: float) -> None:
    """A zebra crossing and the stop line of the lanes that drive towards the junction."""
    near, far = sorted((side * (other_half + 1.0), side * (other_half + 4.0)))
    for offset in np.arange(-half + 0.5, half - 0.5, 1.0):
        painter.strip(path, float(offset) + 0.5, float(offset), (near, far), Material.MARKING_WHITE)
    near, far = sorted((side * (other_half + 5.0), side * (other_half + 5.5)))
    # Driving on the right, the lanes towards the junction lie left of the path beyond it and right of it before it.
    painter.strip(path, side * edge, side * 0.3, (near, far), Material.MARKING_WHITE)


def sidewalks(plan: RoadPlan, reach: float) -> Mesh:
    """Raised sidewalks with their curbs along both roads, away from the junction's corners."""
    parts = []
    for path, half, gap in (
        (plan.main, plan.main_half_width, plan.cross_half_width + CORNER),
        (plan.cross, plan.cross_half_width, plan.main_half_width + CORNER),
    ):
        for side in (-1, 1):
            for span in ((gap, reach), (-reach, -gap)):
                parts.append(_raised_strip(_ribbon(path, side * half, side * (half + SIDEWALK_WIDTH), span)))
    return combined(parts)


def _raised_strip(edges: Float64[Array, "K 2 2"]) -> Mesh:
    count = len(edges)
    floor = np.zeros((count, 1))
    top = np.full((count, 1), CURB_HEIGHT)
    vertices = np.concatenate(
        [np.hstack([edges[:, 0], floor]), np.hstack([edges[:, 0], top]), np.hstack([edges[:, 1], top])]
    )
    triangles, materials = [], []
    for i in range(count - 1):
        for low, high, material in ((0, count, Material.CURB), (count, 2 * count, Material.SIDEWALK)):
            triangles += [(low + i, low + i + 1, high + i + 1), (low + i, high + i + 1, high + i)]
            materials += [material, material]
    return Mesh(vertices.astype(np.float32), np.array(triangles, np.int32), np.array(materials, np.int32))
