"""A scene's world: the roads, what stands on them, who moves, and how the ego vehicle drives through."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.conditions import Conditions, draw_conditions
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.scenery.background import background_mesh
from datasets.synthetic.scenery.meshes import Mesh
from datasets.synthetic.scenery.roads import BAYS_WIDTH, PARKING_WIDTH, RoadLayout, RoadPlan, plan_roads
from datasets.synthetic.traffic import parking, populate
from datasets.synthetic.traffic.driving import drive_everyone, plan_ego
from datasets.synthetic.traffic.junction import LINE_BEFORE_CROSS, Manoeuvre, plan_junction
from datasets.synthetic.traffic.motion import LEAD, Drive, clock
from datasets.synthetic.traffic.users import RoadUser, Street

MANOEUVRES: tuple[Manoeuvre, ...] = ("straight", "curve", "turn right", "turn left", "stop and go", "u-turn")


@dataclass(frozen=True, eq=False)
class World:
    """Everything that the sensors of one scene can see."""

    plan: RoadPlan
    users: tuple[RoadUser, ...]
    background: Mesh
    drive: Drive
    conditions: Conditions
    description: str

    @property
    def global_offset(self) -> Float64[Array, "3"]:
        """`global` minus world coordinates, metres: the surface map's corner is global (0, 0)."""
        return np.array([self.plan.surface.half_size, self.plan.surface.half_size, 0.0])


def half_size(config: WorldConfig) -> float:
    """Half the side of the mapped square, metres: the longest drive, and the sensors' range around it."""
    return 130.0 + math.ceil(config.duration * 1.1) * 5.0


def manoeuvre_of(config: WorldConfig, index: int) -> Manoeuvre:
    """What the ego vehicle does in a scene: all manoeuvres in turn, each round in another order."""
    turn, number = divmod(index, len(MANOEUVRES))
    return MANOEUVRES[int(np.random.default_rng([config.seed, turn, 6]).permutation(len(MANOEUVRES))[number])]


@lru_cache(maxsize=2)
def build_world(config: WorldConfig, index: int) -> World:
    """The world of scene number `index`."""
    rng = np.random.default_rng([config.seed, index, 1])
    manoeuvre = manoeuvre_of(config, index)
    times, half = clock(config.duration), half_size(config)
    plan = plan_roads(_layout(manoeuvre, half, rng), rng)
    stop_line = -(plan.cross_half_width + LINE_BEFORE_CROSS)
    ego, crossing_time = plan_ego(manoeuvre, config.duration, LEAD, stop_line, rng)
    junction = plan_junction(plan, manoeuvre, crossing_time, config.duration, rng)
    reach = half - 45.0
    street, drive = drive_everyone(config.duration, junction, ego, times, reach, rng)
    background = background_mesh(plan, street.occupancy, half - 10.0, rng)
    _populate(street, plan, drive, reach, rng)
    conditions = draw_conditions(config.condition(index), rng)
    description = _describe(conditions, manoeuvre, street.users)
    return World(plan, tuple(street.users), background, drive, conditions, description)


def _layout(manoeuvre: Manoeuvre, half: float, rng: np.random.Generator) -> RoadLayout:
    curvature = float(rng.choice([-1, 1]) / rng.uniform(130.0, 240.0)) if manoeuvre == "curve" else 0.0
    yaw, skew = float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(-0.12, 0.12))
    lanes, median = int(rng.integers(1, 3)), float(rng.uniform(2.0, 3.5)) if rng.random() < 0.3 else 0.0
    if manoeuvre == "u-turn":
        # A car needs this much room to turn around.
        lanes, median = 2, float(rng.uniform(2.5, 4.0))
    parking = BAYS_WIDTH if rng.random() < 0.4 else PARKING_WIDTH
    return RoadLayout(half, yaw, skew, curvature, lanes, median if lanes == 2 else 0.0, parking)


def _describe(conditions: Conditions, manoeuvre: str, users: list[RoadUser]) -> str:
    """As nuScenes describes scenes; its users look for "night" and "rain" in there."""
    counts = {
        kind: sum(user.body.kind == kind for user in users) for kind in ("bus", "pedestrian", "barrier", "trailer")
    }
    named = {"bus": "bus", "pedestrian": "peds", "barrier": "construction", "trailer": "trailer"}
    words: list[str] = [] if conditions.name == "day" else [conditions.name]
    words += [manoeuvre, *(named[kind] for kind, count in counts.items() if count), "synthetic"]
    return ", ".join(words).capitalize()


def _populate(street: Street, plan: RoadPlan, drive: Drive, reach: float, rng: np.random.Generator) -> None:
    """All that stands at the road and goes along it, after those who drive have taken their ground."""
    times = drive.track.times
    ends = [_along_main(plan, drive.track.poses[i, :2]) for i in (0, -1)]
    near = (min(ends), max(ends))
    for side in rng.permutation([-1, 1])[: 2 if rng.random() < 0.4 else 1]:
        populate.work_zone(street, plan, _place_near(plan, drive, rng), int(side), rng)
    populate.cyclists(street, plan, near, times, rng)
    for side in (-1, 1):
        parking.parked_row(street, plan, side, (near[0] - 18.0, near[1] + 18.0), rng)
    for park in plan.car_parks:
        parking.fill_car_park(street, park, rng)
        populate.car_park_people(street, park, times, rng)
    populate.crossing_people(street, plan, times, rng)
    parking.stabled_cycles(street, plan, near, rng)
    populate.sidewalk_people(street, plan, near, times, rng)


def _along_main(plan: RoadPlan, place: Float64[Array, "2"]) -> float:
    """How far along the main road a place is."""
    return float(plan.main.distances[np.argmin(np.linalg.norm(plan.main.points - place, axis=1))])


def _place_near(plan: RoadPlan, drive: Drive, rng: np.random.Generator) -> float:
    """A distance on the main road that the ego vehicle comes past, with room for a work zone before the junction."""
    nearest = _along_main(plan, drive.track.poses[int(rng.integers(len(drive.track.poses))), :2])
    place, room = float(nearest + rng.uniform(-20.0, 30.0)), plan.cross_half_width + 10.0
    return max(place, room) if place > 0 else min(place, -room - 30.0)
