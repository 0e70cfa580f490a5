"""Fill a street: queues and flowing lanes, parked vehicles, a work zone, cyclists, people."""

import numpy as np
from jaxtyping import Float64

from datasets.synthetic.arrays import Array
from datasets.synthetic.bodies import Kind, draw_body
from datasets.synthetic.motion import along, resting, travel
from datasets.synthetic.paths import Path
from datasets.synthetic.roads import CORNER, CURB_HEIGHT, LANE_WIDTH, SIDEWALK_WIDTH, RoadPlan
from datasets.synthetic.traffic import Street, draw_vehicle_kind

Times = Float64[Array, "K"]


def flowing_lane(
    street: Street, lane: Path, span: tuple[float, float], times: Times, travelled: Times, rng: np.random.Generator
) -> None:
    """Vehicles that all travel the same way along a lane; those that stand now have stopped in traffic."""
    place = span[0] + float(rng.uniform(0.0, 15.0))
    while place < span[1]:
        kind = draw_vehicle_kind(rng)
        body = draw_body(kind, rng, rider=True)
        length = body.size_wlh[1]
        street.add(body, along(lane, place + length / 2, times, travelled), parked=False)
        if kind == "truck" and rng.random() < 0.6:
            towed = draw_body("trailer", rng)
            place -= towed.size_wlh[1] + 0.7
            behind = along(lane, place + towed.size_wlh[1] / 2, times, travelled)
            street.add(towed, behind, parked=False, margin=0.05)
            place += towed.size_wlh[1] + 0.7
        place += length + 6.0 + float(rng.exponential(13.0))


def waiting_queue(street: Street, lane: Path, stop_line: float, times: Times, rng: np.random.Generator) -> None:
    """Vehicles that wait at a stop line, one behind the other."""
    front = stop_line - float(rng.uniform(0.3, 1.2))
    for _ in range(int(rng.integers(1, 5))):
        body = draw_body(draw_vehicle_kind(rng), rng, rider=True)
        length = body.size_wlh[1]
        x, y, yaw = lane.at(np.array([front - length / 2]))[0]
        street.add(body, resting(float(x), float(y), float(yaw), 0.0), parked=False)
        front -= length + float(rng.uniform(1.2, 3.0))


def _beside(path: Path, distance: float, left: float, turn: float = 0.0) -> tuple[float, float, float]:
    x, y, yaw = (float(v) for v in path.at(np.array([distance]))[0])
    return x - left * np.sin(yaw), y + left * np.cos(yaw), yaw + turn


def work_zone(street: Street, plan: RoadPlan, begin: float, side: int, rng: np.random.Generator) -> None:
    """A stretch of the parking lane fenced off: cones to lead around it, barriers along it, machines inside."""
    edge, count = plan.lanes * LANE_WIDTH, int(rng.integers(4, 9))
    for step in range(3):
        for offset, place in (
            (2.5 - 0.7 * step, begin - 5.0 + 1.3 * step),
            (0.3 + 0.7 * step, begin + 2.7 * count + 1.3 * step),
        ):
            x, y, yaw = _beside(plan.main, place, side * (edge + offset))
            street.add(draw_body("traffic_cone", rng), resting(x, y, yaw, 0.0))
    for step in range(count):
        turn = np.pi / 2 + float(rng.normal(0.0, 0.04))
        x, y, yaw = _beside(plan.main, begin + 1.3 + 2.7 * step, side * (edge + 0.35), turn)
        street.add(draw_body("barrier", rng), resting(x, y, yaw, 0.0), margin=0.0)
    for step in range(int(rng.integers(1, 3))):
        turn = (0.0 if side < 0 else np.pi) + float(rng.normal(0.0, 0.05))
        x, y, yaw = _beside(plan.main, begin + 6.0 + 9.0 * step, side * (edge + 2.15), turn)
        street.add(draw_body("construction_vehicle", rng), resting(x, y, yaw, 0.0), margin=0.02)
    for _ in range(int(rng.integers(1, 4))):
        place = begin + float(rng.uniform(0.0, 2.7 * count))
        x, y, yaw = _beside(plan.main, place, side * (edge + float(rng.uniform(0.9, 2.7))), float(rng.uniform(-3, 3)))
        street.add(draw_body("traffic_cone" if rng.random() < 0.6 else "pedestrian", rng), resting(x, y, yaw, 0.0))


def parked_row(street: Street, plan: RoadPlan, side: int, reach: float, rng: np.random.Generator) -> None:
    """Vehicles in the parking lane of one side, with gaps."""
    middle, gap = plan.lanes * LANE_WIDTH + 1.6, plan.cross_half_width + CORNER + 1.0
    place = -reach
    while place < reach:
        if rng.random() < 0.36 and abs(place) > gap + 6.0:
            draw = rng.random()
            kind: Kind = "car" if draw < 0.74 else "truck" if draw < 0.84 else "trailer" if draw < 0.94 else "bus"
            body = draw_body(kind, rng)
            turn = (0.0 if side < 0 else np.pi) + float(rng.normal(0.0, 0.02))
            place += body.size_wlh[1] / 2
            x, y, yaw = _beside(plan.main, place, side * (middle + float(rng.normal(0.0, 0.07))), turn)
            if abs(place) - body.size_wlh[1] / 2 > gap:
                street.add(body, resting(x, y, yaw, 0.0))
            place += body.size_wlh[1] / 2 + 0.8
        place += float(rng.uniform(0.5, 6.0))


def stabled_cycles(street: Street, plan: RoadPlan, reach: float, rng: np.random.Generator) -> None:
    """Groups of motorcycles at the curb and of bicycles along the walls, without riders."""
    gap = plan.cross_half_width + CORNER + 2.0
    for group in range(int(rng.integers(4, 7))):
        kind: Kind = "motorcycle" if group % 2 else "bicycle"
        place, side = float(rng.uniform(gap, 0.75 * reach)) * rng.choice([-1, 1]), int(rng.choice([-1, 1]))
        left = side * (plan.main_half_width + (1.4 if group % 2 else SIDEWALK_WIDTH - 1.0))
        for step in range(int(rng.integers(1, 4))):
            turn = side * np.pi / 2 + float(rng.normal(0.0, 0.15))
            x, y, yaw = _beside(plan.main, place + 1.3 * step, left, turn)
            if abs(place + 1.3 * step) > gap:
                street.add(draw_body(kind, rng), resting(x, y, yaw, CURB_HEIGHT))


def cyclists(street: Street, plan: RoadPlan, reach: float, times: Times, rng: np.random.Generator) -> None:
    """People on bicycles at the right edge of the carriageway."""
    offset = plan.lanes * LANE_WIDTH + 0.1
    for _ in range(int(rng.integers(3, 7))):
        forward = rng.random() < 0.5
        path = plan.main.shifted(-offset) if forward else plan.main.shifted(offset).reversed()
        travelled = travel(times, np.full(len(times), float(rng.uniform(3.0, 6.0))))
        start = float(rng.uniform(-0.9 * reach, 0.6 * reach))
        street.add(
            draw_body("bicycle", rng, rider=True), along(path, start, times, travelled), parked=False, margin=0.05
        )


def sidewalk_people(street: Street, plan: RoadPlan, reach: float, times: Times, rng: np.random.Generator) -> None:
    """People who walk along the sidewalks or stand there."""
    for path, half, other_half, near in (
        (plan.main, plan.main_half_width, plan.cross_half_width, reach),
        (plan.cross, plan.cross_half_width, plan.main_half_width, 0.5 * reach),
    ):
        gap = other_half + CORNER + 0.5
        for _ in range(int(near * rng.uniform(0.08, 0.24))):
            side, beyond = int(rng.choice([-1, 1])), int(rng.choice([-1, 1]))
            offset = side * (half + float(rng.uniform(0.7, SIDEWALK_WIDTH - 0.6)))
            place = beyond * float(rng.uniform(gap, near))
            if rng.random() < 0.3:
                x, y, yaw = _beside(path, place, offset, float(rng.uniform(-np.pi, np.pi)))
                street.add(draw_body("pedestrian", rng), resting(x, y, yaw, CURB_HEIGHT))
                continue
            way = path.shifted(offset) if rng.random() < 0.5 else path.shifted(offset).reversed()
            start = place if way.yaws[0] == path.yaws[0] else -place
            travelled = travel(times, np.full(len(times), float(rng.uniform(0.8, 1.8))))
            ends = start + travelled[[0, -1]]
            if ends[0] * ends[1] > 0 and np.abs(ends).min() > gap:
                body = draw_body("pedestrian", rng, walking=True)
                street.add(body, along(way, start, times, travelled, CURB_HEIGHT), parked=False)


def crossing_people(street: Street, plan: RoadPlan, times: Times, rng: np.random.Generator) -> None:
    """People on the zebra crossings; where traffic flows they find no room and stay away."""
    for path, half, other_half in (
        (plan.main, plan.main_half_width, plan.cross_half_width),
        (plan.cross, plan.cross_half_width, plan.main_half_width),
    ):
        for _ in range(int(rng.integers(3, 8))):
            place = float(rng.choice([-1, 1])) * (other_half + float(rng.uniform(1.5, 3.5)))
            way = 1 if rng.random() < 0.5 else -1
            x, y, yaw = _beside(path, place, -way * (half + 1.0), way * np.pi / 2)
            travelled = travel(times, np.full(len(times), float(rng.uniform(0.9, 1.6))))
            start = float(rng.uniform(-3.0, 2 * half))
            straight = Path(
                np.array([[x, y], [x + np.cos(yaw), y + np.sin(yaw)]]), np.full(2, yaw), np.array([0.0, 1.0])
            )
            body = draw_body("pedestrian", rng, walking=True)
            street.add(body, along(straight, start, times, travelled), parked=False, margin=0.4)
