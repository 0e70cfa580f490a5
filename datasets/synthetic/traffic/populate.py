"""Fill a street around its traffic: work zones, cyclists, people on sidewalks, crossings and in car parks."""

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.scenery.bodies import draw_body
from datasets.synthetic.scenery.car_parks import CarPark
from datasets.synthetic.scenery.paths import Path, straight_line
from datasets.synthetic.scenery.roads import CORNER, CURB_HEIGHT, SIDEWALK_WIDTH, RoadPlan
from datasets.synthetic.traffic.motion import along, resting
from datasets.synthetic.traffic.users import Street

Times = Float64[Array, "K"]


def work_zone(street: Street, plan: RoadPlan, begin: float, side: int, rng: np.random.Generator) -> None:
    """A stretch of the parking lane fenced off: cones and barriers around it, machines and workers inside."""
    count = int(rng.integers(5, 11))
    for step in range(3):
        for offset, place in (
            (2.5 - 0.7 * step, begin - 5.0 + 1.3 * step),
            (0.3 + 0.7 * step, begin + 2.7 * count + 1.3 * step),
        ):
            x, y, yaw = plan.main.beside(place, side * (plan.edge + offset))
            street.add(draw_body("traffic_cone", rng), resting(x, y, yaw, 0.0))
    for step in range(count):
        turn = np.pi / 2 + float(rng.normal(0.0, 0.04))
        x, y, yaw = plan.main.beside(begin + 1.3 + 2.7 * step, side * (plan.edge + 0.35), turn)
        street.add(draw_body("barrier", rng), resting(x, y, yaw, 0.0), margin=0.0)
    for step in range(int(rng.integers(1, 4))):
        turn = (0.0 if side < 0 else np.pi) + float(rng.normal(0.0, 0.05))
        x, y, yaw = plan.main.beside(begin + 5.0 + 9.0 * step, side * (plan.edge + 2.15), turn)
        street.add(draw_body("construction_vehicle", rng), resting(x, y, yaw, 0.0), margin=0.02)
    for _ in range(int(rng.integers(2, 5))):
        place = begin + float(rng.uniform(0.0, 2.7 * count))
        x, y, yaw = plan.main.beside(
            place, side * (plan.edge + float(rng.uniform(0.9, 2.7))), float(rng.uniform(-3, 3))
        )
        worker = rng.random() < 0.5
        body = draw_body("pedestrian", rng, person="construction_worker") if worker else draw_body("traffic_cone", rng)
        street.add(body, resting(x, y, yaw, 0.0))


def cyclists(street: Street, plan: RoadPlan, near: tuple[float, float], times: Times, rng: np.random.Generator) -> None:
    """People on bicycles at the right edge of the carriageway, around where the ego vehicle comes through."""
    offset = plan.edge + 0.1
    for _ in range(int(rng.integers(3, 8))):
        speed = float(rng.uniform(3.0, 6.0))
        start = float(rng.uniform(near[0] - 15.0, near[1] + 15.0)) - speed * float(times[-1]) / 2
        if rng.random() < 0.5:
            track = along(plan.main.shifted(-offset), start, times, speed)
        else:
            track = along(plan.main.shifted(offset).reversed(), -start - speed * float(times[-1]), times, speed)
        street.add(draw_body("bicycle", rng, "ridden"), track, parked=False, margin=0.05)


def sidewalk_people(
    street: Street, plan: RoadPlan, near: tuple[float, float], times: Times, rng: np.random.Generator
) -> None:
    """People who walk along the sidewalks or stand there, alone or in groups.

    `near` is the stretch of the main road that the ego vehicle comes through; that is where most of them are.
    """
    for path, half, other_half, count, (low, high) in (
        (plan.main, plan.main_half_width, plan.cross_half_width, rng.uniform(16.0, 40.0), near),
        (plan.cross, plan.cross_half_width, plan.main_half_width, rng.uniform(2.0, 6.0), (-45.0, 45.0)),
    ):
        gap = other_half + CORNER + 0.5
        for _ in range(int(count)):
            side, place = int(rng.choice([-1, 1])), float(rng.uniform(low - 10.0, high + 10.0))
            offset = side * (half + float(rng.uniform(0.7, SIDEWALK_WIDTH - 0.6)))
            standing, onward = rng.random() < 0.3, rng.random() < 0.5
            speed = float(rng.uniform(0.8, 1.8))
            for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.55, 0.3, 0.1, 0.05]))):
                if standing:
                    _stand(street, path, place, offset, gap, rng)
                else:
                    _walk(street, path, (place, offset, speed if onward else -speed), gap, times, rng)
                place += float(rng.uniform(-1.0, 1.0))
                inside = offset + float(rng.choice([-0.8, 0.8]))
                offset = side * float(np.clip(abs(inside), half + 0.6, half + SIDEWALK_WIDTH - 0.5))


def _stand(street: Street, path: Path, place: float, offset: float, gap: float, rng: np.random.Generator) -> None:
    if abs(place) > gap:
        x, y, yaw = path.beside(place, offset, float(rng.uniform(-np.pi, np.pi)))
        street.add(draw_body("pedestrian", rng), resting(x, y, yaw, CURB_HEIGHT))


def _walk(
    street: Street,
    path: Path,
    start: tuple[float, float, float],
    gap: float,
    times: Times,
    rng: np.random.Generator,
) -> None:
    """One who walks from `start` (place, offset, speed along the path), unless that leads off the raised sidewalk."""
    place, offset, speed = start
    ends = place + speed * times[[0, -1]]
    if ends[0] * ends[1] > 0 and np.abs(ends).min() > gap:
        way = path.shifted(offset)
        way, place = (way, place) if speed > 0 else (way.reversed(), -place)
        track = along(way, place, times, abs(speed), CURB_HEIGHT)
        street.add(draw_body("pedestrian", rng, "walking"), track, parked=False)


def crossing_people(street: Street, plan: RoadPlan, times: Times, rng: np.random.Generator) -> None:
    """People on the zebra crossings; where traffic flows they find no room and stay away."""
    for path, half, other_half in (
        (plan.main, plan.main_half_width, plan.cross_half_width),
        (plan.cross, plan.cross_half_width, plan.main_half_width),
    ):
        for _ in range(int(rng.integers(4, 10))):
            place = float(rng.choice([-1, 1])) * (other_half + float(rng.uniform(1.5, 3.5)))
            way = 1 if rng.random() < 0.5 else -1
            x, y, yaw = path.beside(place, -way * (half + 1.0), way * np.pi / 2)
            speed, start = float(rng.uniform(0.9, 1.6)), float(rng.uniform(-6.0, 2 * half))
            track = along(straight_line(x, y, yaw), start, times, speed)
            street.add(draw_body("pedestrian", rng, "walking"), track, parked=False, margin=0.4)


def car_park_people(street: Street, park: CarPark, times: Times, rng: np.random.Generator) -> None:
    """People in the lanes between parked rows, on their way along them or standing."""
    for row in park.bays()[:2]:
        for _ in range(int(rng.integers(0, 4))):
            x, y, out = row[int(rng.integers(len(row)))]
            away = float(rng.uniform(3.4, 7.5))
            x, y = x + away * np.cos(out), y + away * np.sin(out)
            if rng.random() < 0.4:
                street.add(draw_body("pedestrian", rng), resting(x, y, float(rng.uniform(-3, 3)), 0.0))
                continue
            line = straight_line(x, y, park.yaw + (0.0 if rng.random() < 0.5 else np.pi))
            track = along(line, -0.5 * float(times[-1]), times, float(rng.uniform(0.8, 1.6)))
            street.add(draw_body("pedestrian", rng, "walking"), track, parked=False)
