"""Points to one feature vector for each pillar or voxel, as a sparse map, every point counting.

PointPillars (Lang et al. 2019) and VoxelNet (Zhou & Tuzel 2018), made dynamic as in MVF (Zhou et al. 2020).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from perception.sparse import SiteNorm, SparseTensor
from perception.voxelize import Voxels

# Scaled inputs beyond this are measurement errors; they must not drown the rest.
_LIMIT = 4.0


class PillarFeatures(nn.Module):
    """A linear layer over each point, the largest value over each pillar (or voxel), norm and ReLU.

    A point's inputs: its place in the grid (-1..1), its other columns divided by `scales`, its offset to the mean of
    the pillar's points and to the pillar's middle, in metres. Published with norm and ReLU before the maximum: both
    keep the order of values, so the maximum may come first, and the points need neither.
    """

    def __init__(self, scales: tuple[float, ...], width: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales), persistent=False)
        self.linear = nn.Linear(3 + len(scales) + 6, width)
        self.norm = SiteNorm(width)

    scales: Tensor

    def forward(self, voxels: Voxels, shape: tuple[int, int, int] | None = None) -> SparseTensor:
        """Sites (batch, y, x) on the grid of `voxels`, which must have one layer; Float32 also under autocast.

        With a `shape` (Z, Y, X), which may have more layers than the voxels' grid: sites (batch, z, y, x).
        """
        with torch.autocast(voxels.points.device.type, enabled=False):
            largest = self._largest(voxels)
        indices = voxels.indices[:, [0, 2, 3]] if shape is None else voxels.indices
        sites = SparseTensor.of(largest, indices, shape or voxels.grid.shape[1:], voxels.batch_size)
        normed: SparseTensor = self.norm(sites)
        return normed

    def _largest(self, voxels: Voxels) -> Float32[Tensor, "V C"]:
        # The inputs that all points of a pillar share come out of the maximum: place = (center + offset) / half, and
        # offset to the mean = offset - mean offset. So only offset and the other columns are multiplied point by point.
        grid = voxels.grid
        low = voxels.points.new_tensor([grid.bev.x_range[0], grid.bev.y_range[0], grid.z_range[0]])
        high = voxels.points.new_tensor([grid.bev.x_range[1], grid.bev.y_range[1], grid.z_range[1]])
        middle, half = (low + high) / 2, (high - low) / 2
        centers = voxels.centers()
        offsets = voxels.points[:, :3] - centers.index_select(0, voxels.voxel_of_point)
        others = (voxels.points[:, 3:] / self.scales).clamp(-_LIMIT, _LIMIT)
        weight = self.linear.weight
        on_place, on_others, on_mean, on_center = weight[:, :3], weight[:, 3:-6], weight[:, -6:-3], weight[:, -3:]
        by_point = torch.cat([on_place / half + on_mean + on_center, on_others], dim=1)
        largest = largest_projections(torch.cat([offsets, others], dim=1), by_point, voxels)
        shared = torch.cat([(centers - middle) / half, -voxels.mean(offsets)], dim=1)
        return largest + F.linear(shared, torch.cat([on_place, on_mean], dim=1), self.linear.bias)


def largest_projections(
    values: Float32[Tensor, "P K"], weight: Float32[Tensor, "C K"], voxels: Voxels
) -> Float32[Tensor, "V C"]:
    """The largest of values @ weight.T over the points of each voxel."""
    if len(values) == 0:
        return values.new_zeros(0, len(weight))
    owner, count = voxels.voxel_of_point, len(voxels.counts)
    largest: Tensor = _LargestProjections.apply(values, weight, owner, count)  # type: ignore[no-untyped-call]
    return largest


class _LargestProjections(torch.autograd.Function):
    """Remembers which point holds each maximum, the first of equal ones: to it the gradient goes."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "P K"], weight: Float[Tensor, "C K"], owner: Int64[Tensor, "P"], count: int
    ) -> Float[Tensor, "V C"]:
        projected = values @ weight.T
        channels = len(weight)
        start = projected.new_full((count, channels), -torch.inf)
        largest = start.scatter_reduce(0, owner[:, None].expand(-1, channels), projected, "amax")
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            # Flat: nonzero with two indices takes three times as long.
            held = torch.nonzero((projected == largest.index_select(0, owner)).flatten())[:, 0]
            row, channel = held // channels, held % channels
            holder = row.new_full((count * channels,), len(values))
            holder = holder.scatter_reduce(0, owner[row] * channels + channel, row, "amin")
            ctx.save_for_backward(values, weight, holder.view(count, channels))
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, weight, holder = ctx.saved_tensors
        grad_values = grad_weight = None
        if ctx.needs_input_grad[0]:  # painted points only: what sensors measure needs none
            channels = len(weight)
            # A point holds each channel of its voxel at most once: nothing is added up here.
            place = (holder * channels + torch.arange(channels, device=holder.device)).flatten()
            projected = grads[0].new_zeros(len(values) * channels).index_copy(0, place, grads[0].flatten())
            grad_values = projected.view(-1, channels) @ weight
        if ctx.needs_input_grad[1]:
            # Column by column: (V, C) numbers at a time instead of (V, C, K).
            per_column = [(grads[0] * column[holder]).sum(dim=0) for column in values.unbind(dim=1)]
            grad_weight = torch.stack(per_column, dim=1)
        return grad_values, grad_weight, None, None
