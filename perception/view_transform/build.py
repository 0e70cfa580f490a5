"""The choice of the view transform: the type of its config decides."""

from typing import Annotated

from pydantic import Field

from perception.grid import BevGrid
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.sampling import Sampling, SamplingConfig
from perception.view_transform.view_transform import ViewTransform

# In a config file the field `kind` says which one it is.
ViewConfig = Annotated[LiftSplatConfig | SamplingConfig, Field(discriminator="kind")]


def build_view(config: ViewConfig, grid: BevGrid, in_channels: int, channels: int) -> ViewTransform:
    """The view transform of this config, from features with `in_channels` to a BEV (`grid`) with `channels`."""
    match config:
        case LiftSplatConfig():
            return LiftSplat(config, grid, in_channels, channels)
        case SamplingConfig():
            return Sampling(config, grid, in_channels, channels)
