"""How drivers follow one another: the Intelligent Driver Model, integrated for all vehicles of a scene at once.

M. Treiber, A. Hennecke, D. Helbing, Congested traffic states in empirical observations and microscopic simulations,
Physical Review E 62, 2000.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from datasets.arrays import Array
from datasets.synthetic.traffic.routes import Route

ACCELERATION, BRAKING = 1.6, 2.0  # What drivers like, m/s^2.
HARDEST_BRAKING = 5.0
STANDSTILL_GAP, HEADWAY = 2.0, 1.3  # Metres and seconds between bumpers.
# A driver who would have to brake harder than this for a light that turns red drives on.
_RED_LIGHT_BRAKING = 3.5
_TURN_BRAKING = 1.2
_NOBODY = 1e4
_STEP = 0.1  # Seconds between decisions.
_START = 0.5  # Who stands starts when this acceleration (m/s^2) is in order.


@dataclass(frozen=True)
class Driver:
    """A vehicle at the first instant: `start` metres on its route at `speed`; it would like to drive at `desired`.

    `front` and `rear` are how far its bumpers are from the point that follows the route, metres.
    """

    route: Route
    start: float
    speed: float
    desired: float
    front: float
    rear: float


class _Drivers:
    """The columns of a list of drivers."""

    def __init__(self, drivers: Sequence[Driver]) -> None:
        routes = [driver.route for driver in drivers]
        self.desired = np.array([driver.desired for driver in drivers])
        self.front = np.array([driver.front for driver in drivers])
        self.rear = np.array([driver.rear for driver in drivers])
        self.lane = np.array([route.lane.number for route in routes])
        self.exit_lane = np.array([route.exit_lane for route in routes])
        self.turn_begin, self.turn_end = (np.array([route.turn[i] for route in routes]) for i in (0, 1))
        self.shift = np.array([route.exit_shift for route in routes])
        self.turn_speed = np.array([route.turn_speed for route in routes])
        self.line = np.array([route.lane.stop_line for route in routes])
        self.green_from, self.green_to = (np.array([route.lane.green[i] for route in routes]) for i in (0, 1))


def follow(
    drivers: Sequence[Driver], times: Float64[Array, "K"]
) -> tuple[Float64[Array, "K N"], Float64[Array, "K N"]]:
    """Metres on its route and speed (m/s) of every driver at each instant; `times` are evenly spaced.

    Nobody drives backwards, and who stands stays until it is worth starting. Accelerations are constant over _STEP.
    """
    columns = _Drivers(drivers)
    instants = np.arange(times[0], times[-1] + _STEP, _STEP)
    places = np.empty((len(instants), len(drivers)))
    speeds = np.empty_like(places)
    place, speed = (np.array([getattr(driver, name) for driver in drivers]) for name in ("start", "speed"))
    for k, time in enumerate(instants):
        places[k], speeds[k] = place, speed
        acceleration = _accelerations(columns, place, speed, float(time))
        # The model would creep for ever towards where it stops: people stop, and start when there is room.
        stopping = (speed < 0.6) & (acceleration < 0.2)
        acceleration = np.where(stopping, np.minimum(acceleration, -0.8), acceleration)
        wanted = np.maximum(speed + acceleration * _STEP, 0.0)
        wanted[(speed == 0.0) & (acceleration < _START)] = 0.0
        place, speed = place + 0.5 * (speed + wanted) * _STEP, wanted
    below = np.minimum(((times - times[0]) / _STEP).astype(np.int64), len(instants) - 2)
    since = (times - instants[below])[:, None]
    gained = np.diff(speeds, axis=0)[below] / _STEP
    return places[below] + speeds[below] * since + 0.5 * gained * since**2, speeds[below] + gained * since


def _accelerations(
    columns: _Drivers, place: Float64[Array, "N"], speed: Float64[Array, "N"], time: float
) -> Float64[Array, "N"]:
    gap, leader_speed = _leaders(columns, place, speed)
    free = 1.0 - (speed / _allowed_speeds(columns, place)) ** 4
    # Who is too fast for a turn brakes as for one ahead, not harder.
    free = np.maximum(free, -BRAKING / ACCELERATION)
    needed = _interaction(gap, speed, speed - leader_speed)
    to_line = columns.line - (place + columns.front)
    red = ((time < columns.green_from) | (time >= columns.green_to)) & (to_line > -0.5)
    red &= speed**2 < 2 * _RED_LIGHT_BRAKING * np.maximum(to_line, 0.05)
    # One brakes for a line as for a vehicle that stands behind it.
    needed = np.where(red, np.maximum(needed, _interaction(to_line + STANDSTILL_GAP, speed, speed)), needed)
    return np.asarray(np.maximum(ACCELERATION * (free - needed), -HARDEST_BRAKING))


def _interaction(
    gap: Float64[Array, "N"], speed: Float64[Array, "N"], closing: Float64[Array, "N"]
) -> Float64[Array, "N"]:
    wished = STANDSTILL_GAP + np.maximum(HEADWAY * speed + speed * closing / (2 * np.sqrt(ACCELERATION * BRAKING)), 0.0)
    return np.asarray((wished / np.maximum(gap, 0.1)) ** 2)


def _allowed_speeds(columns: _Drivers, place: Float64[Array, "N"]) -> Float64[Array, "N"]:
    """What each driver would drive alone: slower towards a turn and in it."""
    to_turn = np.maximum(columns.turn_begin - place, 0.0)
    in_time = np.sqrt(columns.turn_speed**2 + 2 * _TURN_BRAKING * np.where(np.isfinite(to_turn), to_turn, 0.0))
    return np.asarray(np.where(place < columns.turn_end, np.minimum(columns.desired, in_time), columns.desired))


def _leaders(
    columns: _Drivers, place: Float64[Array, "N"], speed: Float64[Array, "N"]
) -> tuple[Float64[Array, "N"], Float64[Array, "N"]]:
    """The gap to the vehicle ahead of each driver, and that vehicle's speed.

    Who turns is on both lanes during the turn: those behind on either wait for it.
    """
    turning = place > columns.turn_begin
    own_lane = np.where(turning, columns.exit_lane, columns.lane)
    own_place = np.where(turning, place - columns.shift, place)
    still_there: Bool[Array, N] = place - columns.rear < columns.turn_end
    lanes: Int64[Array, M] = np.concatenate(
        [np.where(still_there, columns.lane, -1), np.where(turning, columns.exit_lane, -2)]
    )
    ahead = np.concatenate([place, place - columns.shift])
    # Who turns need not care for those who still wait at the exit lane's own line.
    beyond = np.where(turning, np.maximum(own_place, columns.turn_end - columns.shift - 8.0), own_place)
    same = (lanes[None, :] == own_lane[:, None]) & (ahead[None, :] > beyond[:, None] + 1e-6)
    rears = ahead - np.tile(columns.rear, 2)
    gaps = np.where(same, rears[None, :] - (own_place + columns.front)[:, None], _NOBODY)
    nearest = gaps.argmin(axis=1)
    rows = np.arange(len(place))
    return gaps[rows, nearest], np.tile(speed, 2)[nearest]
