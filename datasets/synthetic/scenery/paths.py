"""Curves that roads follow and vehicles drive along."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array

_STEP = 0.5
_RAMP_STEPS = 6


@dataclass(frozen=True)
class Path:
    """A curve by its arc length: K places, headings (unwrapped) and distances from a chosen zero, which rise."""

    points: Float64[Array, "K 2"]
    yaws: Float64[Array, "K"]
    distances: Float64[Array, "K"]

    def at(self, distance: Float64[Array, "N"]) -> Float64[Array, "N 3"]:
        """x, y, yaw at each distance; past its ends the path goes on straight."""
        inside = np.clip(distance, self.distances[0], self.distances[-1])
        columns = [np.interp(inside, self.distances, c) for c in (self.points[:, 0], self.points[:, 1], self.yaws)]
        beyond = distance - inside
        columns[0] = columns[0] + beyond * np.cos(columns[2])
        columns[1] = columns[1] + beyond * np.sin(columns[2])
        return np.stack(columns, axis=1)

    def beside(self, distance: float, left: float, turn: float = 0.0) -> tuple[float, float, float]:
        """x, y, yaw of a place `left` metres to the left of the path, its heading turned by `turn`."""
        x, y, yaw = (float(v) for v in self.at(np.array([distance]))[0])
        return x - left * np.sin(yaw), y + left * np.cos(yaw), yaw + turn

    def shifted(self, left: float) -> "Path":
        """The path that runs `left` metres to the left of this one; the zero stays beside the zero."""
        normals = np.stack([-np.sin(self.yaws), np.cos(self.yaws)], axis=1)
        points = self.points + left * normals
        lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        return Path(points, self.yaws, lengths - np.interp(0.0, self.distances, lengths))

    def reversed(self) -> "Path":
        """The same curve driven the other way; the zero stays where it is."""
        return Path(self.points[::-1].copy(), self.yaws[::-1] + np.pi, -self.distances[::-1])


def from_segments(x: float, y: float, yaw: float, segments: Sequence[tuple[float, float]]) -> Path:
    """A path from a start through segments of (length, curvature), curvature positive to the left; zero there."""
    points, yaws, distances = [np.array([[x, y]])], [np.array([yaw])], [np.array([0.0])]
    for length, curvature in segments:
        steps = np.linspace(0.0, length, max(2, int(np.ceil(length / _STEP)) + 1))[1:]
        start, heading, base = points[-1][-1], float(yaws[-1][-1]), float(distances[-1][-1])
        turned = heading + curvature * steps
        if abs(curvature) < 1e-9:
            moved = steps[:, None] * np.array([np.cos(heading), np.sin(heading)])
        else:
            moved = np.stack([np.sin(turned) - np.sin(heading), np.cos(heading) - np.cos(turned)], axis=1) / curvature
        points.append(start + moved)
        yaws.append(turned)
        distances.append(base + steps)
    return Path(np.concatenate(points), np.concatenate(yaws), np.concatenate(distances))


def turn_segments(angle: float, radius: float) -> list[tuple[float, float]]:
    """Segments that turn by an angle (radians, positive to the left), steered into and out of as a driver does.

    Curvature rises to 1 / radius in steps over 0.6 radius, stays, and falls again; `angle` is at least 0.6 in size.
    """
    ramp, curvature = 0.6 * radius, float(np.sign(angle)) / radius
    rising = [(ramp / _RAMP_STEPS, curvature * (i + 0.5) / _RAMP_STEPS) for i in range(_RAMP_STEPS)]
    return [*rising, (abs(angle) * radius - ramp, curvature), *rising[::-1]]


def through(x: float, y: float, yaw: float, curvature: float, reach: float, straight: float = 0.0) -> Path:
    """A path through a place, `reach` metres each way; zero at the place.

    It is straight up to `straight` metres from there and has this curvature from 20 m further on.
    """
    ramp = [(20.0 / _RAMP_STEPS, curvature * (i + 0.5) / _RAMP_STEPS) for i in range(_RAMP_STEPS)] if curvature else []
    segments = [(max(straight, 1.0), 0.0), *ramp, (reach, curvature)]
    ahead = from_segments(x, y, yaw, segments)
    behind = from_segments(x, y, yaw + np.pi, [(length, -k) for length, k in segments]).reversed()
    # The two headings of the place differ by a full turn.
    back_yaws = behind.yaws + (ahead.yaws[0] - behind.yaws[-1])
    return Path(
        np.concatenate([behind.points[:-1], ahead.points]),
        np.concatenate([back_yaws[:-1], ahead.yaws]),
        np.concatenate([behind.distances[:-1], ahead.distances]),
    )


def straight_line(x: float, y: float, yaw: float) -> Path:
    """A path that goes straight on from a place."""
    points = np.array([[x, y], [x + np.cos(yaw), y + np.sin(yaw)]])
    return Path(points, np.full(2, yaw), np.array([0.0, 1.0]))
