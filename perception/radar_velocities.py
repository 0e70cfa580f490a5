"""What the radars say of the speed around each BEV cell, told to the heads directly."""

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from datasets.samples.batch import PointBatch
from datasets.samples.sample import RADAR_POINT_FIELDS
from perception.voxelize import VoxelGrid, voxelize

_VELOCITY = [RADAR_POINT_FIELDS.index("vx_comp"), RADAR_POINT_FIELDS.index("vy_comp")]
_FASTEST = 40.0  # m/s along an axis, as for the radar branch itself
COLUMNS_OF_WINDOW = 3
"""vx, vy and whether there is any return."""


def velocities_around(points: PointBatch, grid: VoxelGrid, windows: tuple[int, ...]) -> Float32[Tensor, "B W Y X"]:
    """Of each window (an odd number of cells, centred on the cell): the mean compensated velocity of the returns in it
    (vx, vy; m/s, ego, each held to 40 m/s) and 1, or 0, 0 and 0 where there is none.

    A radar measures the one thing of a box that no single picture or sweep shows. Through sparse convolutions, neck,
    fusion and trunk it has a long way to the box, on which the losses of places and sizes are louder (docs/evidence.md
    has the figures). So the head reads it beside the features, as CenterFusion's second head does (Nabati and Qi 2021).
    points: columns begin with RADAR_POINT_FIELDS. `grid`: one layer.
    """
    voxels = voxelize(points, grid)
    # One return that is wrong by far must not drown the others.
    velocities = voxels.points[:, _VELOCITY].clamp(-_FASTEST, _FASTEST)
    counts = voxels.counts[:, None].to(torch.float32)
    rows, columns = grid.bev.shape
    sample, _, row, column = voxels.indices.long().unbind(dim=1)
    sums = points.points.new_zeros(points.batch_size, rows, columns, COLUMNS_OF_WINDOW)
    sums[sample, row, column] = torch.cat([voxels.mean(velocities) * counts, counts], dim=1)
    sums = sums.permute(0, 3, 1, 2)
    maps = []
    for window in windows:
        # Along rows, then along columns: a sum over a square.
        around = F.avg_pool2d(sums, (1, window), stride=1, padding=(0, window // 2), divisor_override=1)
        around = F.avg_pool2d(around, (window, 1), stride=1, padding=(window // 2, 0), divisor_override=1)
        count = around[:, 2:].round()
        maps += [around[:, :2] / count.clamp(min=1), (count > 0).to(around.dtype)]
    return torch.cat(maps, dim=1)
