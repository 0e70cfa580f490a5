"""A vehicle that does not know well how it moved: poses that jitter, drift or are late.

What matters to a detector is where the vehicle was when each sensor gave its reading, seen from where it is at the
frame's instant: that is how sweeps and pictures are brought together, and what the pose branch hears. So the poses of
all readings and past states are told wrongly *relative to the frame's*, and the frame's own pose stays the true one:
detections are in the ego frame of the instant, and the metric moves them to global with the truth, as the published
benchmarks do (a detector is not blamed for where a localiser puts the vehicle on the map). A reading at the frame's
very instant does not move, however wrong the pose is: the error cancels. Velocities and GPS stay as recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from calibration.transforms import Transform, interpolate_poses, invert
from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.misalignment import displacement
from datasets.frames import LogFrame, PointSweep


@dataclass(frozen=True)
class PoseJitter:
    """Each pose is off by normal noise about each axis: `metres` and `radians` are standard deviations."""

    metres: float
    radians: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.metres == 0 and self.radians == 0:
            return frame

        def told(timestamp_us: int, global_from_ego: Transform) -> Transform:
            # By time, not by sensor: whoever asks for the pose at an instant hears the same.
            draws = generator_of(seed, "jitter", frame.scene_name, timestamp_us)
            turn, shift = self.radians * draws.standard_normal(3), self.metres * draws.standard_normal(3)
            return global_from_ego @ displacement(turn, shift)

        return with_told_poses(frame, told)


@dataclass(frozen=True)
class PoseDrift:
    """The pose drifts: `speed` (m/s) in a direction on the ground and `yaw_rate` (rad/s), one of each for a scene."""

    speed: float
    yaw_rate: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.speed == 0 and self.yaw_rate == 0:
            return frame
        draws = generator_of(seed, "drift", frame.scene_name)
        bearing, side = draws.uniform(-np.pi, np.pi), draws.choice([-1.0, 1.0])

        def told(timestamp_us: int, global_from_ego: Transform) -> Transform:
            seconds = (timestamp_us - frame.timestamp_us) * 1e-6
            shift = self.speed * seconds * np.array([np.cos(bearing), np.sin(bearing), 0.0])
            return global_from_ego @ displacement(np.array([0.0, 0.0, side * self.yaw_rate * seconds]), shift)

        return with_told_poses(frame, told)


@dataclass(frozen=True)
class PoseDelay:
    """Each pose is the one of so many seconds before, interpolated between those that the frame tells of.

    Before the oldest of them the vehicle is taken to have stood there. Driving straight and evenly it makes no
    difference; braking and turning it does.
    """

    seconds: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        known = dict(_readings(frame))
        times = sorted(known)
        if self.seconds == 0 or len(times) < 2:
            return frame
        poses = torch.stack([known[time] for time in times])

        def told(timestamp_us: int, global_from_ego: Transform) -> Transform:
            asked = min(max(timestamp_us - round(self.seconds * 1e6), times[0]), times[-1])
            place = min(max(int(np.searchsorted(times, asked, side="right")) - 1, 0), len(times) - 2)
            between = slice(place, place + 2)
            return interpolate_poses(times[between], poses[between], [asked])[0]

        return with_told_poses(frame, told)


def with_told_poses(frame: LogFrame, told: Callable[[int, Transform], Transform]) -> LogFrame:
    """The frame where each pose but its own is `told(its time, its truth)`, seen from the frame's told pose."""
    anchor = frame.global_from_ego @ invert(told(frame.timestamp_us, frame.global_from_ego))

    def pose(timestamp_us: int, truth: Transform) -> Transform:
        return anchor @ told(timestamp_us, truth)

    def sweeps(by_channel: dict[str, tuple[PointSweep, ...]]) -> dict[str, tuple[PointSweep, ...]]:
        return {
            channel: tuple(replace(s, global_from_ego=pose(s.timestamp_us, s.global_from_ego)) for s in of_channel)
            for channel, of_channel in by_channel.items()
        }

    return replace(
        frame,
        images={
            channel: replace(image, global_from_ego=pose(image.timestamp_us, image.global_from_ego))
            for channel, image in frame.images.items()
        },
        lidar_sweeps=sweeps(frame.raw_lidar_sweeps),
        radar_sweeps=sweeps(frame.radar_sweeps),
        ego_states=tuple(
            replace(state, global_from_ego=pose(state.timestamp_us, state.global_from_ego))
            for state in frame.ego_states
        ),
    )


def _readings(frame: LogFrame) -> list[tuple[int, Transform]]:
    """Time and true pose of everything that the frame holds, its own last."""
    found = [(state.timestamp_us, state.global_from_ego) for state in frame.ego_states]
    found += [(image.timestamp_us, image.global_from_ego) for image in frame.images.values()]
    for by_channel in (frame.raw_lidar_sweeps, frame.radar_sweeps):
        found += [(s.timestamp_us, s.global_from_ego) for of_channel in by_channel.values() for s in of_channel]
    return [*found, (frame.timestamp_us, frame.global_from_ego)]
