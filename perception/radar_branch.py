"""From radar points to a BEV map."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from datasets.samples.batch import PointBatch
from datasets.samples.sample import FULL_RADAR_POINT_FIELDS, RADAR_POINT_FIELDS, RadarFields, radar_point_fields
from perception.bev_neck import BevNeck, BevNeckConfig
from perception.grid import BevGrid
from perception.pillars import PillarFeatures
from perception.radar_velocities import COLUMNS_OF_WINDOW, velocities_around
from perception.sparse import SparseResidualBlock, SparseTensor, check_cells
from perception.voxelize import VoxelGrid, voxelize

# rcs runs to some tens of dBsm, speeds to some tens of m/s, ages to half a second (RADAR_POINT_FIELDS from rcs on).
_COLUMN_SCALES = (20.0, 10.0, 10.0, 0.5)
# Of the full fields: the measured velocity, and the classes in which the radar gives its uncertainties, 0 to about 30.
_FULL_SCALES = {"vx": 10.0, "vy": 10.0, "x_rms": 20.0, "y_rms": 20.0, "vx_rms": 20.0, "vy_rms": 20.0}
# Fields that are states, each from 0 on so many: a column for each. What the states mean: nuscenes-devkit,
# `RadarPointCloud.from_file`. The field `id` is a place in the radar's own list: it says nothing of a return.
_STATES = {"dyn_prop": 8, "ambig_state": 5, "invalid_state": 18, "is_quality_valid": 2}
# The probability of a false alarm comes in rising steps, 0 to 7: a column for each step reached.
_STEPS = {"pdh0": 7}


@dataclass(frozen=True)
class RadarConfig:
    """Pillars as large as the BEV grid's cells, sparse residual blocks, a dense neck.

    A radar does not measure height: z_range only has to hold the sensors' own. fields: the columns of the points that
    the branch takes (`datasets.samples.sample.radar_point_fields`): seven, or everything that a radar says, for filters
    that leave to the network what they would otherwise throw away. velocity_windows: sides of the squares of cells
    around a box, odd and rising, whose mean velocities the head reads beside its features
    (perception/radar_velocities.py); none: it does not.
    """

    width: int = 64
    blocks: int = 2
    z_range: tuple[float, float] = (-5.0, 5.0)
    neck: BevNeckConfig = field(default_factory=lambda: BevNeckConfig((64, 128), (2, 3)))
    fields: RadarFields = "basic"
    velocity_windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0 or not self.z_range[0] < self.z_range[1]:
            raise ValueError("width must be at least 1, blocks not negative, and z_range must rise")
        windows = self.velocity_windows
        if any(window < 1 or window % 2 == 0 for window in windows) or sorted(set(windows)) != list(windows):
            raise ValueError(f"velocity_windows must be odd numbers of cells that rise, not {list(windows)}")

    @property
    def velocity_columns(self) -> int:
        """How many numbers of the radars' velocities a head reads at a cell."""
        return COLUMNS_OF_WINDOW * len(self.velocity_windows)


class RadarBranch(nn.Module):
    """Points (x, y, z, rcs, vx_comp, vy_comp, age; ego; or the full fields) to (B, C, Y, X).

    A sample without a point in range gets zeros. `painted`: as of LidarBranch. Raises ValueError for points of other
    fields.
    """

    def __init__(self, config: RadarConfig, grid: BevGrid, channels: int, painted: int = 0) -> None:
        super().__init__()
        self.config = config
        self.grid = VoxelGrid(grid, config.z_range, 1)
        check_cells(self.grid.shape)
        self.fields, self.columns = config.fields, len(radar_point_fields(config.fields)) + painted
        full = (*_FULL_SCALES.values(), *[1.0] * (sum(_STATES.values()) + sum(_STEPS.values())))
        scales = (*_COLUMN_SCALES, *(full if config.fields == "full" else ()), *[1.0] * painted)
        self.points = PillarFeatures(scales, config.width)
        self.blocks = nn.Sequential(*[SparseResidualBlock(config.width, 2, "radar") for _ in range(config.blocks)])
        self.neck = BevNeck(config.neck, config.width, channels)

    def forward(self, points: PointBatch) -> Float[Tensor, "B C Y X"]:
        """The radars' BEV map."""
        if points.points.shape[1] != self.columns:
            raise ValueError(
                f"radar points have {points.points.shape[1]} columns, and this branch takes {self.columns} "
                f"({self.fields} fields): make the samples with the same radar_fields"
            )
        voxels = voxelize(points, self.grid)
        if self.fields == "full":
            voxels = replace(voxels, points=with_states_apart(voxels.points))
        encoded: SparseTensor = self.blocks(self.points(voxels))
        bev: Tensor = self.neck(encoded.dense_bev())
        return bev * voxels.occupied_samples()[:, None, None, None].to(bev.dtype)

    def velocities(self, points: PointBatch) -> Float32[Tensor, "B W Y X"] | None:
        """What a head reads of the radars directly; None where the config has no windows."""
        windows = self.config.velocity_windows
        return velocities_around(points, self.grid, windows) if windows else None


def with_states_apart(points: Float32[Tensor, "P C"]) -> Float32[Tensor, "P D"]:
    """Points of the full fields, and whatever columns behind them, as numbers that a linear layer can use.

    The seven basic fields, measured velocity and uncertainties, a column of 0 or 1 for each state and step, the rest.
    """
    basic, count = len(RADAR_POINT_FIELDS), len(FULL_RADAR_POINT_FIELDS)
    columns = {name: points[:, index, None] for index, name in enumerate(FULL_RADAR_POINT_FIELDS)}
    parts = [points[:, :basic], *(columns[name] for name in _FULL_SCALES)]
    for name, states in _STATES.items():
        parts.append((columns[name] == torch.arange(states, device=points.device)).to(points.dtype))
    for name, steps in _STEPS.items():
        parts.append((columns[name] > torch.arange(steps, device=points.device)).to(points.dtype))
    return torch.cat([*parts, points[:, count:]], dim=1)
