"""Everyone who drives, the ego vehicle among them: placed on lanes, then driven along by the car-following model."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.scenery.bodies import Body, Kind, draw_body
from datasets.synthetic.traffic.following import STANDSTILL_GAP, Driver, follow
from datasets.synthetic.traffic.junction import Junction, Manoeuvre
from datasets.synthetic.traffic.motion import Drive, drive_along, placed
from datasets.synthetic.traffic.routes import Lane, Route
from datasets.synthetic.traffic.users import EGO_CENTRE, EGO_HALF, Street

# The ego vehicle's bumpers before and behind its rear axle, which follows its route.
_EGO_FRONT, _EGO_REAR = EGO_CENTRE + EGO_HALF[0], EGO_HALF[0] - EGO_CENTRE
_SPEEDS, _EGO_SPEEDS = (6.5, 11.0), (5.5, 9.5)
_GENTLE = 1.5  # Braking (m/s^2) that initial speeds leave room for.
_HITCH_GAP, _TOWED_SHARE = 0.7, 0.65
_PASSES = 8
_TURN_SHARE = 0.5
_KINDS: tuple[Kind, ...] = ("car", "truck", "bus", "motorcycle")
_SHARES = (0.76, 0.11, 0.07, 0.06)


@dataclass(frozen=True)
class _Vehicle:
    """A driver with what is driven; `trailer` follows a truck. The ego vehicle has no body."""

    driver: Driver
    body: Body | None
    trailer: Body | None = None


@dataclass(frozen=True)
class EgoPlan:
    """The ego vehicle's intention: where its rear axle is on the route at the first instant, and its wish."""

    manoeuvre: Manoeuvre
    start: float
    speed: float
    desired: float
    ahead_at_line: int


def plan_ego(
    manoeuvre: Manoeuvre, duration: float, lead: float, stop_line: float, rng: np.random.Generator
) -> tuple[EgoPlan, float]:
    """The plan, and the time by which the ego vehicle has left the junction, or its light turns green.

    `lead` is how long (seconds) before time 0 the first instant lies.
    """
    cruise = float(rng.uniform(*_EGO_SPEEDS))
    if manoeuvre == "stop and go":
        ahead = int(rng.integers(0, 3))
        before = _way_before(0.22 * duration + lead, cruise, 0.0)
        start = stop_line - _EGO_FRONT - 0.5 - 7.0 * ahead - before
        speed = min(cruise, float(np.sqrt(2 * _GENTLE * before)))
        return EgoPlan(manoeuvre, start, speed, cruise, ahead), 0.65 * duration
    if manoeuvre in ("turn right", "turn left", "u-turn"):
        slow = {"turn right": 4.0, "turn left": 4.8, "u-turn": 3.2}[manoeuvre]
        before = _way_before(0.4 * duration + lead, cruise, slow)
        start = (-12.0 if manoeuvre != "u-turn" else -5.0) - before
        speed = min(cruise, float(np.sqrt(slow**2 + 2 * 1.2 * before)))
        return EgoPlan(manoeuvre, start, speed, cruise, 0), 0.4 * duration + 3.5
    total = cruise * duration
    if manoeuvre == "curve":
        at_zero = 45.0 if rng.random() < 0.5 else -45.0 - total
    else:
        at_zero = -total * float(rng.uniform(0.3, 0.8))
    passed = (-at_zero + 8.0) / cruise if at_zero < 0 else 0.0
    return EgoPlan(manoeuvre, at_zero - cruise * lead, cruise, cruise, 0), min(passed, duration + 10.0)


def _way_before(seconds: float, cruise: float, slow: float) -> float:
    """How far one drives in the last seconds before reaching the speed `slow`, coming at `cruise`."""
    braking = min(max(cruise - slow, 0.0) / 1.2, seconds)
    return slow * braking + 0.6 * braking**2 + cruise * (seconds - braking)


def drive_everyone(
    duration: float,
    junction: Junction,
    plan: EgoPlan,
    times: Float64[Array, "K"],
    reach: float,
    rng: np.random.Generator,
) -> tuple[Street, Drive]:
    """A street with all that drive on it, and the ego vehicle's drive.

    Whoever would hit somebody all the same (at a merge, in front of a turn) is left out, and the others drive anew
    without him.
    """
    ego_route = junction.ego_route(plan.manoeuvre)
    ego = _Vehicle(Driver(ego_route, plan.start, plan.speed, plan.desired, _EGO_FRONT, _EGO_REAR), None)
    vehicles = [ego]
    for lanes in junction.lanes.values():
        for lane in lanes:
            here = ego if lane == ego_route.lane else None
            waiting = plan.ahead_at_line if here is not None else None
            vehicles += _fill(junction, lane, here, waiting, reach, rng)
    sway = rng.uniform(size=4)
    for attempt in range(_PASSES):
        places, speeds = follow([vehicle.driver for vehicle in vehicles], times)
        drive = drive_along(ego_route.path, places[:, 0], times, speeds[:, 0], sway)
        street = Street(duration)
        street.claim_for_ego(drive.track)
        accepted = [i == 0 or _add(street, vehicle, places[:, i], times) for i, vehicle in enumerate(vehicles)]
        if all(accepted) or attempt == _PASSES - 1:
            break
        vehicles = [vehicle for vehicle, kept in zip(vehicles, accepted, strict=True) if kept]
    return street, drive


def _add(street: Street, vehicle: _Vehicle, places: Float64[Array, "K"], times: Float64[Array, "K"]) -> bool:
    path, body = vehicle.driver.route.path, vehicle.body
    assert body is not None
    train = [(body, placed(path, places, times))]
    if vehicle.trailer is not None:
        train.append((vehicle.trailer, placed(path, places - _hitch(body, vehicle.trailer), times)))
    return street.add_together(train, parked=False)


def _hitch(body: Body, trailer: Body) -> float:
    """From the middle of a truck to the middle of its trailer."""
    return body.size_wlh[1] / 2 + _HITCH_GAP + trailer.size_wlh[1] / 2


def _fill(
    junction: Junction,
    lane: Lane,
    ego: _Vehicle | None,
    ahead_at_line: int | None,
    reach: float,
    rng: np.random.Generator,
) -> list[_Vehicle]:
    """The vehicles of one lane at the first instant, front to back; a queue waits at a line that has red then."""
    routes, red = junction.routes(lane), lane.green[0] > -np.inf
    pace = float(rng.uniform(*_SPEEDS))
    density = float(rng.uniform(15.0, 60.0))
    found: list[_Vehicle] = []
    front = min(reach, lane.path.distances[-1] - 30.0) - float(rng.uniform(0.0, 20.0))
    queue = 0 if not red else int(rng.integers(1, 6)) if ahead_at_line is None else ahead_at_line
    latest = front
    while front > -reach:
        if not red and ego is None and latest > lane.stop_line >= front:
            # Somebody comes up to a green light early enough to be seen at the junction.
            front = min(latest, lane.stop_line - float(rng.uniform(1.0, 18.0)))
        if red and front > lane.stop_line and front < lane.clear + 14.0:
            front = lane.stop_line - float(rng.uniform(0.2, 0.8))
        vehicle = _draw(front, routes, pace, rng)
        rear = vehicle.driver.start - vehicle.driver.rear
        # An ego vehicle that turns has nobody before it at the line.
        first = ego is not None and np.isfinite(ego.driver.route.turn[0]) and rear < lane.clear
        if ego is not None and (first or rear < ego.driver.start + _EGO_FRONT + 4.0 + 1.0 * ego.driver.speed):
            # Here comes the ego vehicle itself; the next one keeps its distance to it.
            found.append(ego)
            front, ego = ego.driver.start - _EGO_REAR - 5.0 - pace * 1.2, None
            queue = 0
            continue
        waits = red and queue > 0 and front <= lane.stop_line
        found.append(vehicle)
        if waits:
            queue -= 1
            latest = front = rear - float(rng.uniform(1.8, 2.8))
        else:
            latest = rear - STANDSTILL_GAP - pace * 1.3
            front = latest - float(rng.exponential(density))
    return [vehicle for vehicle in _with_speeds(found, red) if vehicle.body is not None]


def _draw(front: float, routes: list[Route], pace: float, rng: np.random.Generator) -> _Vehicle:
    """A vehicle whose bumper is at `front`; who has not reached the line yet may mean to turn."""
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))]
    body = draw_body(kind, rng, "ridden" if kind == "motorcycle" else "resting")
    trailer = draw_body("trailer", rng) if kind == "truck" and rng.random() < _TOWED_SHARE else None
    half = body.size_wlh[1] / 2
    rear = half if trailer is None else _hitch(body, trailer) + trailer.size_wlh[1] / 2
    route = routes[0]
    if (
        front < route.lane.stop_line
        and kind in ("car", "motorcycle")
        and len(routes) > 1
        and rng.random() < _TURN_SHARE
    ):
        route = routes[int(rng.integers(1, len(routes)))]
    return _Vehicle(Driver(route, front - half, 0.0, pace * float(rng.uniform(0.9, 1.12)), half, rear), body, trailer)


def _with_speeds(vehicles: list[_Vehicle], red: bool) -> list[_Vehicle]:
    """Front to back, speeds at the first instant that let everybody brake gently for whatever is ahead."""
    found: list[_Vehicle] = []
    ahead_rear, ahead_speed = np.inf, 0.0
    for vehicle in vehicles:
        driver = vehicle.driver
        front, line = driver.start + driver.front, driver.route.lane.stop_line
        gap, speed = ahead_rear - front - STANDSTILL_GAP - 1.0, driver.desired
        if np.isfinite(gap):
            speed = min(speed, float(np.sqrt(ahead_speed**2 + 2 * _GENTLE * max(gap, 0.0))))
            # Behind one that stands close ahead one stands as well.
            speed = 0.0 if ahead_speed == 0.0 and gap < 2.0 else speed
        if red and front <= line:
            speed = min(speed, float(np.sqrt(2 * _GENTLE * max(line - front - 1.0, 0.0))))
        if np.isfinite(driver.route.turn[0]):
            way = max(driver.route.turn[0] - driver.start, 0.0)
            speed = min(speed, float(np.sqrt(driver.route.turn_speed**2 + 2 * way)))
        speed = driver.speed if vehicle.body is None else speed
        found.append(replace(vehicle, driver=replace(driver, speed=speed)))
        ahead_rear, ahead_speed = driver.start - driver.rear, speed
    return found
