"""From the past ego motion to one embedding for each sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from datasets.samples.sample import EGO_MOTION_FIELDS

# What a column of ego motion is divided by, so that all are about -1..1 in traffic: metres over two seconds, m/s,
# rad/s, m/s^2, seconds.
_SCALES: dict[str, float] = {
    "x": 20.0,
    "y": 20.0,
    "sin_yaw": 1.0,
    "cos_yaw": 1.0,
    "speed": 10.0,
    "yaw_rate": 0.5,
    "acceleration": 3.0,
    "age": 1.0,
    "gps_x": 20.0,
    "gps_y": 20.0,
    "gps_valid": 1.0,
}
# Scaled inputs beyond this are errors (a jump of the GPS); they must not drown the rest.
_LIMIT = 4.0


@dataclass(frozen=True)
class PoseConfig:
    """The width of the hidden layers."""

    width: int = 64

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")


class PoseEncoder(nn.Module):
    """Each past state through an MLP, then attention pooling over the valid ones.

    A state's age is among its inputs, so their order in time is known however many are missing.
    """

    def __init__(self, config: PoseConfig, channels: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor([_SCALES[name] for name in EGO_MOTION_FIELDS]), persistent=False)
        self.states = nn.Sequential(
            nn.Linear(len(EGO_MOTION_FIELDS), config.width),
            nn.LayerNorm(config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.ReLU(),
        )
        self.score = nn.Linear(config.width, 1, bias=False)
        self.out = nn.Linear(config.width, channels)

    scales: Tensor

    def forward(
        self, ego_motion: Float32[Tensor, "B T 11"], ego_motion_valid: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B C"]:
        """The embedding; zeros for a sample without a valid state."""
        usable = ego_motion_valid & torch.isfinite(ego_motion).all(dim=-1)
        scaled = (ego_motion / self.scales).clamp(-_LIMIT, _LIMIT)
        states = self.states(torch.where(usable[..., None], scaled, 0.0))
        # Not -inf: a row without a valid state would turn to NaN, also in the gradients.
        weights = self.score(states)[..., 0].float().masked_fill(~usable, -1e9).softmax(dim=-1)
        weights = weights * usable
        pooled = (weights[..., None] * states).sum(dim=1)
        out: Tensor = self.out(pooled)
        return out * usable.any(dim=1)[:, None]
