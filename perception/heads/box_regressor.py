"""The small network that says, of features read at a place, what box stands there."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception.heads.box_codes import CODE_SLICES, BoxRegression
from perception.radar_velocities import COLUMNS_OF_WINDOW


class BoxRegressor(nn.Sequential):
    """Two layers, for `groups` boxes at each place (their numbers: `BoxRegression.of`).

    With `velocities` it reads so many columns of what the radars say around the place as well (perception/
    radar_velocities.py): beside the features, and through one layer of its own as what the velocity is counted from. At
    first that is the mean of the last window.
    """

    def __init__(self, channels: int, hidden: int, *, groups: int, quality: bool, velocities: int) -> None:
        self.groups, self.width = groups, BoxRegression.width(quality)
        super().__init__(nn.Linear(channels + velocities, hidden), nn.ReLU(), nn.Linear(hidden, groups * self.width))
        self.speed: nn.Linear | None = None
        if velocities:
            self.speed = nn.Linear(velocities, 2, bias=False)
            with torch.no_grad():
                self.speed.weight.zero_()
                self.speed.weight[:, -COLUMNS_OF_WINDOW:-1] = torch.eye(2)

    def forward(
        self, features: Float[Tensor, "*K C"], velocities: Float[Tensor, "*K W"] | None = None
    ) -> Float[Tensor, "*K G N"]:
        """The numbers of each group's box at each place."""
        if self.speed is None or velocities is None:
            return self._numbers(features)
        velocities = velocities.to(features.dtype)
        numbers = self._numbers(torch.cat([features, velocities], dim=-1))
        columns = CODE_SLICES["velocity"]
        return numbers + F.pad(self.speed(velocities), (columns.start, self.width - columns.stop))[..., None, :]

    def _numbers(self, read: Float[Tensor, "*K R"]) -> Float[Tensor, "*K G N"]:
        numbers: Tensor = self[2](self[1](self[0](read)))
        return numbers.view(*numbers.shape[:-1], self.groups, self.width)
