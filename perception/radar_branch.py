"""From radar points to a BEV map."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.pillars import PillarFeatures
from perception.sparse import SparseResidualBlock, SparseTensor, check_cells
from perception.voxelize import VoxelGrid, voxelize

# rcs runs to some tens of dBsm, speeds to some tens of m/s, ages to half a second (RADAR_POINT_FIELDS from rcs on).
_COLUMN_SCALES = (20.0, 10.0, 10.0, 0.5)


@dataclass(frozen=True)
class RadarConfig:
    """Pillars as large as the BEV grid's cells, sparse residual blocks, a dense neck.

    A radar does not measure height: z_range only has to hold the sensors' own.
    """

    width: int = 64
    blocks: int = 2
    z_range: tuple[float, float] = (-5.0, 5.0)
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((64, 128), (2, 3)))

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0 or not self.z_range[0] < self.z_range[1]:
            raise ValueError("width must be at least 1, blocks not negative, and z_range must rise")


class RadarBranch(nn.Module):
    """Points (x, y, z, rcs, vx_comp, vy_comp, age; ego) to (B, C, Y, X).

    A sample without a point in range gets zeros. `painted`: as of LidarBranch.
    """

    def __init__(self, config: RadarConfig, grid: BevGrid, channels: int, painted: int = 0) -> None:
        super().__init__()
        self.grid = VoxelGrid(grid, config.z_range, 1)
        check_cells(self.grid.shape)
        self.points = PillarFeatures((*_COLUMN_SCALES, *[1.0] * painted), config.width)
        self.blocks = nn.Sequential(*[SparseResidualBlock(config.width, 2, "radar") for _ in range(config.blocks)])
        self.neck = BevNeck(config.neck, config.width, channels)

    def forward(self, points: PointBatch) -> Float[Tensor, "B C Y X"]:
        """The radars' BEV map."""
        voxels = voxelize(points, self.grid)
        encoded: SparseTensor = self.blocks(self.points(voxels))
        bev: Tensor = self.neck(encoded.dense_bev())
        return bev * voxels.occupied_samples()[:, None, None, None].to(bev.dtype)
