"""The small network that says, of features read at a place, what box stands there."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception.heads.box_codes import CODE_SLICES, BoxRegression
from perception.radar_velocities import COLUMNS_OF_WINDOW


class BoxRegressor(nn.Sequential):
    """Two layers, for `groups` boxes at each place (their numbers: `BoxRegression.of`).

    With `velocities` it reads so many columns of what the radars say around the place as well
    (perception/radar_velocities.py). The layers for that have matrices of their own, so that a head without them takes
    the weights of one with them.
    """

    def __init__(self, channels: int, hidden: int, *, groups: int, quality: bool, velocities: int) -> None:
        width = BoxRegression.width(quality)
        super().__init__(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, groups * width))
        self.groups, self.width = groups, width
        self.radar = _RadarLayers(velocities, hidden) if velocities else None

    def forward(
        self, features: Float[Tensor, "*K C"], velocities: Float[Tensor, "*K W"] | None = None
    ) -> Float[Tensor, "*K G N"]:
        """The numbers of each group's box at each place."""
        if (self.radar is None) != (velocities is None):
            raise ValueError("this head reads the radars' velocities: give it both or neither of layers and velocities")
        hidden, start = self[0](features), None
        if self.radar is not None and velocities is not None:
            velocities = velocities.to(features.dtype)
            hidden, start = hidden + self.radar.hidden(velocities), self.radar.speed(velocities)
        numbers: Tensor = self[2](self[1](hidden))
        numbers = numbers.view(*numbers.shape[:-1], self.groups, self.width)
        if start is None:
            return numbers
        columns = CODE_SLICES["velocity"]
        return numbers + F.pad(start, (columns.start, self.width - columns.stop))[..., None, :]


class _RadarLayers(nn.Module):
    """`hidden`: beside the features, at first without a say. `speed`: what the velocity is counted from, at first the
    mean of the last window.
    """

    def __init__(self, velocities: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(velocities, hidden, bias=False)
        self.speed = nn.Linear(velocities, 2, bias=False)
        nn.init.zeros_(self.hidden.weight)
        nn.init.zeros_(self.speed.weight)
        with torch.no_grad():
            self.speed.weight[:, -COLUMNS_OF_WINDOW:-1] = torch.eye(2)
