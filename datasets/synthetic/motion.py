"""How things move: tracks of road users, speed plans, and the ego vehicle's drive with its pitch and roll."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.synthetic.arrays import Array
from datasets.synthetic.paths import Path

_RATE = 50.0
_LEAD = 1.5  # Tracks begin this long before the first keyframe and end as long after the last.


def clock(duration: float) -> Float64[Array, "K"]:
    """The instants at which tracks are sampled, seconds."""
    return np.arange(-_LEAD, duration + _LEAD + 1e-9, 1.0 / _RATE)


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

    @property
    def moves(self) -> bool:
        """Whether it ever leaves its place."""
        return bool(np.ptp(self.poses[:, :2], axis=0).max() > 1e-6)


def resting(x: float, y: float, yaw: float, z: float) -> Track:
    """The track of what stays where it is."""
    return Track(np.zeros(1), np.array([[x, y, yaw]]), z)


def along(
    path: Path, start: float, times: Float64[Array, "K"], travelled: Float64[Array, "K"], z: float = 0.0
) -> Track:
    """The track of what is at `start` on the path at time 0 and has travelled so far at each time."""
    return Track(times, path.at(start + travelled), z)


def travel(times: Float64[Array, "K"], speeds: Float64[Array, "K"]) -> Float64[Array, "K"]:
    """Metres gone at each time, 0 at time 0, for a speed at each time."""
    gone = np.concatenate([[0.0], np.cumsum(0.5 * (speeds[1:] + speeds[:-1]) * np.diff(times))])
    gone -= np.interp(0.0, times, gone)
    return np.asarray(gone)


def speed_plan(
    times: Float64[Array, "K"], marks: list[tuple[float, float]], smoothing: float = 0.8
) -> Float64[Array, "K"]:
    """Speeds through marks of (time, m/s), smoothed over some seconds so that acceleration stays bounded."""
    marked = np.array(marks)
    dense = np.arange(times[0] - 3.0, times[-1] + 3.0, 1.0 / _RATE)
    speeds = np.interp(dense, marked[:, 0], marked[:, 1])
    kernel = np.hanning(max(3, int(smoothing * _RATE)) + 2)
    smooth = np.convolve(np.pad(speeds, len(kernel) // 2, mode="edge"), kernel / kernel.sum(), mode="valid")
    return np.asarray(np.maximum(np.interp(times, dense, smooth[: len(dense)]), 0.0))


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
    start: float,
    times: Float64[Array, "K"],
    speeds: Float64[Array, "K"],
    rng: np.random.Generator,
) -> Drive:
    """The ego vehicle on a path with these speeds; it dives when braking, leans in curves, and sways a little."""
    track = along(path, start, times, travel(times, speeds))
    braking, yaw_rates = np.gradient(speeds, times), np.gradient(track.poses[:, 2], times)
    sway = [0.002 * np.sin(2 * np.pi * (times * rng.uniform(0.5, 1.2) + rng.uniform())) for _ in range(2)]
    moving = np.clip(speeds / 5.0, 0.0, 1.0)
    pitches = 0.004 * braking + sway[0] * moving
    rolls = 0.004 * speeds * yaw_rates + sway[1] * moving
    return Drive(track, speeds, pitches, rolls)
