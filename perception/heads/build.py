"""Which detection heads there are."""

from typing import Annotated, Any

from pydantic import Field

from perception.grid import BevGrid
from perception.heads.center_head import CenterHead, CenterHeadConfig, CenterOutputs
from perception.heads.detection_head import DetectionHead
from perception.heads.query_head import QueryHead, QueryHeadConfig, QueryOutputs

# In a config file the field `kind` says which one it is.
HeadConfig = Annotated[CenterHeadConfig | QueryHeadConfig, Field(discriminator="kind")]
HeadOutputs = CenterOutputs | QueryOutputs


def build_head(config: HeadConfig, grid: BevGrid, channels: int, velocities: int = 0) -> DetectionHead[Any]:
    """The head of this config on a BEV (`grid`) with so many channels; `velocities`: columns of the radars' beside."""
    if isinstance(config, QueryHeadConfig):
        return QueryHead(config, grid, channels, velocities)
    return CenterHead(config, grid, channels, velocities)
