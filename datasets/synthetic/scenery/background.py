"""What stands beside the road and is not annotated: sidewalks, buildings, plot boundaries, trees, lamps, signs."""

import cv2
import numpy as np

from datasets.synthetic.scenery.boundaries import boundary, bus_shelter, hedge, low_wall, street_box
from datasets.synthetic.scenery.car_parks import CarPark
from datasets.synthetic.scenery.furniture import building, lamp_post, sign, traffic_light, tree
from datasets.synthetic.scenery.materials import Material
from datasets.synthetic.scenery.meshes import Mesh, combined
from datasets.synthetic.scenery.paths import Path
from datasets.synthetic.scenery.roads import CORNER, CURB_HEIGHT, RESOLUTION, SIDEWALK_WIDTH, RoadPlan, sidewalks
from datasets.synthetic.traffic.motion import resting
from datasets.synthetic.traffic.users import Occupancy

_BOUNDARY_STEP = 6.0


def background_mesh(plan: RoadPlan, occupancy: Occupancy, reach: float, rng: np.random.Generator) -> Mesh:
    """The ground and everything that stands on it for good; posts and trunks take their ground in `occupancy`."""
    parts = [_ground(plan.surface.half_size), sidewalks(plan, reach)]
    roads = (
        (plan.main, plan.main_half_width, plan.cross_half_width),
        (plan.cross, plan.cross_half_width, plan.main_half_width),
    )
    plots = _Plots(plan)
    for path, half, _ in roads:
        for side in (-1, 1):
            parts += _buildings(plots, path, half, side, reach, rng)
    for path, half, _ in roads:
        for side in (-1, 1):
            parts += _boundaries(plots, path, half, side, 0.7 * reach, rng)
    for path, half, other_half in roads:
        for side in (-1, 1):
            parts += _street_side(path, half, other_half + CORNER + 1.0, side, occupancy, reach, rng)
            parts.append(_signal(path, half, other_half, side))
    for park in plan.car_parks:
        parts += _car_park_edge(park, occupancy, rng)
    if plan.median:
        parts += _median(plan, occupancy, reach, rng)
    return combined(parts)


def _ground(half_size: float) -> Mesh:
    """The ground as far as any sensor sees from any place on the map of this half size, metres."""
    far = half_size + 300.0
    corners = np.array([[-far, -far, 0.0], [far, -far, 0.0], [far, far, 0.0], [-far, far, 0.0]], np.float32)
    materials = np.full(2, int(Material.GROUND), np.int32)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32), materials)


def _signal(path: Path, half: float, other_half: float, side: int) -> Mesh:
    x, y, yaw = path.beside(-side * (other_half + 4.5), -side * (half + 0.8), 0.0 if side > 0 else np.pi)
    return traffic_light(3.6).moved(x, y, 0.0, yaw)


def _street_side(
    path: Path, half: float, gap: float, side: int, occupancy: Occupancy, reach: float, rng: np.random.Generator
) -> list[Mesh]:
    """Trees, lamps, signs, boxes and a bus shelter along the curb of one side."""
    parts: list[Mesh] = []
    place = -reach + float(rng.uniform(0.0, 10.0))
    step = 0
    while place < reach:
        if abs(place) > gap:
            x, y, yaw = path.beside(place, side * (half + 0.75))
            draw, reserved = rng.random(), (0.25, 0.25)
            if step % 3 == 0:
                mesh, turn = lamp_post(float(rng.uniform(6.5, 8.0))), yaw - side * np.pi / 2
            elif draw < 0.55:
                mesh, turn = tree(float(rng.uniform(4.5, 7.5)), rng), float(rng.uniform(-np.pi, np.pi))
            elif draw < 0.8:
                mesh, turn, reserved = street_box(rng), yaw, (0.75, 0.4)
            else:
                mesh, turn = sign(float(rng.uniform(2.3, 2.8))), yaw if side < 0 else yaw + np.pi
            if occupancy.claim(resting(x, y, yaw, 0.0), reserved):
                parts.append(mesh.moved(x, y, CURB_HEIGHT, turn))
            step += 1
        place += float(rng.uniform(5.0, 11.0))
    place = float(rng.choice([-1, 1]) * rng.uniform(gap + 8.0, max(0.5 * reach, gap + 9.0)))
    x, y, yaw = path.beside(place, side * (half + 2.2), 0.0 if side < 0 else np.pi)
    if occupancy.claim(resting(x, y, yaw, 0.0), (1.95, 0.8)):
        parts.append(bus_shelter().moved(x, y, CURB_HEIGHT, yaw))
    return parts


def _median(plan: RoadPlan, occupancy: Occupancy, reach: float, rng: np.random.Generator) -> list[Mesh]:
    """A hedge or trees between the two directions."""
    parts = []
    gap, hedged = plan.cross_half_width + CORNER + 5.0, rng.random() < 0.5
    for place in np.arange(-reach, reach, 8.0):
        if abs(place) < gap or rng.random() < 0.2:
            continue
        x, y, yaw = plan.main.beside(float(place), 0.0)
        if occupancy.claim(resting(x, y, yaw, 0.0), (3.2 if hedged else 0.25, 0.35)):
            mesh = hedge(6.4, float(rng.uniform(0.8, 1.2)), rng) if hedged else tree(float(rng.uniform(4.5, 6.5)), rng)
            parts.append(mesh.moved(x, y, CURB_HEIGHT, yaw))
    return parts


def _car_park_edge(park: CarPark, occupancy: Occupancy, rng: np.random.Generator) -> list[Mesh]:
    """A low hedge or wall between the sidewalk and a car park, with a gap as entrance, and trees and lamps inside."""
    parts: list[Mesh] = []
    kind, height, entrance = rng.random(), float(rng.uniform(0.8, 1.6)), float(rng.uniform(-0.4, 0.4)) * park.length
    for begin, end in ((-park.length / 2, entrance - 3.5), (entrance + 3.5, park.length / 2)):
        if end - begin < 3.0 or kind > 0.8:
            continue
        length = end - begin
        mesh = hedge(length, height, rng) if kind < 0.5 else low_wall(length, height)
        x, y = park.place((begin + end) / 2, -0.45)
        parts.append(mesh.moved(x, y, 0.0, park.yaw))
    for row in park.bays()[1::2]:
        # Every tenth bay of an inner row is a bed with a tree or a lamp.
        for x, y, out in row[4::10]:
            mesh = tree(float(rng.uniform(4.0, 6.0)), rng) if rng.random() < 0.6 else lamp_post(7.0)
            if occupancy.claim(resting(x, y, out, 0.0), (1.0, 0.9)):
                parts.append(mesh.moved(x, y, 0.0, out))
    return parts


class _Plots:
    """Which ground beside the roads is still free for buildings and boundaries."""

    def __init__(self, plan: RoadPlan) -> None:
        self._half_size = plan.surface.half_size
        self._taken = (plan.surface.cells[::4, ::4] != Material.GRASS).astype(np.uint8)

    def take(self, spot: tuple[float, float], turn: float, length: float, depth: tuple[float, float]) -> bool:
        """Mark a footprint as taken if all of it is free: `length` about the spot, `depth` from and to across it."""
        cos, sin = np.cos(turn), np.sin(turn)
        half, (near, far) = length / 2, depth
        local = np.array([[-half, near], [half, near], [half, far], [-half, far]])
        corners = local @ np.array([[cos, sin], [-sin, cos]]) + np.array(spot)
        cells = np.round((corners + self._half_size) / (4 * RESOLUTION)).astype(np.int32)
        (left, top), (right, bottom) = cells.min(axis=0), cells.max(axis=0) + 1
        if left < 0 or top < 0 or right > self._taken.shape[1] or bottom > self._taken.shape[0]:
            return False
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, cells - np.array([left, top], np.int32), (1,))
        window = self._taken[top:bottom, left:right]
        if (window & mask).any():
            return False
        window |= mask
        return True


def _buildings(plots: _Plots, path: Path, half: float, side: int, reach: float, rng: np.random.Generator) -> list[Mesh]:
    """A row of blocks behind the sidewalk, wherever the ground is still free."""
    parts = []
    place = -reach
    while place < reach:
        length, depth, height = (float(rng.uniform(*r)) for r in ((9.0, 24.0), (8.0, 14.0), (5.0, 20.0)))
        setback, extra = float(rng.uniform(0.6, 4.0)), float(rng.uniform(0.3, 6.0))
        turn = 0.0 if side > 0 else np.pi
        x, y, yaw = path.beside(place + length / 2, side * (half + SIDEWALK_WIDTH + setback), turn)
        if rng.random() < 0.8 and plots.take((x, y), yaw, length, (-0.3, depth)):
            parts.append(building(length, depth, height, rng).moved(x, y, 0.0, yaw))
        place += length + extra
    return parts


def _boundaries(
    plots: _Plots, path: Path, half: float, side: int, reach: float, rng: np.random.Generator
) -> list[Mesh]:
    """Walls, hedges and fences at the sidewalk's inner edge before what is not built on, some with trees behind."""
    parts = []
    for place in np.arange(-reach, reach, _BOUNDARY_STEP):
        turn = 0.0 if side > 0 else np.pi
        x, y, yaw = path.beside(float(place), side * (half + SIDEWALK_WIDTH + 0.6), turn)
        if rng.random() < 0.75 and plots.take((x, y), yaw, _BOUNDARY_STEP - 0.4, (-0.25, 0.25)):
            parts.append(boundary(_BOUNDARY_STEP, rng).moved(x, y, 0.0, yaw))
            behind = path.beside(float(place), side * (half + SIDEWALK_WIDTH + 3.0))
            if rng.random() < 0.4 and plots.take(behind[:2], yaw, 2.0, (-1.0, 1.0)):
                parts.append(tree(float(rng.uniform(4.0, 7.0)), rng).moved(*behind[:2], 0.0))
    return parts
