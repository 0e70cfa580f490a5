"""From LiDAR points to a BEV map."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from datasets.samples.batch import PointBatch
from datasets.samples.sample import LIDAR_POINT_FIELDS
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.pillars import PillarFeatures
from perception.sparse import SiteNorm, SparseConv, SparseHourglass, SparseResidualBlock, SparseTensor, check_cells
from perception.voxelize import VoxelGrid, Voxels, voxelize

# Ego frame, metres: the published detectors' range.
_Z_RANGE = (-5.0, 3.0)
# Intensity is 0..1 already; ages reach half a second.
_COLUMN_SCALES = (1.0, 0.5)


@dataclass(frozen=True)
class PillarEncoderConfig:
    """Pillars with sparse 2D convolutions. widths[i]: channels at 1/2**i of the pillars' resolution.

    The last level has the BEV grid's cells, so a pillar is cell_size / 2**(levels - 1) wide. blocks[i]: how many blocks
    a level has, each a residual block or an hourglass, which has hourglass[j] residual blocks at 1/2**j of its level's
    resolution. HEDNet's (Zhang et al. 2023): widths (128, 128), blocks (6, 0), hourglass blocks, cells of 0.6 m.
    """

    widths: tuple[int, ...] = (64, 128)
    blocks: tuple[int, ...] = (2, 2)
    block: Literal["residual", "hourglass"] = "residual"
    hourglass: tuple[int, ...] = (2, 1, 1)
    z_range: tuple[float, float] = _Z_RANGE

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or not self.widths or min(self.widths) < 1 or min(self.blocks) < 0:
            raise ValueError(f"widths {self.widths} (at least 1 each) and blocks {self.blocks} must be as many")
        if len(self.hourglass) < 2 or min(self.hourglass) < 0:
            raise ValueError(f"hourglass must have blocks for two levels at least, none negative, not {self.hourglass}")
        if not self.z_range[0] < self.z_range[1]:
            raise ValueError(f"z_range {self.z_range} must rise")


@dataclass(frozen=True)
class VoxelEncoderConfig:
    """The sparse 3D encoder of SECOND (Yan et al. 2018) and CenterPoint (Yin et al. 2021).

    widths[i]: channels at 1/2**i of the voxels' resolution, two residual blocks each. The last level has the BEV
    grid's cells, so a voxel is cell_size / 2**(levels - 1) wide (1/8 with the four published levels). features: what a
    voxel is to the first layer: the mean of its points, or widths[0] features that are learnt as those of pillars are.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    features: Literal["mean", "learned"] = "mean"
    voxel_height: float = 0.2
    z_range: tuple[float, float] = _Z_RANGE

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"a voxel encoder needs at least two widths, each at least 1, not {self.widths}")
        layers = (self.z_range[1] - self.z_range[0]) / self.voxel_height if self.voxel_height > 0 else 0.0
        if layers < 1 or abs(layers - round(layers)) > 1e-6:
            raise ValueError(f"z_range {self.z_range} is not a whole number of layers of {self.voxel_height} m")


@dataclass(frozen=True)
class LidarConfig:
    """Which encoder (its type decides), and the dense neck after it."""

    encoder: PillarEncoderConfig | VoxelEncoderConfig = field(default_factory=VoxelEncoderConfig)
    neck: BevNeckConfig = field(default_factory=BevNeckConfig)


class LidarBranch(nn.Module):
    """Points (x, y, z, intensity, age; ego) to (B, C, Y, X). A sample without a point in range gets zeros.

    `painted`: columns that the points have more than these (early fusion), of numbers that need no scaling.
    Raises ValueError where the grid at voxel resolution is beyond what sparse convolutions can number.
    """

    def __init__(self, config: LidarConfig, grid: BevGrid, channels: int, painted: int = 0) -> None:
        super().__init__()
        scales = (*_COLUMN_SCALES, *[1.0] * painted)
        self.encoder: PillarEncoder | VoxelEncoder
        if isinstance(config.encoder, PillarEncoderConfig):
            self.encoder = PillarEncoder(config.encoder, grid, scales)
        else:
            self.encoder = VoxelEncoder(config.encoder, grid, scales)
        self.neck = BevNeck(config.neck, self.encoder.out_channels, channels)

    def forward(self, points: PointBatch) -> Float[Tensor, "B C Y X"]:
        """The LiDAR's BEV map."""
        voxels = voxelize(points, self.encoder.grid)
        bev: Tensor = self.neck(self.encoder(voxels))
        return bev * voxels.occupied_samples()[:, None, None, None].to(bev.dtype)


class PillarEncoder(nn.Module):
    """Pillar features, then levels of sparse blocks with a strided convolution between them.

    `scales`: what the points' columns after x, y, z are divided by.
    """

    def __init__(self, config: PillarEncoderConfig, grid: BevGrid, scales: tuple[float, ...] = _COLUMN_SCALES) -> None:
        super().__init__()
        levels = len(config.widths)
        self.grid = VoxelGrid(grid.scaled(0.5 ** (levels - 1)), config.z_range, 1)
        check_cells(self.grid.shape)
        self.points = PillarFeatures(scales, config.widths[0])
        self.layers = nn.Sequential()
        width = config.widths[0]
        for level, (next_width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            if level > 0:
                self.layers.append(SparseConv(width, next_width, (3, 3), stride=(2, 2), padding=(1, 1)))
                self.layers.append(SiteNorm(next_width))
            for block in range(blocks):
                name = f"level {level}"
                if config.block == "residual":
                    self.layers.append(SparseResidualBlock(next_width, 2, name))
                else:
                    hourglass = SparseHourglass(next_width, 2, name, f"{name}, hourglass {block}", config.hourglass)
                    self.layers.append(hourglass)
            width = next_width
        self.out_channels = width

    def forward(self, voxels: Voxels) -> Float[Tensor, "B C Y X"]:
        """The encoded map at the BEV grid's resolution."""
        encoded: SparseTensor = self.layers(self.points(voxels))
        return encoded.dense_bev()


class VoxelEncoder(nn.Module):
    """Voxel features, four levels of sparse 3D residual blocks, z folded into the channels.

    `scales`: what the points' columns after x, y, z are divided by.
    """

    def __init__(self, config: VoxelEncoderConfig, grid: BevGrid, scales: tuple[float, ...] = _COLUMN_SCALES) -> None:
        super().__init__()
        levels = len(config.widths)
        z_cells = round((config.z_range[1] - config.z_range[0]) / config.voxel_height)
        self.grid = VoxelGrid(grid.scaled(0.5 ** (levels - 1)), config.z_range, z_cells)
        # As published, one empty layer on top: 41 layers halve to 21, 11, 5 and 2 without losing one.
        _, rows, columns = self.grid.shape
        self.shape = (z_cells + 1, rows, columns)
        check_cells(self.shape)
        if 3 + len(_COLUMN_SCALES) != len(LIDAR_POINT_FIELDS):
            raise ValueError(
                f"there are scales for {len(_COLUMN_SCALES)} columns, and points have {LIDAR_POINT_FIELDS}"
            )
        self.scales = scales
        width = config.widths[0]
        self.points = PillarFeatures(scales, width) if config.features == "learned" else None
        inputs = 3 + len(scales) if self.points is None else width
        self.layers = nn.Sequential(SparseConv(inputs, width, (3, 3, 3), level="input"), SiteNorm(width))
        shape: tuple[int, ...] = self.shape
        for level, next_width in enumerate(config.widths):
            if level > 0:
                # The last level has no padding in z: 11 layers become 5.
                padding = (0 if level == levels - 1 else 1, 1, 1)
                shape = self._halve(shape, SparseConv(width, next_width, (3, 3, 3), stride=(2, 2, 2), padding=padding))
            self.layers.extend([SparseResidualBlock(next_width, 3, f"level {level}") for _ in range(2)])
            width = next_width
        shape = self._halve(shape, SparseConv(width, width, (3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0)))
        self.out_channels = width * shape[0]

    def _halve(self, shape: tuple[int, ...], conv: SparseConv) -> tuple[int, ...]:
        out = conv.out_shape(shape)
        if out[0] < 1:
            raise ValueError(f"{self.shape[0]} layers of voxels are too few for this encoder: lower voxel_height")
        self.layers.append(conv)
        self.layers.append(SiteNorm(conv.out_channels))
        return out

    def forward(self, voxels: Voxels) -> Float[Tensor, "B C Y X"]:
        """The encoded map at the BEV grid's resolution."""
        if self.points is None:
            sites = SparseTensor.of(self._means(voxels), voxels.indices, self.shape, voxels.batch_size)
        else:
            sites = self.points(voxels, self.shape)
        encoded: SparseTensor = self.layers(sites)
        return encoded.dense_bev()

    def _means(self, voxels: Voxels) -> Float32[Tensor, "V K"]:
        """The mean of the voxel's points, scaled to about -1..1: no norm over the batch does it further on."""
        bev, (low, high) = voxels.grid.bev, voxels.grid.z_range
        half = [(bev.x_range[1] - bev.x_range[0]) / 2, (bev.y_range[1] - bev.y_range[0]) / 2, (high - low) / 2]
        middle = [sum(bev.x_range) / 2, sum(bev.y_range) / 2, (low + high) / 2, *(0.0 for _ in self.scales)]
        mean = voxels.mean(voxels.points)
        scaled: Tensor = (mean - mean.new_tensor(middle)) / mean.new_tensor([*half, *self.scales])
        return torch.clamp(scaled, -4.0, 4.0)
