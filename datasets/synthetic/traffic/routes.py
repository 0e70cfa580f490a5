"""Ways through the junction: along a lane, or from one lane around a corner into another."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.scenery.paths import Path, from_segments, turn_segments

ALWAYS = (-np.inf, np.inf)
NEVER = (np.inf, np.inf)
_SIDEWAYS = 2.2  # Acceleration to the side that drivers accept in a turn, m/s^2.


@dataclass(frozen=True, eq=False)
class Lane:
    """A lane of the plan: its number, its middle in driving direction with the zero at the crossing road's middle.

    Who drives here stops at `stop_line` (metres on the path) except from `green[0]` to `green[1]` (seconds). Beyond
    `clear` a vehicle has left the junction.
    """

    number: int
    path: Path
    stop_line: float
    clear: float
    green: tuple[float, float] = ALWAYS


@dataclass(frozen=True, eq=False)
class Route:
    """How one vehicle drives: on `lane`, and where `turn` is finite, from there around to `exit_lane`.

    `path` counts metres as the lane does. `turn` is where the turn begins and ends; after it, `exit_shift` less is the
    distance on the exit lane. `turn_speed` is what the turn allows, m/s.
    """

    lane: Lane
    path: Path
    exit_lane: int
    turn: tuple[float, float] = (np.inf, np.inf)
    exit_shift: float = 0.0
    turn_speed: float = np.inf


def straight_on(lane: Lane) -> Route:
    """The route that stays on a lane."""
    return Route(lane, lane.path, lane.number)


def around_corner(lane: Lane, target: Lane, radius: float) -> Route:
    """The route that turns from a lane into one of the crossing road; both are straight around the junction."""
    start, end = lane.path.at(np.zeros(1))[0], target.path.at(np.zeros(1))[0]
    angle = float((end[2] - start[2] + np.pi) % (2 * np.pi) - np.pi)
    arc = from_segments(0.0, 0.0, float(start[2]), turn_segments(angle, radius))
    # Where the turn has to begin, so that its end lies on the middle of the target.
    across = np.array([-np.sin(end[2]), np.cos(end[2])])
    ahead = np.array([np.cos(start[2]), np.sin(start[2])])
    begin = float((end[:2] - start[:2] - arc.points[-1]) @ across / (ahead @ across))
    return _joined(lane, target, arc, begin, radius)


def u_turn(lane: Lane, target: Lane, begin: float) -> Route:
    """The route that turns left from a lane, at `begin`, into one of the opposite direction."""
    start, end = lane.path.at(np.zeros(1))[0], target.path.at(np.zeros(1))[0]
    left = np.array([-np.sin(start[2]), np.cos(start[2])])
    width = from_segments(0.0, 0.0, 0.0, turn_segments(np.pi, 1.0)).points[-1, 1]
    radius = float((end[:2] - start[:2]) @ left / width)
    arc = from_segments(0.0, 0.0, float(start[2]), turn_segments(np.pi, radius))
    return _joined(lane, target, arc, begin, radius)


def _joined(lane: Lane, target: Lane, arc: Path, begin: float, radius: float) -> Route:
    zero = target.path.at(np.zeros(1))[0]
    moved = arc.points + lane.path.at(np.array([begin]))[0, :2]
    reached = float((moved[-1] - zero[:2]) @ np.array([np.cos(zero[2]), np.sin(zero[2])]))
    end = begin + float(arc.distances[-1])
    before, after = (
        _piece(lane.path, lane.path.distances[0], begin),
        _piece(target.path, reached, target.path.distances[-1]),
    )
    turned = np.round((arc.yaws[-1] - zero[2]) / (2 * np.pi)) * 2 * np.pi
    path = Path(
        np.concatenate([before.points[:-1], moved, after.points[1:]]),
        np.concatenate([before.yaws[:-1] + arc.yaws[0] - before.yaws[-1], arc.yaws, after.yaws[1:] + turned]),
        np.concatenate([before.distances[:-1], begin + arc.distances, after.distances[1:] - reached + end]),
    )
    return Route(lane, path, target.number, (begin, end), end - reached, float(np.sqrt(_SIDEWAYS * radius)))


def _piece(path: Path, begin: float, end: float) -> Path:
    distances: Float64[Array, K] = np.linspace(begin, end, max(2, int((end - begin) * 2)))
    poses = path.at(distances)
    return Path(poses[:, :2], poses[:, 2], distances)
