"""Fog, rain and snow in a LiDAR sweep that was recorded in clear air, by the physics of the synthetic world.

A point is a beam that was answered. In bad air its return fades by exp(-2 extinction distance), and with it the chance
that it becomes a point; fog, drops or flakes on the way send light back themselves, and where theirs is the stronger
return the point is there instead, on the same beam. Beams that recorded nothing stay silent: they are not in the file.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.points import with_changed_sweeps
from datasets.frames import LogFrame, PointSweep
from datasets.synthetic.lidar.droplets import DropReturns, fog_returns, particle_returns, rain_returns

# How many answers a beam of intensity 1 would get at 1 m: datasets/synthetic/lidar/sweep.py has the same law.
_ANSWERED = 60.0**2
# Stored intensities are whole numbers: what rounded to nothing was some of it.
_FAINTEST = 0.5
# Gunn and Marshall (1958): 3800 R^-0.87 exp(-2.55 R^-0.48 D) flakes a cubic metre and millimetre of melted diameter D.
_FLAKES, _FLAKES_POWER, _FLAKES_SLOPE, _FLAKES_SLOPE_POWER = 3800.0, -0.87, 2.55, -0.48
_DECIBELS = 10.0 / math.log(10.0)


def rain_extinction(rain_rate: float) -> float:
    """1/m in rain of so many millimetres an hour: 1.076 R^0.67 dB/km (Carbonneau, in ITU-R P.1814)."""
    return float(1.076 * rain_rate**0.67 / _DECIBELS / 1000.0)


def snow_extinction(snow_rate: float) -> float:
    """1/m in dry snow of so many millimetres (as water) an hour: ITU-R P.1814 at 550 nm, a S^1.38 dB/km."""
    return float((5.42e-5 * 550.0 + 5.4958776) * snow_rate**1.38 / _DECIBELS / 1000.0)


@dataclass(frozen=True)
class LidarWeather:
    """Fog, rain or snow: `amount` is the extinction in 1/m of fog, and millimetres (of water) an hour of the others."""

    kind: Literal["fog", "rain", "snow"]
    channel: str
    amount: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        if self.amount == 0:
            return frame

        def points(channel: str, sweep: PointSweep) -> Tensor:
            return self._in_the_air(
                sweep.points, generator_of(seed, self.kind, frame.scene_name, channel, sweep.timestamp_us)
            )

        return with_changed_sweeps(frame, (self.channel,), points)

    def _in_the_air(self, points: Tensor, draws: np.random.Generator) -> Tensor:
        recorded = points.numpy().astype(np.float64)
        distances = np.maximum(np.linalg.norm(recorded[:, :3], axis=1), 1e-3)
        luck = draws.random(len(points))
        air = self._returns(len(points), draws)
        before = np.maximum(recorded[:, 3], _FAINTEST)
        faded = before * np.exp(-2.0 * self._extinction() * distances)
        squared = np.maximum(distances, 1.0) ** 2
        # It was answered in clear air: the chance that it still is.
        solid = luck < np.expm1(-_ANSWERED * faded / squared) / np.expm1(-_ANSWERED * before / squared)
        weaker = ~solid | (air.intensities / np.maximum(air.distances, 1.0) ** 2 > faded / squared)
        in_air = (air.distances < distances) & weaker
        moved = recorded[:, :3] * np.where(in_air, air.distances / distances, 1.0)[:, None]
        intensities = np.clip(np.rint(np.where(in_air, air.intensities, faded)), 0.0, 255.0)
        changed = np.concatenate([moved, intensities[:, None], recorded[:, 4:]], axis=1)
        return torch.from_numpy(changed[solid | in_air].astype(np.float32))

    def _extinction(self) -> float:
        if self.kind == "fog":
            return self.amount
        return rain_extinction(self.amount) if self.kind == "rain" else snow_extinction(self.amount)

    def _returns(self, count: int, draws: np.random.Generator) -> DropReturns:
        if self.kind == "fog":
            return fog_returns(3.0 / self.amount, count, draws)
        if self.kind == "rain":
            return rain_returns(self.amount, count, draws)
        return particle_returns(
            _FLAKES * self.amount**_FLAKES_POWER, _FLAKES_SLOPE * self.amount**_FLAKES_SLOPE_POWER, count, draws
        )
