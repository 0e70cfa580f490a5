"""What the ego vehicle's own instruments could know without error: its motion along the drive, at any times."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array
from datasets.synthetic.traffic.motion import Drive

GRAVITY = 9.81
# Slower than this (m/s) a curvature does not follow from speed and yaw rate.
_CRAWLING = 0.5


@dataclass(frozen=True)
class EgoSignals:
    """The drive at N times, in ego axes: x ahead, y left, z up.

    `yaw` is that of the track (radians, unwrapped), `pitch` positive nose up, `roll` positive left side up.
    `specific_force` is what an accelerometer feels (m/s^2: standing still +9.81 upwards), `rotation_rate` what a
    gyroscope feels (rad/s). `curvature` (1/m) is that of the way, also while the vehicle stands on it.
    """

    times: Float64[Array, "N"]
    places: Float64[Array, "N 2"]
    yaw: Float64[Array, "N"]
    pitch: Float64[Array, "N"]
    roll: Float64[Array, "N"]
    speed: Float64[Array, "N"]
    acceleration: Float64[Array, "N"]
    yaw_rate: Float64[Array, "N"]
    curvature: Float64[Array, "N"]
    specific_force: Float64[Array, "N 3"]
    rotation_rate: Float64[Array, "N 3"]


def signals_of(drive: Drive, times: Float64[Array, "N"]) -> EgoSignals:
    """The drive's signals at these times (seconds of the scene)."""
    track = drive.track
    moved = track.sampled(times)
    rates = np.gradient(
        np.column_stack([drive.speeds, track.poses[:, 2], drive.pitches, drive.rolls]), track.times, axis=0
    )
    speed, pitch, roll = (np.interp(times, track.times, v) for v in (drive.speeds, drive.pitches, drive.rolls))
    acceleration, yaw_rate, pitch_rate, roll_rate = (np.interp(times, track.times, rates[:, i]) for i in range(4))
    return EgoSignals(
        times=times,
        places=moved[:, :2],
        yaw=moved[:, 2],
        pitch=pitch,
        roll=roll,
        speed=speed,
        acceleration=acceleration,
        yaw_rate=yaw_rate,
        curvature=_curvature(drive, times),
        specific_force=_tilted(
            np.column_stack([acceleration, speed * yaw_rate, np.full(len(times), GRAVITY)]), pitch, roll
        ),
        rotation_rate=_body_rates(yaw_rate, pitch_rate, roll_rate, pitch, roll),
    )


def _curvature(drive: Drive, times: Float64[Array, "N"]) -> Float64[Array, "N"]:
    """Of the way at the time; while the vehicle stands or crawls, interpolated between where it last and next moved."""
    track = drive.track
    moving = drive.speeds > _CRAWLING
    if not moving.any():
        return np.zeros(len(times))
    yaw_rates = np.gradient(track.poses[:, 2], track.times)
    return np.asarray(np.interp(times, track.times[moving], yaw_rates[moving] / drive.speeds[moving]))


def _tilted(
    level: Float64[Array, "N 3"], pitch: Float64[Array, "N"], roll: Float64[Array, "N"]
) -> Float64[Array, "N 3"]:
    """Vectors in level axes (x ahead) as the tilted vehicle feels them."""
    (sp, cp), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (pitch, roll))
    ahead = cp * level[:, 0] + sp * level[:, 2]
    up = cp * level[:, 2] - sp * level[:, 0]
    return np.column_stack([ahead, cr * level[:, 1] + sr * up, cr * up - sr * level[:, 1]])


def _body_rates(
    yaw_rate: Float64[Array, "N"],
    pitch_rate: Float64[Array, "N"],
    roll_rate: Float64[Array, "N"],
    pitch: Float64[Array, "N"],
    roll: Float64[Array, "N"],
) -> Float64[Array, "N 3"]:
    """Turning about the vehicle's own axes, from the rates of yaw, then pitch, then roll. Nose up turns about -y."""
    (sp, cp), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (pitch, roll))
    return np.column_stack(
        [roll_rate + yaw_rate * sp, yaw_rate * sr * cp - pitch_rate * cr, yaw_rate * cr * cp + pitch_rate * sr]
    )
