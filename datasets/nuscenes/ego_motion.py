"""The vehicle's recent past: states interpolated from recorded poses, motion from the CAN bus or from the poses."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from calibration.rig import EgoState
from calibration.transforms import Transform, interpolate_poses, invert, yaw_of
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
    seconds = torch.tensor([(time - time_us) * 1e-6 for time in times], dtype=torch.float64)
    offsets_ego = (poses[:, :3, 3] - global_from_ego[:3, 3]) @ global_from_ego[:3, :3]
    yaws = yaw_of(invert(global_from_ego) @ poses)[:, None]
    degree = 2 if end - start >= _MIN_WINDOW_FOR_ACCELERATION_US else 1
    powers = torch.stack([seconds**power for power in range(degree + 1)], dim=1)
    fit = torch.linalg.lstsq(powers, torch.cat([offsets_ego, yaws], dim=1)).solution
    acceleration = 2 * fit[2, :3] if degree == 2 else torch.zeros(3, dtype=torch.float64)
    return fit[1, :3], acceleration, float(fit[1, 3])
