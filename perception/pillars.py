"""Points to one feature vector for each pillar, as a sparse map (PointPillars, Lang et al. 2019, made dynamic)."""

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from perception.sparse import SiteNorm, SparseTensor
from perception.voxelize import Voxels

# Scaled inputs beyond this are measurement errors; they must not drown the rest.
_LIMIT = 4.0


class PillarFeatures(nn.Module):
    """A linear layer over each point, the largest value over each pillar, norm and ReLU.

    Published with norm and ReLU before the maximum: both keep the order of values, so the maximum may come first, and
    the points need neither.
    A point's inputs: its place in the grid (-1..1), its other columns divided by `scales`, its offset to the mean of
    the pillar's points and to the pillar's middle, in metres.
    """

    def __init__(self, scales: tuple[float, ...], width: int) -> None:
        super().__init__()
        self.scales = scales
        self.linear = nn.Linear(3 + len(scales) + 6, width, bias=False)
        self.norm = SiteNorm(width)

    def forward(self, voxels: Voxels) -> SparseTensor:
        """Sites (batch, y, x) on the pillars' grid; `voxels` must have one layer."""
        largest = voxels.maximum(self.linear(self._inputs(voxels)).float())
        _, rows, columns = voxels.grid.shape
        indices = voxels.indices[:, [0, 2, 3]]
        sites: SparseTensor = self.norm(SparseTensor.of(largest, indices, (rows, columns), voxels.batch_size))
        return sites

    def _inputs(self, voxels: Voxels) -> Float32[Tensor, "P K"]:
        points, grid, owner = voxels.points, voxels.grid, voxels.voxel_of_point
        xyz = points[:, :3]
        low = points.new_tensor([grid.bev.x_range[0], grid.bev.y_range[0], grid.z_range[0]])
        high = points.new_tensor([grid.bev.x_range[1], grid.bev.y_range[1], grid.z_range[1]])
        place = (xyz - (low + high) / 2) * (2 / (high - low))
        others = points[:, 3:] / points.new_tensor(self.scales)
        to_mean = xyz - voxels.mean(xyz).index_select(0, owner)
        to_center = xyz - voxels.centers().index_select(0, owner)
        return torch.cat([place, others, to_mean, to_center], dim=1).clamp(-_LIMIT, _LIMIT)
