"""Points that are missing: at random, beam by beam, or beside a narrow field of view."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from datasets.corruptions.corruption import Past, generator_of
from datasets.faults import InputRefused
from datasets.frames import LIDAR_FIELDS, LogFrame, PointSweep

_RING = LIDAR_FIELDS.index("ring")


@dataclass(frozen=True)
class PointsDropped:
    """Each point of each sweep of these LiDARs or radars is gone with this probability (0..1)."""

    channels: tuple[str, ...]
    share: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""

        def kept(channel: str, sweep: PointSweep) -> Bool[Tensor, "P"]:
            draws = generator_of(seed, "points", frame.scene_name, channel, sweep.timestamp_us)
            return torch.from_numpy(draws.random(len(sweep.points)) >= self.share)

        return with_points_kept(frame, self.channels, kept) if self.share > 0 else frame


@dataclass(frozen=True)
class BeamsReduced:
    """Of the LiDAR's beams every so many-th is kept, from ring 1 on: of 32 with 2 those of 16, with 8 those of 4.

    Raises InputRefused where the points have no ring numbers.
    """

    channel: str
    every: int

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""

        def kept(channel: str, sweep: PointSweep) -> Bool[Tensor, "P"]:
            rings = sweep.points[:, _RING].long()
            if len(rings) and int(rings.min()) < 0:
                raise InputRefused(
                    f"frame {frame.token}: {channel} has no ring numbers, so there are no beams to take away."
                )
            return rings % self.every == 1 % self.every

        return with_points_kept(frame, (self.channel,), kept) if self.every > 1 else frame


@dataclass(frozen=True)
class FieldOfView:
    """Only points within so many degrees to the left and to the right of straight ahead, as the LiDAR sees them."""

    channel: str
    half_angle: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""

        def kept(channel: str, sweep: PointSweep) -> Bool[Tensor, "P"]:
            turned = sweep.points[:, :3].double() @ frame.rig.ego_from_sensor[channel][:3, :3].T
            return torch.atan2(turned[:, 1], turned[:, 0]).abs() <= math.radians(self.half_angle)

        return with_points_kept(frame, (self.channel,), kept) if self.half_angle < 180 else frame


def with_points_kept(
    frame: LogFrame, channels: tuple[str, ...], kept: Callable[[str, PointSweep], Bool[Tensor, "P"]]
) -> LogFrame:
    """The frame with only those points of each sweep of these channels for which `kept` says so."""
    return with_changed_sweeps(frame, channels, lambda channel, sweep: sweep.points[kept(channel, sweep)])


def with_changed_sweeps(
    frame: LogFrame, channels: tuple[str, ...], points: Callable[[str, PointSweep], Tensor]
) -> LogFrame:
    """The frame with other points in each sweep of these channels, LiDAR or radar."""

    def changed(sweeps_by_channel: dict[str, tuple[PointSweep, ...]]) -> dict[str, tuple[PointSweep, ...]]:
        return {
            channel: tuple(replace(sweep, points=points(channel, sweep)) for sweep in sweeps)
            if channel in channels
            else sweeps
            for channel, sweeps in sweeps_by_channel.items()
        }

    return replace(frame, lidar_sweeps=changed(frame.raw_lidar_sweeps), radar_sweeps=changed(frame.radar_sweeps))
