"""From image features to the BEV grid: lift, splat (Philion & Fidler 2020) without the frustum tensor.

Each pixel spreads its features over the BEV cells that its depth bins fall into, weighted by the depths'
probabilities. That is one product of a sparse matrix (BEV cells x pixels, the probabilities) with the pixels'
features, so neither the features of the frustum's points nor a sort of them is ever in memory.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.sparse_product import sampled_product, sparse_product, starts_of
from perception.view_transform.view_transform import ViewTransform


@dataclass(frozen=True)
class LiftSplatConfig:
    """depth_range (metres along the optical axis) is cut into depth_bins equal bins.

    What lies outside z_range (metres, ego) is left out of the BEV.
    """

    kind: Literal["lift_splat"] = "lift_splat"
    depth_range: tuple[float, float] = (1.0, 60.0)
    depth_bins: int = 118
    z_range: tuple[float, float] = (-5.0, 3.0)

    def __post_init__(self) -> None:
        if not 0 < self.depth_range[0] < self.depth_range[1] or self.depth_bins < 1:
            raise ValueError(f"depth_range {self.depth_range} cannot be cut into {self.depth_bins} bins")

    def depths(self) -> Float32[Tensor, "D"]:
        """The middle of each bin, metres."""
        low, high = self.depth_range
        return low + (torch.arange(self.depth_bins) + 0.5) * ((high - low) / self.depth_bins)


class LiftSplat(ViewTransform):
    """Each pixel's features, spread along its ray as far as its distribution of depths says."""

    def __init__(self, config: LiftSplatConfig, grid: BevGrid, in_channels: int, channels: int) -> None:
        super().__init__()
        self.config, self.grid, self.channels = config, grid, channels
        self.depth_and_context = nn.Conv2d(in_channels, config.depth_bins + channels, 1)

    def forward(self, images: ImageFeatures) -> Float32[Tensor, "B C Y X"]:
        """See ViewTransform."""
        rows, columns = self.grid.shape
        both = self.depth_and_context(images.features).permute(0, 2, 3, 1).float().flatten(0, 2)
        depth = both[:, : self.config.depth_bins].softmax(dim=1)
        context = both[:, self.config.depth_bins :]
        cells = self.cells(images).flatten(0, 2)
        with torch.autocast(images.features.device.type, enabled=False):
            bev = splat(depth, context, cells, images.batch_size * rows * columns)
        return bev.view(images.batch_size, rows, columns, self.channels).permute(0, 3, 1, 2)

    def depth_logits(self, features: Float[Tensor, "K F V U"]) -> Float[Tensor, "K D V U"]:
        """What `forward` makes the depths' probabilities of, for the auxiliary task (perception/tasks/depth.py)."""
        bins, layer = self.config.depth_bins, self.depth_and_context
        return F.conv2d(features, layer.weight[:bins], None if layer.bias is None else layer.bias[:bins])

    def cells(self, images: ImageFeatures) -> Int64[Tensor, "K V U D"]:
        """The BEV cell (sample, row, column in one number) of each feature pixel at each depth; -1 outside the grid."""
        device = images.intrinsics.device
        height, width = images.size
        # Strided convolutions with padding (kernels 7 and 3) look at feature pixel j around image pixel j * stride.
        u = torch.arange(width, device=device) * float(images.stride)
        v = torch.arange(height, device=device) * float(images.stride)
        grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
        pixels = torch.stack([grid_u, grid_v, torch.ones_like(grid_u)], dim=-1).double()
        # float64: the inverse of the intrinsics is cheap, and cells must not depend on how it was rounded.
        cam_from_img = torch.linalg.inv(images.intrinsics.double())
        rays_cam = torch.einsum("kij,vuj->kvui", cam_from_img, pixels)
        rays_ego = torch.einsum("kij,kvuj->kvui", images.ego_from_cam[:, :3, :3].double(), rays_cam)
        depths = self.config.depths().to(device).double()
        origin = images.ego_from_cam[:, None, None, None, :3, 3].double()
        points_ego = rays_ego[:, :, :, None, :] * depths[:, None] + origin
        return self._cells_of(points_ego, images.sample_index)

    def _cells_of(
        self, points_ego: Float[Tensor, "K V U D 3"], sample_index: Int64[Tensor, "K"]
    ) -> Int64[Tensor, "K V U D"]:
        rows, columns = self.grid.shape
        cell = torch.floor(self.grid.cells(points_ego[..., :2].reshape(-1, 2))).view(*points_ego.shape[:-1], 2)
        column, row, z = cell[..., 0], cell[..., 1], points_ego[..., 2]
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        inside = inside & (z >= self.config.z_range[0]) & (z < self.config.z_range[1])
        # Non-finite numbers (a broken calibration) compare as outside, and never become an integer.
        column, row = torch.where(inside, column, 0.0).long(), torch.where(inside, row, 0.0).long()
        flat = (sample_index[:, None, None, None] * rows + row) * columns + column
        return torch.where(inside, flat, -1)


def splat(
    depth: Float[Tensor, "P D"], context: Float[Tensor, "P C"], cells: Int64[Tensor, "P D"], cell_count: int
) -> Float[Tensor, "cells C"]:
    """out[cell] = sum over pixels p and bins d with cells[p, d] == cell of depth[p, d] * context[p]; -1 is nowhere."""
    out: Tensor = _Splat.apply(depth, context, cells, cell_count)  # type: ignore[no-untyped-call]
    return out


class _Splat(torch.autograd.Function):
    """The sparse product. Its gradients: the transposed product for the features, inner products for the depths."""

    @staticmethod
    def forward(
        ctx: Any,
        depth: Float[Tensor, "P D"],
        context: Float[Tensor, "P C"],
        cells: Int64[Tensor, "P D"],
        cell_count: int,
    ) -> Float[Tensor, "cells C"]:
        context = context.contiguous()
        entries = torch.nonzero(cells.flatten() >= 0)[:, 0]
        pixel, cell = entries // cells.shape[1], cells.flatten()[entries]
        ctx.save_for_backward(depth, context, entries, pixel, cell)
        ctx.cell_count = cell_count
        # Stable: within a cell the sum runs in a fixed order.
        cell, order = torch.sort(cell, stable=True)
        starts = starts_of(torch.bincount(cell, minlength=cell_count))
        # Two bins of a pixel may fall into one cell: such a pixel stands twice in the cell's row.
        return sparse_product(starts, pixel[order], depth.flatten()[entries[order]], context)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        depth, context, entries, pixel, cell = ctx.saved_tensors
        grad = grads[0].contiguous()
        # The entries are in the order of the pixels already: as a matrix, that is the transposed one.
        starts = starts_of(torch.bincount(pixel, minlength=len(context)))
        grad_context = sparse_product(starts, cell, depth.flatten()[entries], grad)
        grad_values = sampled_product(starts, cell, context, grad)
        grad_depth = depth.new_zeros(depth.numel()).index_copy(0, entries, grad_values).view_as(depth)
        return grad_depth, grad_context, None, None
