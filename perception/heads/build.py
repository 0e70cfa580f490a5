"""Which detection heads there are."""

from typing import Any

from perception.grid import BevGrid
from perception.heads.center_head import CenterHead, CenterHeadConfig, CenterOutputs
from perception.heads.detection_head import DetectionHead

HeadConfig = CenterHeadConfig
HeadOutputs = CenterOutputs


def build_head(config: HeadConfig, grid: BevGrid, channels: int) -> DetectionHead[Any]:
    """The head of this config on a BEV (`grid`) with so many channels."""
    return CenterHead(config, grid, channels)
