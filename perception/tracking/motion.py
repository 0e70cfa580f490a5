"""Where objects are and will be: Kalman filters over position and velocity in the ground plane.

As in AB3DMOT (Weng et al., 2020) the velocity is constant but for noise, here white acceleration; the detector's
velocity is a measurement besides its position (CenterPoint, Yin et al., 2021). Both axes have the same noise, so that
one 2 x 2 covariance serves both and turning the world turns the result.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Standard deviations of T objects: `acceleration` m/s², `position` m, `velocity` and `speed` (unknown) m/s."""

    acceleration: Float64[Tensor, "T"]
    position: Float64[Tensor, "T"]
    velocity: Float64[Tensor, "T"]
    speed: Float64[Tensor, "T"]

    def __getitem__(self, rows: Bool[Tensor, "T"] | Int64[Tensor, "K"]) -> "Noise":
        return Noise(self.acceleration[rows], self.position[rows], self.velocity[rows], self.speed[rows])


@dataclass(frozen=True)
class Motion:
    """T objects: positions (T, 2) m, velocities (T, 2) m/s, covariance (T, 2, 2) of (position, velocity) of an axis."""

    positions: Float64[Tensor, "T 2"]
    velocities: Float64[Tensor, "T 2"]
    covariance: Float64[Tensor, "T 2 2"]

    def __getitem__(self, rows: Bool[Tensor, "T"] | Int64[Tensor, "K"]) -> "Motion":
        return Motion(self.positions[rows], self.velocities[rows], self.covariance[rows])


def first_seen(positions: Float64[Tensor, "T 2"], velocities: Float64[Tensor, "T 2"], noise: Noise) -> Motion:
    """Objects of which there is one detection. An unknown velocity (NaN) is taken as 0, give or take `speed`."""
    known = velocities.isfinite().all(dim=1)
    spread = torch.where(known, noise.velocity, noise.speed)
    covariance = torch.diag_embed(torch.stack([noise.position.square(), spread.square()], dim=1))
    return Motion(positions, torch.where(known[:, None], velocities, 0.0), covariance)


def predicted(motion: Motion, seconds: float, noise: Noise) -> Motion:
    """The same objects `seconds` later."""
    step = torch.tensor([[1.0, seconds], [0.0, 1.0]], dtype=torch.float64)
    push = torch.tensor([seconds**2 / 2, seconds], dtype=torch.float64)
    pushed = noise.acceleration.square()[:, None, None] * torch.outer(push, push)
    return Motion(
        motion.positions + seconds * motion.velocities,
        motion.velocities,
        step @ motion.covariance @ step.T + pushed,
    )


def corrected(
    motion: Motion, positions: Float64[Tensor, "T 2"], velocities: Float64[Tensor, "T 2"], noise: Noise
) -> Motion:
    """The objects after a detection of each; an unknown velocity (NaN) says nothing."""
    motion = _measured(motion, 0, positions, noise.position.square())
    known = velocities.isfinite().all(dim=1)
    variance = torch.where(known, noise.velocity.square(), torch.inf)
    return _measured(motion, 1, torch.where(known[:, None], velocities, motion.velocities), variance)


def _measured(motion: Motion, which: int, measured: Float64[Tensor, "T 2"], variance: Float64[Tensor, "T"]) -> Motion:
    """The update by one measurement: of the positions (0) or of the velocities (1)."""
    column = motion.covariance[:, :, which]
    gain = column / (column[:, which] + variance)[:, None]
    difference = measured - (motion.positions, motion.velocities)[which]
    return Motion(
        motion.positions + gain[:, :1] * difference,
        motion.velocities + gain[:, 1:] * difference,
        motion.covariance - gain[:, :, None] * motion.covariance[:, which, None, :],
    )
