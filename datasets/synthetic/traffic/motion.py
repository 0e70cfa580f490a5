"""How things move: tracks of road users, and the ego vehicle's drive with its pitch and roll."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.scenery.paths import Path

_RATE = 50.0
LEAD = 1.5  # Tracks begin this long before the first keyframe and end as long after the last.


def clock(duration: float) -> Float64[Array, "K"]:
    """The instants at which tracks are sampled, seconds."""
    return np.arange(-LEAD, duration + LEAD + 1e-9, 1.0 / _RATE)


@dataclass(frozen=True)
class Track:
    """Where something is at any time: x, y, yaw (unwrapped) at each instant of `times`, on a floor of height `z`."""

    times: Float64[Array, "K"]
    poses: Float64[Array, "K 3"]
    z: float

    def at(self, time: float) -> tuple[float, float, float]:
        """x, y, yaw at a time."""
        pose = self.poses[0]
        if len(self.times) > 1:
            # The samples are evenly spaced, and np.interp costs three times as much as this.
            step = min(max((time - float(self.times[0])) * _RATE, 0.0), len(self.times) - 1.0)
            below = min(int(step), len(self.times) - 2)
            pose = self.poses[below] + (step - below) * (self.poses[below + 1] - self.poses[below])
        return float(pose[0]), float(pose[1]), float(pose[2])

    def sampled(self, times: Float64[Array, "T"]) -> Float64[Array, "T 3"]:
        """x, y, yaw at several times."""
        return np.stack([np.interp(times, self.times, self.poses[:, i]) for i in range(3)], axis=1)

    def velocity(self, time: float) -> tuple[float, float]:
        """Over ground, in world axes, by the central difference over 40 ms."""
        if len(self.times) == 1:
            return 0.0, 0.0
        (x0, y0, _), (x1, y1, _) = self.at(time - 0.02), self.at(time + 0.02)
        return (x1 - x0) / 0.04, (y1 - y0) / 0.04

    def travelled(self, time: float) -> float:
        """Metres gone since the first instant."""
        if len(self.times) == 1:
            return 0.0
        return float(np.interp(time, self.times, self._gone))

    @cached_property
    def _gone(self) -> Float64[Array, "K"]:
        steps = np.hypot(*np.diff(self.poses[:, :2], axis=0).T)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def moves(self) -> bool:
        """Whether it ever leaves its place."""
        return bool(np.ptp(self.poses[:, :2], axis=0).max() > 1e-6)


def resting(x: float, y: float, yaw: float, z: float) -> Track:
    """The track of what stays where it is."""
    return Track(np.zeros(1), np.array([[x, y, yaw]]), z)


def placed(path: Path, places: Float64[Array, "K"], times: Float64[Array, "K"], z: float = 0.0) -> Track:
    """The track of what is so far along a path at each time."""
    if np.ptp(places) < 1e-6:
        x, y, yaw = (float(v) for v in path.at(places[:1])[0])
        return resting(x, y, yaw, z)
    return Track(times, path.at(places), z)


def along(path: Path, start: float, times: Float64[Array, "K"], speed: float, z: float = 0.0) -> Track:
    """The track of what is at `start` on the path at time 0 and keeps its speed (m/s)."""
    return Track(times, path.at(start + speed * times), z)


@dataclass(frozen=True)
class Drive:
    """The ego vehicle: its rear axle's track, and its springs' pitch and roll (radians) at each time of the track.

    Pitch is positive nose up, roll positive left side up.
    """

    track: Track
    speeds: Float64[Array, "K"]
    pitches: Float64[Array, "K"]
    rolls: Float64[Array, "K"]

    def world_from_ego(self, time: float) -> Float64[Array, "4 4"]:
        """The pose at a time; the rear axle stays on the ground."""
        x, y, yaw = self.track.at(time)
        pitch = float(np.interp(time, self.track.times, self.pitches))
        roll = float(np.interp(time, self.track.times, self.rolls))
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, -pitch, roll))
        turn = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
        lift = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
        lean = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
        pose = np.eye(4)
        pose[:3, :3] = turn @ lift @ lean
        pose[:3, 3] = [x, y, 0.0]
        return pose

    def speed(self, time: float) -> float:
        """m/s along the vehicle."""
        return float(np.interp(time, self.track.times, self.speeds))

    def acceleration(self, time: float) -> tuple[float, float]:
        """Along and to the left of the vehicle, m/s^2, without gravity."""
        return (self.speed(time + 0.05) - self.speed(time - 0.05)) / 0.1, self.speed(time) * self.yaw_rate(time)

    def yaw_rate(self, time: float) -> float:
        """rad/s."""
        return (self.track.at(time + 0.05)[2] - self.track.at(time - 0.05)[2]) / 0.1


def drive_along(
    path: Path,
    places: Float64[Array, "K"],
    times: Float64[Array, "K"],
    speeds: Float64[Array, "K"],
    sway: Float64[Array, "4"],
) -> Drive:
    """The ego vehicle on a path; it dives when braking, leans in curves, and sways a little.

    `sway` (numbers in 0..1) chooses rhythm and phase of the swaying.
    """
    track = Track(times, path.at(places), 0.0)
    braking, yaw_rates = np.gradient(speeds, times), np.gradient(track.poses[:, 2], times)
    swaying = [0.002 * np.sin(2 * np.pi * (times * (0.5 + 0.7 * sway[i]) + sway[i + 2])) for i in (0, 1)]
    moving = np.clip(speeds / 5.0, 0.0, 1.0)
    pitches = 0.004 * _settled(braking) + swaying[0] * moving
    rolls = 0.004 * _settled(speeds * yaw_rates) + swaying[1] * moving
    return Drive(track, speeds, pitches, rolls)


def _settled(values: Float64[Array, "K"]) -> Float64[Array, "K"]:
    """Smoothed over the half second that springs and dampers need to follow."""
    kernel = np.hanning(int(0.5 * _RATE) + 2)
    padded = np.pad(values, len(kernel) // 2, mode="edge")
    return np.asarray(np.convolve(padded, kernel / kernel.sum(), mode="valid")[: len(values)])
