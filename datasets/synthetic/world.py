"""A scene's world: the roads, what stands on them, who moves, and how the ego vehicle drives through."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64

from datasets.synthetic import populate
from datasets.synthetic.arrays import Array
from datasets.synthetic.background import background_mesh
from datasets.synthetic.conditions import Conditions, draw_conditions
from datasets.synthetic.config import WorldConfig
from datasets.synthetic.meshes import Mesh
from datasets.synthetic.motion import Drive, Track, clock, drive_along, speed_plan, travel
from datasets.synthetic.paths import Path, from_segments
from datasets.synthetic.roads import LANE_WIDTH, RoadPlan, plan_roads
from datasets.synthetic.traffic import EGO_CENTRE, EGO_HALF, RoadUser, Street

MANOEUVRES = ("straight", "curve", "turn right", "turn left", "stop and go")
_TURN_RADIUS = {"turn right": 8.0, "turn left": 11.0}


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


@lru_cache(maxsize=2)
def build_world(config: WorldConfig, index: int) -> World:
    """The world of scene number `index`."""
    rng = np.random.default_rng([config.seed, index, 1])
    manoeuvre = MANOEUVRES[(index + int(rng.integers(2)) * 2) % len(MANOEUVRES)]
    times, half = clock(config.duration), half_size(config)
    curvature = float(rng.choice([-1, 1]) / rng.uniform(150.0, 260.0)) if manoeuvre == "curve" else 0.0
    plan = plan_roads(
        half, curvature, int(rng.integers(1, 3)), float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(-0.12, 0.12))
    )
    drive = _plan_drive(plan, manoeuvre, times, config.duration, rng)
    street = Street(config.duration)
    _claim_for_ego(street, drive)
    reach = half - 45.0
    background = background_mesh(plan, street.occupancy, half - 10.0, rng)
    _populate(street, plan, manoeuvre, drive, reach, rng)
    conditions = draw_conditions(config.condition(index), rng)
    description = _describe(conditions, manoeuvre, street.users)
    return World(plan, tuple(street.users), background, drive, conditions, description)


def _describe(conditions: Conditions, manoeuvre: str, users: list[RoadUser]) -> str:
    """As nuScenes describes scenes; its users look for "night" and "rain" in there."""
    counts = {
        kind: sum(user.body.kind == kind for user in users) for kind in ("bus", "pedestrian", "barrier", "trailer")
    }
    named = {"bus": "bus", "pedestrian": "peds", "barrier": "construction", "trailer": "trailer"}
    words: list[str] = [] if conditions.name == "day" else [conditions.name]
    words += [manoeuvre, *(named[kind] for kind, count in counts.items() if count), "synthetic"]
    return ", ".join(words).capitalize()


def _claim_for_ego(street: Street, drive: Drive) -> None:
    poses = drive.track.poses.copy()
    poses[:, 0] += EGO_CENTRE * np.cos(poses[:, 2])
    poses[:, 1] += EGO_CENTRE * np.sin(poses[:, 2])
    street.occupancy.claim(Track(drive.track.times, poses, 0.0), (EGO_HALF[0] + 1.2, EGO_HALF[1] + 0.3))


def _plan_drive(
    plan: RoadPlan, manoeuvre: str, times: Float64[Array, "K"], duration: float, rng: np.random.Generator
) -> Drive:
    cruise = float(rng.uniform(7.0, 11.0))
    if manoeuvre == "stop and go":
        marks = [
            (0.0, 0.75 * cruise),
            (0.35 * duration, 0.0),
            (0.6 * duration, 0.0),
            (max(duration, 1.0), 0.5 * cruise),
        ]
    elif manoeuvre.startswith("turn"):
        marks = [
            (0.0, 0.8 * cruise),
            (0.35 * duration, 4.2),
            (0.65 * duration, 4.2),
            (max(duration, 1.0), 0.8 * cruise),
        ]
    else:
        marks = [(0.0, cruise), (0.5 * duration, cruise * float(rng.uniform(0.8, 1.1))), (max(duration, 1.0), cruise)]
    speeds = speed_plan(times, marks, smoothing=1.5)
    gone = travel(times, speeds)
    total, half_way = float(np.interp(duration, times, gone)), float(np.interp(0.4 * duration, times, gone))
    lane_index = 0 if manoeuvre == "turn left" else plan.lanes - 1
    lane = plan.lane(True, lane_index)
    if manoeuvre.startswith("turn"):
        return drive_along(_turning_path(plan, lane, manoeuvre, half_way), 0.0, times, speeds, rng)
    if manoeuvre == "stop and go":
        start = -total - plan.cross_half_width - 9.0
    else:
        start = -total * float(rng.uniform(0.3, 0.8))
    return drive_along(lane, start, times, speeds, rng)


def _turning_path(plan: RoadPlan, lane: Path, manoeuvre: str, before: float) -> Path:
    """From a straight lane around the junction's corner; the arc begins `before` metres after the path's zero."""
    target = plan.cross_lane(manoeuvre == "turn left")
    (x0, y0, yaw0), (x1, y1, yaw1) = lane.at(np.zeros(1))[0], target.at(np.zeros(1))[0]
    into, out = np.array([np.cos(yaw0), np.sin(yaw0)]), np.array([np.cos(yaw1), np.sin(yaw1)])
    ahead = np.linalg.solve(np.stack([into, -out], axis=1), np.array([x1 - x0, y1 - y0]))[0]
    turn = float((yaw1 - yaw0 + np.pi) % (2 * np.pi) - np.pi)
    radius = _TURN_RADIUS[manoeuvre]
    begin = float(ahead) - radius * np.tan(abs(turn) / 2) - before
    segments = [(max(before, 0.5), 0.0), (radius * abs(turn), float(np.sign(turn)) / radius), (150.0, 0.0)]
    start = np.array([x0, y0]) + begin * into
    return from_segments(float(start[0]), float(start[1]), float(yaw0), segments)


def _populate(
    street: Street, plan: RoadPlan, manoeuvre: str, drive: Drive, reach: float, rng: np.random.Generator
) -> None:
    times = drive.track.times
    with_ego = travel(times, drive.speeds)
    main_flows = manoeuvre != "stop and go"
    for side in (-1, 1):
        populate.work_zone(street, plan, _place_near(plan, drive, rng), side, rng)
        populate.parked_row(street, plan, side, reach, rng)
    steady = [travel(times, np.full(len(times), float(rng.uniform(6.0, 11.0)))) for _ in range(6)]
    for forward in (True, False):
        for index in range(plan.lanes):
            lane, flow = plan.lane(forward, index), steady[2 * index + int(forward)]
            if forward and not manoeuvre.startswith("turn"):
                flow = with_ego
            _fill_lane(street, lane, main_flows or forward, plan.cross_half_width, reach, times, flow, rng)
    for forward in (True, False):
        flow = steady[4 + int(forward)]
        _fill_lane(
            street, plan.cross_lane(forward), not main_flows, plan.main_half_width, 0.7 * reach, times, flow, rng
        )
    populate.crossing_people(street, plan, times, rng)
    populate.cyclists(street, plan, reach, times, rng)
    populate.stabled_cycles(street, plan, reach, rng)
    populate.sidewalk_people(street, plan, 0.8 * reach, times, rng)


def _place_near(plan: RoadPlan, drive: Drive, rng: np.random.Generator) -> float:
    """A distance on the main road that the ego vehicle comes past, with room for a work zone before the junction."""
    here = drive.track.poses[int(rng.integers(len(drive.track.poses))), :2]
    nearest = plan.main.distances[np.argmin(np.linalg.norm(plan.main.points - here, axis=1))]
    place, room = float(nearest + rng.uniform(-20.0, 30.0)), plan.cross_half_width + 10.0
    return max(place, room) if place > 0 else min(place, -room - 30.0)


def _fill_lane(
    street: Street,
    lane: Path,
    green: bool,
    other_half_width: float,
    reach: float,
    times: Float64[Array, "K"],
    flow: Float64[Array, "K"],
    rng: np.random.Generator,
) -> None:
    """Traffic of one lane: through the junction on green; on red a queue before it and departing vehicles beyond."""
    if green:
        populate.flowing_lane(street, lane, (-reach, reach), times, flow, rng)
    else:
        populate.waiting_queue(street, lane, -(other_half_width + 5.5), times, rng)
        populate.flowing_lane(street, lane, (other_half_width + 2.5 * LANE_WIDTH, reach), times, flow, rng)
