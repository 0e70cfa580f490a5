"""The vehicle's recent past: states interpolated from recorded poses, motion from the CAN bus or from the poses."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from calibration.rig import EgoState
from calibration.transforms import Transform, interpolate_poses
from datasets.nuscenes.can_bus import GpsTrack, VehicleMotion

_GRAVITY = 9.81
# Motion from poses: a parabola through the poses of this many microseconds before the instant.
_WINDOW_US = 400_000
# Below this the noise of the poses (millimetres) drowns an acceleration, and below the second a speed.
_MIN_WINDOW_FOR_ACCELERATION_US = 200_000
_MIN_WINDOW_US = 20_000


@dataclass(frozen=True)
class PoseTrack:
    """All recorded ego poses of one scene: timestamps (K) rise strictly, global_from_ego (K, 4, 4), K >= 1."""

    timestamps_us: NDArray[np.int64]
    global_from_ego: Float64[Tensor, "K 4 4"]

    def at(self, query_us: list[int]) -> Float64[Tensor, "Q 4 4"]:
        """Poses at times inside the recorded span. Raises ValueError outside: nothing is extrapolated."""
        if len(self.timestamps_us) == 1:
            if any(time != self.timestamps_us[0] for time in query_us):
                raise ValueError("a pose was asked for outside the recorded time")
            return self.global_from_ego.expand(len(query_us), 4, 4)
        # Only the stretch around the query: a scene has thousands of poses.
        first = max(int(np.searchsorted(self.timestamps_us, min(query_us), side="right")) - 1, 0)
        first = min(first, len(self.timestamps_us) - 2)
        last = max(int(np.searchsorted(self.timestamps_us, max(query_us))), first + 1)
        times = self.timestamps_us[first : last + 1].tolist()
        return interpolate_poses(times, self.global_from_ego[first : last + 1], query_us)


def past_states(
    frame_us: int,
    global_from_ego: Transform,
    track: PoseTrack,
    motion: VehicleMotion | None,
    gps: GpsTrack | None,
    history: float,
    step: float,
) -> tuple[EgoState, ...]:
    """The states at frame_us - history, ... in steps of `step` (seconds), oldest first; the frame's own last.

    Only as far back as poses were recorded. The frame's own pose is given, since it is a recorded one.
    """
    first_us, last_us = int(track.timestamps_us[0]), int(track.timestamps_us[-1])
    steps = [round(index * step * 1e6) for index in range(1, int(history / step + 1e-9) + 1)]
    past = [frame_us - ago for ago in reversed(steps) if first_us <= frame_us - ago <= last_us]
    poses = list(track.at(past)) if past else []
    return tuple(
        _state(time, pose, track, motion, gps)
        for time, pose in zip([*past, frame_us], [*poses, global_from_ego], strict=True)
    )


def _state(
    time_us: int, global_from_ego: Transform, track: PoseTrack, motion: VehicleMotion | None, gps: GpsTrack | None
) -> EgoState:
    message = motion.at(time_us) if motion is not None else None
    if message is not None:
        velocity, specific_force, yaw_rate = torch.from_numpy(message[0]), torch.from_numpy(message[1]), message[2]
        # The accelerometer feels the ground's push as an acceleration upwards; upwards in ego axes is the third row.
        acceleration = specific_force - _GRAVITY * global_from_ego[2, :3]
    else:
        velocity, acceleration, yaw_rate = motion_from_poses(time_us, global_from_ego, track)
    fix = gps.at(time_us) if gps is not None else None
    return EgoState(time_us, global_from_ego, velocity, acceleration, yaw_rate, fix)


def motion_from_poses(
    time_us: int, global_from_ego: Transform, track: PoseTrack
) -> tuple[Float64[Tensor, "3"], Float64[Tensor, "3"], float]:
    """Velocity (3) and acceleration (3) in ego axes and yaw rate, from a parabola through the 0.4 s before.

    Looks back only, as a vehicle must; at the very start of a recording, where nothing lies behind, it looks ahead.
    With poses of less than 20 ms there is no motion to tell: zeros.
    """
    first_us, last_us = int(track.timestamps_us[0]), int(track.timestamps_us[-1])
    time_us = min(max(time_us, first_us), last_us)
    start, end = max(time_us - _WINDOW_US, first_us), time_us
    if end - start < 2 * _MIN_WINDOW_US:
        end = min(start + _WINDOW_US, last_us)
    if end - start < _MIN_WINDOW_US:
        return torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0.0
    times = [start, (start + end) // 2, end]
    poses = track.at(times)
    offsets_ego = _turned(poses[:, :3, 3] - global_from_ego[:3, 3], global_from_ego)
    forward_ego = _turned(poses[:, :3, 0], global_from_ego)
    yaws = torch.atan2(forward_ego[:, 1], forward_ego[:, 0])
    values = torch.cat([offsets_ego, yaws[:, None]], dim=1)
    seconds = [(time - time_us) * 1e-6 for time in times]
    first, second = _derivatives(seconds, parabola=end - start >= _MIN_WINDOW_FOR_ACCELERATION_US)
    rates = first[0] * values[0] + first[1] * values[1] + first[2] * values[2]
    bends = second[0] * values[0] + second[1] * values[1] + second[2] * values[2]
    return rates[:3], bends[:3], float(rates[3])


# Both are written out. Solvers and matrix products of a library give other last bits with other places in memory: the
# same frame would not be the same twice.


def _turned(vectors_global: Float64[Tensor, "3 3"], global_from_ego: Transform) -> Float64[Tensor, "3 3"]:
    """Three directions in global, in ego axes."""
    x, y, z = vectors_global[:, 0:1], vectors_global[:, 1:2], vectors_global[:, 2:3]
    return x * global_from_ego[0, :3] + y * global_from_ego[1, :3] + z * global_from_ego[2, :3]


def _derivatives(times: list[float], *, parabola: bool) -> tuple[list[float], list[float]]:
    """What to multiply the values at three times by to get the first and second derivative at time 0: of the parabola
    through them, or of the line that is nearest to them.
    """
    if parabola:
        others = [(times[1], times[2]), (times[0], times[2]), (times[0], times[1])]
        scales = [1.0 / ((time - a) * (time - b)) for time, (a, b) in zip(times, others, strict=True)]
        return [-(a + b) * scale for (a, b), scale in zip(others, scales, strict=True)], [2.0 * s for s in scales]
    mean = sum(times) / 3
    spread = sum((time - mean) ** 2 for time in times)
    return [(time - mean) / spread for time in times], [0.0, 0.0, 0.0]
