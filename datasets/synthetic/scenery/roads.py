"""The road plan of a scene: a main road, a crossing road, what the ground is made of where, raised sidewalks."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8

from datasets.arrays import Array
from datasets.synthetic.scenery.car_parks import CarPark
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, combined
from datasets.synthetic.scenery.paths import Path, through

LANE_WIDTH = 3.5
PARKING_WIDTH = 3.0
BAYS_WIDTH = 5.6  # Of the parking lane where vehicles stand at a right angle to the road.
SIDEWALK_WIDTH = 4.5
CURB_HEIGHT = 0.12
CORNER = 6.0  # From the edge of the crossing road to where the raised sidewalk begins.
_STRAIGHT = 30.0  # The main road bends no nearer to the junction.
_CAR_PARK_GAP, _CAR_PARK_SHARE = 19.0, 0.3  # From the junction to a car park; how many of four places have one.
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
class RoadLayout:
    """What a road plan is made from: lengths in metres, curvature in 1/m, angles in radians.

    `median` is the width of the raised strip between the main road's two directions, 0 for a painted line; `parking` is
    the width of its parking lanes; `skew` is by how much the roads cross at another than a right angle.
    """

    half_size: float
    yaw: float
    skew: float = 0.0
    curvature: float = 0.0
    lanes: int = 1
    median: float = 0.0
    parking: float = PARKING_WIDTH


@dataclass(frozen=True)
class RoadPlan:
    """Two roads that cross at the world's origin, straight around it. Half widths reach to the curb."""

    main: Path
    cross: Path
    lanes: int
    median: float
    main_half_width: float
    cross_half_width: float
    car_parks: tuple[CarPark, ...]
    surface: SurfaceMap

    @property
    def edge(self) -> float:
        """From the main road's middle to where its parking lanes begin, metres."""
        return self.median / 2 + self.lanes * LANE_WIDTH

    @property
    def has_bays(self) -> bool:
        """Whether vehicles park at a right angle to the main road instead of along it."""
        return self.main_half_width - self.edge > (PARKING_WIDTH + BAYS_WIDTH) / 2

    def lane(self, forward: bool, index: int) -> Path:
        """The middle of a lane of the main road in driving direction; index 0 is the inner one."""
        offset = self.median / 2 + (index + 0.5) * LANE_WIDTH
        return self.main.shifted(-offset) if forward else self.main.shifted(offset).reversed()

    def cross_lane(self, forward: bool) -> Path:
        """The middle of the crossing road's lane in driving direction."""
        return self.cross.shifted(-LANE_WIDTH / 2) if forward else self.cross.shifted(LANE_WIDTH / 2).reversed()


def plan_roads(layout: RoadLayout, rng: np.random.Generator) -> RoadPlan:
    """The two roads and the car parks beside the main one; `rng` says where these are."""
    reach = layout.half_size * 1.3
    main = through(0.0, 0.0, layout.yaw, layout.curvature, reach, straight=_STRAIGHT)
    cross = through(0.0, 0.0, layout.yaw + np.pi / 2 + layout.skew, 0.0, reach)
    main_half = layout.median / 2 + layout.lanes * LANE_WIDTH + layout.parking
    cross_half = LANE_WIDTH + 0.6
    parks = _plan_car_parks(main, main_half, layout.curvature, rng)
    bare = SurfaceMap(np.zeros((1, 1), np.uint8), layout.half_size)
    plan = RoadPlan(main, cross, layout.lanes, layout.median, main_half, cross_half, parks, bare)
    return replace(plan, surface=_paint(plan))


def _plan_car_parks(main: Path, half: float, curvature: float, rng: np.random.Generator) -> tuple[CarPark, ...]:
    """Up to two on each side of the main road, one before and one behind the junction."""
    parks = []
    for side in (-1, 1):
        for beyond in (-1, 1):
            length, rows = float(rng.uniform(20.0, 45.0)), int(rng.integers(2, 5))
            slant = float(rng.choice([0.0, 0.0, 0.35, -0.35]))
            place = beyond * (_CAR_PARK_GAP + length / 2 + float(rng.uniform(0.0, 12.0)))
            if rng.random() > _CAR_PARK_SHARE:
                continue
            x, y, yaw = (float(v) for v in main.at(np.array([place]))[0])
            # A straight edge beside a curved road needs room at its ends.
            left = side * (half + SIDEWALK_WIDTH + 0.9 + abs(curvature) * length**2 / 8)
            turn = yaw if side > 0 else yaw + np.pi
            parks.append(CarPark(x - left * np.sin(yaw), y + left * np.cos(yaw), turn, length, rows, slant))
    return tuple(parks)


def _ribbon(path: Path, left: float, right: float, span: tuple[float, float]) -> Float64[Array, "K 2 2"]:
    """Left and right edge points of the strip of a path between two offsets (positive to the left)."""
    poses = path.at(np.arange(span[0], span[1] + 1e-9, 2.0))
    normals = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
    return np.stack([poses[:, :2] + left * normals, poses[:, :2] + right * normals], axis=1)


class _Painter:
    """Draws strips of material on the surface map."""

    def __init__(self, half_size: float) -> None:
        count = int(2 * half_size / RESOLUTION)
        self.cells = np.full((count, count), int(Material.GRASS), np.uint8)
        self._half_size = half_size

    def strip(self, path: Path, left: float, right: float, span: tuple[float, float], material: Material) -> None:
        """From `left` to `right` of a path (metres, positive to the left), over a span of its way."""
        if span[1] - span[0] < 0.05:
            return
        poses = path.at(np.linspace(span[0], span[1], max(2, int((span[1] - span[0]) / 2.0))))
        normals = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
        self.polygon(np.concatenate([poses[:, :2] + left * normals, (poses[:, :2] + right * normals)[::-1]]), material)

    def polygon(self, outline: Float64[Array, "K 2"], material: Material) -> None:
        """What an outline in world x, y (metres) encloses."""
        # Sixteenths of a cell; cv2 counts from the middle of a cell.
        corners = np.round(((outline + self._half_size) / RESOLUTION - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(self.cells, [corners], (int(material),), lineType=cv2.LINE_8, shift=4)


def _paint(plan: RoadPlan) -> SurfaceMap:
    painter = _Painter(plan.surface.half_size)
    reach = plan.surface.half_size * 1.25
    roads = ((plan.main, plan.main_half_width), (plan.cross, plan.cross_half_width))
    for path, half in roads:
        painter.strip(path, half + SIDEWALK_WIDTH, -half - SIDEWALK_WIDTH, (-reach, reach), Material.SIDEWALK)
    for park in plan.car_parks:
        painter.polygon(park.outline(), Material.ASPHALT)
        for line in park.lines():
            painter.polygon(line, Material.MARKING_WHITE)
    for path, half in roads:
        painter.strip(path, half, -half, (-reach, reach), Material.ASPHALT)
    for (path, half), other_half, lanes, median in (
        (roads[0], plan.cross_half_width, plan.lanes, plan.median),
        (roads[1], plan.main_half_width, 1, 0.0),
    ):
        for side in (-1, 1):
            span = (other_half + CORNER, reach) if side > 0 else (-reach, -other_half - CORNER)
            _paint_lines(painter, path, (median / 2, median / 2 + lanes * LANE_WIDTH, half), lanes, span)
            _paint_crossing(painter, path, median / 2, median / 2 + lanes * LANE_WIDTH, half, side, other_half)
    return SurfaceMap(painter.cells, plan.surface.half_size)


def _paint_lines(
    painter: _Painter, path: Path, offsets: tuple[float, float, float], lanes: int, span: tuple[float, float]
) -> None:
    """Lines along one arm of a road; `offsets` are where its lanes begin and end and where its curb is."""
    inner, edge, half = offsets
    if inner > 0.0:
        painter.strip(path, inner - 0.3, 0.3 - inner, span, Material.SIDEWALK)
    else:
        for offset in (-0.2, 0.2):
            painter.strip(path, offset + 0.1, offset - 0.1, span, Material.MARKING_YELLOW)
    for side in (-1, 1):
        if half - edge > 1.0:
            painter.strip(path, side * edge + 0.1, side * edge - 0.1, span, Material.MARKING_WHITE)
        for index in range(1, lanes):
            for start in np.arange(span[0], span[1] - 3.0, 9.0):
                offset = side * (inner + index * LANE_WIDTH)
                painter.strip(
                    path, offset + 0.1, offset - 0.1, (float(start), float(start) + 3.0), Material.MARKING_WHITE
                )


def _paint_crossing(
    painter: _Painter, path: Path, inner: float, edge: float, half: float, side: int, other_half: float
) -> None:
    """A zebra crossing and the stop line of the lanes that drive towards the junction."""
    near, far = sorted((side * (other_half + 1.0), side * (other_half + 4.0)))
    for offset in np.arange(-half + 0.5, half - 0.5, 1.0):
        painter.strip(path, float(offset) + 0.5, float(offset), (near, far), Material.MARKING_WHITE)
    near, far = sorted((side * (other_half + 5.0), side * (other_half + 5.5)))
    # Driving on the right, the lanes towards the junction lie left of the path beyond it and right of it before it.
    painter.strip(path, side * edge, side * max(inner, 0.3), (near, far), Material.MARKING_WHITE)


def sidewalks(plan: RoadPlan, reach: float) -> Mesh:
    """Raised sidewalks and the median, with their curbs, away from the junction's corners."""
    parts = []
    for path, half, gap in (
        (plan.main, plan.main_half_width, plan.cross_half_width + CORNER),
        (plan.cross, plan.cross_half_width, plan.main_half_width + CORNER),
    ):
        for side in (-1, 1):
            for span in ((gap, reach), (-reach, -gap)):
                parts.append(_raised_strip(_ribbon(path, side * half, side * (half + SIDEWALK_WIDTH), span)))
    if plan.median:
        gap = plan.cross_half_width + CORNER
        parts += [_island(plan.main, plan.median - 0.6, span) for span in ((gap, reach), (-reach, -gap))]
    return combined(parts)


def _island(path: Path, width: float, span: tuple[float, float]) -> Mesh:
    """The raised strip between two directions, with curbs on both sides."""
    return combined([_raised_strip(_ribbon(path, side * width / 2, 0.0, span)) for side in (-1, 1)])


def _raised_strip(edges: Float64[Array, "K 2 2"]) -> Mesh:
    count = len(edges)
    floor = np.zeros((count, 1))
    top = np.full((count, 1), CURB_HEIGHT)
    vertices = np.concatenate(
        [np.hstack([edges[:, 0], floor]), np.hstack([edges[:, 0], top]), np.hstack([edges[:, 1], top])]
    )
    i = np.arange(count - 1)
    wall = np.concatenate(
        [np.stack([i, i + 1, count + i + 1], axis=1), np.stack([i, count + i + 1, count + i], axis=1)]
    )
    materials = np.repeat(np.array([Material.CURB, Material.SIDEWALK], np.int32), 2 * len(i))
    return Mesh(vertices.astype(np.float32), np.concatenate([wall, wall + count]).astype(np.int32), materials)
