"""Vehicles that stand for good: rows at the curb, car parks, cycles on the sidewalk."""

import numpy as np

from datasets.synthetic.scenery.bodies import Kind, draw_body
from datasets.synthetic.scenery.car_parks import BAY_WIDTH, CarPark
from datasets.synthetic.scenery.roads import CORNER, CURB_HEIGHT, SIDEWALK_WIDTH, RoadPlan
from datasets.synthetic.traffic.motion import resting
from datasets.synthetic.traffic.users import Street


def parked_row(street: Street, plan: RoadPlan, side: int, span: tuple[float, float], rng: np.random.Generator) -> None:
    """Vehicles in the parking lane of one side, along the road or in bays across it, with a gap now and then."""
    gap = plan.cross_half_width + CORNER + 1.0
    taken = float(rng.uniform(0.2, 0.9))
    place = span[0]
    while place < span[1]:
        if rng.random() > taken or abs(place) < gap:
            place += BAY_WIDTH if plan.has_bays else 5.5
            continue
        draw = rng.random()
        kind: Kind = "car" if draw < 0.86 else "truck" if draw < 0.92 else "trailer" if draw < 0.96 else "bus"
        if plan.has_bays:
            place += _park_across(street, plan, place, side, rng)
            continue
        body = draw_body(kind, rng)
        turn = (0.0 if side < 0 else np.pi) + float(rng.normal(0.0, 0.02))
        place += body.size_wlh[1] / 2
        x, y, yaw = plan.main.beside(place, side * (plan.edge + 1.6 + float(rng.normal(0.0, 0.07))), turn)
        if abs(place) - body.size_wlh[1] / 2 > gap:
            street.add(body, resting(x, y, yaw, 0.0))
        place += body.size_wlh[1] / 2 + float(rng.uniform(0.6, 1.8))


def _park_across(street: Street, plan: RoadPlan, place: float, side: int, rng: np.random.Generator) -> float:
    """A car in a bay at a right angle to the road, as near to the curb as it gets; returns the bay's width."""
    body = draw_body("car", rng)
    turn = (np.pi / 2 if rng.random() < 0.8 else -np.pi / 2) * side + float(rng.normal(0.0, 0.02))
    left = side * (plan.main_half_width - body.size_wlh[1] / 2 - float(rng.uniform(0.2, 0.4)))
    x, y, yaw = plan.main.beside(place + BAY_WIDTH / 2, left, turn)
    street.add(body, resting(x, y, yaw, 0.0))
    return BAY_WIDTH


def fill_car_park(street: Street, park: CarPark, rng: np.random.Generator) -> None:
    """Vehicles in most bays, nose in or out; two or three motorcycles share a bay now and then."""
    taken = float(rng.uniform(0.6, 0.95))
    for row in park.bays():
        for x, y, out in row:
            if rng.random() > taken:
                continue
            heading = out + (np.pi if rng.random() < 0.6 else 0.0) + float(rng.normal(0.0, 0.02))
            draw = rng.random()
            if draw < 0.05:
                for step in (-0.8, 0.0, 0.8):
                    spot = (x - step * np.sin(out), y + step * np.cos(out))
                    street.add(draw_body("motorcycle", rng), resting(*spot, heading, 0.0), margin=0.02)
                continue
            along, across = rng.normal(0.0, 0.25), rng.normal(0.0, 0.08)
            x += along * np.cos(out) - across * np.sin(out)
            y += along * np.sin(out) + across * np.cos(out)
            street.add(draw_body("car" if draw < 0.97 else "truck", rng), resting(x, y, heading, 0.0))


def stabled_cycles(street: Street, plan: RoadPlan, near: tuple[float, float], rng: np.random.Generator) -> None:
    """Groups of motorcycles at the curb and of bicycles along the walls, without riders."""
    gap = plan.cross_half_width + CORNER + 2.0
    for group in range(int(rng.integers(3, 6))):
        kind: Kind = "motorcycle" if group % 2 else "bicycle"
        place, side = float(rng.uniform(near[0] - 15.0, near[1] + 15.0)), int(rng.choice([-1, 1]))
        left = side * (plan.main_half_width + (1.4 if group % 2 else SIDEWALK_WIDTH - 1.0))
        for step in range(int(rng.integers(1, 4))):
            turn = side * np.pi / 2 + float(rng.normal(0.0, 0.15))
            x, y, yaw = plan.main.beside(place + 1.3 * step, left, turn)
            if abs(place + 1.3 * step) > gap:
                street.add(draw_body(kind, rng), resting(x, y, yaw, CURB_HEIGHT))
