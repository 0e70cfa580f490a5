"""What stands beside the road and is not annotated: sidewalks, buildings, trees, lamps, signs, signals."""

import cv2
import numpy as np
from jaxtyping import UInt8

from datasets.synthetic.arrays import Array
from datasets.synthetic.furniture import building, lamp_post, sign, traffic_light, tree
from datasets.synthetic.materials import Material
from datasets.synthetic.meshes import Mesh, combined
from datasets.synthetic.motion import resting
from datasets.synthetic.paths import Path
from datasets.synthetic.roads import CORNER, CURB_HEIGHT, RESOLUTION, SIDEWALK_WIDTH, RoadPlan, sidewalks
from datasets.synthetic.traffic import Occupancy


def background_mesh(plan: RoadPlan, occupancy: Occupancy, reach: float, rng: np.random.Generator) -> Mesh:
    """The ground and everything that stands on it for good; posts and trunks take their ground in `occupancy`."""
    parts = [_ground(), sidewalks(plan, reach)]
    parts += _buildings(plan, reach, rng)
    roads = (
        (plan.main, plan.main_half_width, plan.cross_half_width),
        (plan.cross, plan.cross_half_width, plan.main_half_width),
    )
    for path, half, other_half in roads:
        for side in (-1, 1):
            parts += _street_side(path, half, other_half + CORNER + 1.0, side, occupancy, reach, rng)
            parts.append(_signal(path, half, other_half, side))
    return combined(parts)


def _ground() -> Mesh:
    far = 400.0
    corners = np.array([[-far, -far, 0.0], [far, -far, 0.0], [far, far, 0.0], [-far, far, 0.0]], np.float32)
    materials = np.full(2, int(Material.GROUND), np.int32)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32), materials)


def _signal(path: Path, half: float, other_half: float, side: int) -> Mesh:
    x, y, yaw = (float(v) for v in path.at(np.array([-side * (other_half + 4.5)]))[0])
    left = -side * (half + 0.8)
    facing = 0.0 if side > 0 else np.pi
    return traffic_light(3.6).moved(x - left * np.sin(yaw), y + left * np.cos(yaw), 0.0, yaw + facing)


def _street_side(
    path: Path, half: float, gap: float, side: int, occupancy: Occupancy, reach: float, rng: np.random.Generator
) -> list[Mesh]:
    """Trees, lamps and signs along the curb of one side."""
    parts = []
    place = -reach + float(rng.uniform(0.0, 10.0))
    step = 0
    while place < reach:
        if abs(place) > gap:
            x, y, yaw = (float(v) for v in path.at(np.array([place]))[0])
            left = side * (half + 0.75)
            spot = (x - left * np.sin(yaw), y + left * np.cos(yaw))
            draw = rng.random()
            if step % 3 == 0:
                mesh, turn = lamp_post(float(rng.uniform(6.5, 8.0))), yaw - side * np.pi / 2
            elif draw < 0.75:
                mesh, turn = tree(float(rng.uniform(4.5, 7.5)), rng), float(rng.uniform(-np.pi, np.pi))
            else:
                mesh, turn = sign(float(rng.uniform(2.3, 2.8))), yaw if side < 0 else yaw + np.pi
            if occupancy.claim(resting(*spot, yaw, 0.0), (0.25, 0.25)):
                parts.append(mesh.moved(*spot, CURB_HEIGHT, turn))
            step += 1
        place += float(rng.uniform(7.0, 14.0))
    return parts


def _buildings(plan: RoadPlan, reach: float, rng: np.random.Generator) -> list[Mesh]:
    """Rows of blocks behind the sidewalks, wherever the ground is still grass."""
    size = plan.surface.half_size
    taken = (plan.surface.cells[::4, ::4] != Material.GRASS).astype(np.uint8)
    parts = []
    for path, half in ((plan.main, plan.main_half_width), (plan.cross, plan.cross_half_width)):
        for side in (-1, 1):
            place = -reach
            while place < reach:
                length, depth, height = (float(rng.uniform(*r)) for r in ((9.0, 24.0), (8.0, 14.0), (5.0, 20.0)))
                setback, extra = float(rng.uniform(0.6, 4.0)), float(rng.uniform(0.3, 6.0))
                x, y, yaw = (float(v) for v in path.at(np.array([place + length / 2]))[0])
                left = side * (half + SIDEWALK_WIDTH + setback)
                turn = yaw if side > 0 else yaw + np.pi
                spot = (x - left * np.sin(yaw), y + left * np.cos(yaw))
                if rng.random() < 0.85 and _take(taken, size, spot, turn, length, depth):
                    parts.append(building(length, depth, height, rng).moved(*spot, 0.0, turn))
                place += length + extra
    return parts


def _take(
    taken: UInt8[Array, "Y X"],
    half_size: float,
    spot: tuple[float, float],
    turn: float,
    length: float,
    depth: float,
) -> bool:
    """Mark a building's footprint as taken if all of it is free."""
    cos, sin = np.cos(turn), np.sin(turn)
    local = np.array([[-length / 2, -0.3], [length / 2, -0.3], [length / 2, depth], [-length / 2, depth]])
    corners = local @ np.array([[cos, sin], [-sin, cos]]) + np.array(spot)
    cells = np.round((corners + half_size) / (4 * RESOLUTION)).astype(np.int32)
    if cells.min() < 0 or cells.max() >= min(taken.shape):
        return False
    mask = np.zeros_like(taken)
    cv2.fillConvexPoly(mask, cells, (1,))
    if (taken & mask).any():
        return False
    taken |= mask
    return True
