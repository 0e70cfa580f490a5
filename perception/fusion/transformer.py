"""The BEV mid-fusion transformer: modalities attend at each cell, then cells attend to their neighbourhood."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perception.bev_neck import CellNorm
from perception.fusion.modality_attention import ModalityAttention
from perception.fusion.strategy import FusionStrategy
from perception.fusion.window_attention import WindowLayer
from perception.grid import BevGrid


@dataclass(frozen=True)
class FusionTransformerConfig:
    """`layers` of window attention (every second one shifted) over patches of `stride` x `stride` cells.

    `width`: channels of a patch. `window`: patches along a window's side. `expansion`: of the feed-forward layers.
    """

    kind: Literal["transformer"] = "transformer"
    layers: int = 2
    width: int = 64
    heads: int = 4
    window: int = 8
    stride: int = 2
    expansion: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "heads", "window", "stride", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.layers < 0:
            raise ValueError(f"layers must not be negative, it is {self.layers}")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.heads} heads")

    def check(self, grid: BevGrid, channels: int) -> None:
        """Raise ValueError where a BEV of these cells and channels does not divide into patches and heads."""
        if channels % self.heads:
            raise ValueError(f"{channels} channels do not divide into the fusion's {self.heads} heads")
        rows, columns = grid.shape
        if rows % self.stride or columns % self.stride:
            raise ValueError(
                f"a grid of {rows} x {columns} cells is no whole number of the fusion's patches of "
                f"{self.stride} x {self.stride} cells"
            )


class BevFusionTransformer(FusionStrategy):
    """The modalities attend to one another at each cell, then the cells to their neighbourhood.

    First each cell fuses its modalities at the full resolution, where objects are apart (`ModalityAttention`); then
    patches of cells look around in shifted windows (`WindowLayer`, after Swin, Liu et al. 2021), which needs reach
    rather than resolution; what they find is added to the cells.
    """

    def __init__(self, config: FusionTransformerConfig, grid: BevGrid, channels: int) -> None:
        super().__init__()
        config.check(grid, channels)
        rows, columns = grid.shape
        self.at_cells = ModalityAttention(channels, config.heads)
        self.to_patches = nn.Conv2d(channels, config.width, config.stride, config.stride)
        self.row_position = nn.Parameter(torch.randn(rows // config.stride, 1, config.width) * 0.02)
        self.column_position = nn.Parameter(torch.randn(1, columns // config.stride, config.width) * 0.02)
        self.layers = nn.ModuleList(
            WindowLayer(config.width, config.heads, config.window, bool(index % 2), config.expansion)
            for index in range(config.layers)
        )
        self.to_cells = nn.ConvTranspose2d(config.width, channels, config.stride, config.stride)
        self.norm = CellNorm(channels)

    def forward(
        self,
        modality_bevs: Float[Tensor, "B 3 C Y X"],
        pose: Float[Tensor, "B C"],
        availability: Bool[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B C Y X"], Float[Tensor, "B 4 Y X"]]:
        """See FusionStrategy. With no modality available every sample gets the same learned BEV.

        The weights are those at the cells, before the windows; what is left to 1 went to "nothing seen".
        """
        rows, columns = modality_bevs.shape[-2:]
        sensors = modality_bevs.permute(0, 1, 3, 4, 2).flatten(2, 3)  # channels last, as the branches lay them out
        cells, weights = self.at_cells(sensors, pose, availability)
        bev = cells.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        patches = self.to_patches(bev).permute(0, 2, 3, 1) + self.row_position + self.column_position
        for layer in self.layers:
            patches = layer(patches)
        bev = bev + self.to_cells(patches.permute(0, 3, 1, 2))
        return self.norm(bev), weights.unflatten(-1, (rows, columns))
