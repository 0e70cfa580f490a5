"""Dynamic voxelisation: every point in range goes to its voxel, none is dropped for want of room."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from datasets.samples.batch import PointBatch
from perception.grid import BevGrid
from perception.sparse_product import sparse_product, starts_of
from perception.voxel_kernels import MAX_POINTS, MAX_VOXELS, row_means, voxels_of_points


@dataclass(frozen=True)
class VoxelGrid:
    """A BEV grid with `z_cells` equal layers between z_range[0] and z_range[1] (metres, ego). One layer: pillars."""

    bev: BevGrid
    z_range: tuple[float, float]
    z_cells: int

    def __post_init__(self) -> None:
        if self.z_cells < 1 or not self.z_range[0] < self.z_range[1]:
            raise ValueError(f"z_range {self.z_range} cannot be cut into {self.z_cells} layers")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers (Z), rows (Y) and columns (X)."""
        return (self.z_cells, *self.bev.shape)

    @property
    def z_size(self) -> float:
        """Height of a layer, metres."""
        return (self.z_range[1] - self.z_range[0]) / self.z_cells


@dataclass(frozen=True)
class Voxels:
    """The V voxels that hold a point, in rising order of (batch, z, y, x), and their P points, voxel after voxel.

    indices (V, 4): batch, z, y, x. points (P, C): in ego; within a voxel in the order they came in. voxel_of_point (P):
    rows of `indices`. counts (V): points in each voxel, at least one.
    """

    grid: VoxelGrid
    batch_size: int
    indices: Int32[Tensor, "V 4"]
    points: Float32[Tensor, "P C"]
    voxel_of_point: Int64[Tensor, "P"]
    counts: Int64[Tensor, "V"]

    def mean(self, values: Float[Tensor, "P K"]) -> Float[Tensor, "V K"]:
        """The mean over each voxel of a value (P, K) that its points have."""
        if len(values) == 0:
            return values.new_zeros(0, values.shape[1])
        mean: Tensor = _VoxelMean.apply(values, self.voxel_of_point, self.counts)  # type: ignore[no-untyped-call]
        return mean

    def centers(self) -> Float32[Tensor, "V 3"]:
        """The middle (x, y, z) of each voxel, metres, ego."""
        bev = self.grid.bev
        sizes = self.points.new_tensor([bev.cell_size, bev.cell_size, self.grid.z_size])
        origin = self.points.new_tensor([bev.x_range[0], bev.y_range[0], self.grid.z_range[0]])
        return (self.indices[:, [3, 2, 1]] + 0.5) * sizes + origin

    def occupied_samples(self) -> Float32[Tensor, "B"]:
        """1 for a sample with a point in range, 0 for one without."""
        occupied = self.points.new_zeros(self.batch_size)
        return occupied.index_fill(0, self.indices[:, 0].long(), 1.0)


class _VoxelMean(torch.autograd.Function):
    """Means of consecutive rows; the gradient of a mean goes to each of its rows in equal parts."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "P K"], voxel_of_point: Int64[Tensor, "P"], counts: Int64[Tensor, "V"]
    ) -> Float[Tensor, "V K"]:
        ctx.save_for_backward(voxel_of_point, counts)
        if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
            return torch.from_numpy(row_means(values.detach().contiguous().numpy(), counts.numpy()))
        columns = torch.arange(len(values), device=values.device)
        return sparse_product(starts_of(counts), columns, values.new_ones(len(values)), values) / counts[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        voxel_of_point, counts = ctx.saved_tensors
        return (grads[0] / counts[:, None]).index_select(0, voxel_of_point), None, None


def voxelize(cloud: PointBatch, grid: VoxelGrid) -> Voxels:
    """Points whose first three columns are x, y, z in ego, to voxels. Deterministic, and the same on every device.

    Points outside the grid and points with a value that is not finite are left out.
    """
    points, (layers, rows, columns) = cloud.points, grid.shape
    many = len(points) >= MAX_POINTS or cloud.batch_size * layers * rows * columns >= MAX_VOXELS
    if many or points.device.type != "cpu" or points.dtype != torch.float32:
        return voxelize_with_torch(cloud, grid)
    # A kernel sees numbers only: the points are gathered below by torch, which knows of their gradients.
    origin, sizes = (corner.numpy() for corner in _origin_and_sizes(points, grid))
    arrays = (points.detach().contiguous().numpy(), cloud.sample_index.numpy(), origin, sizes)
    found = voxels_of_points(*arrays, cloud.batch_size, layers, rows, columns)
    indices, order, voxel_of_point, counts = (torch.from_numpy(array) for array in found)
    return Voxels(grid, cloud.batch_size, indices, points.index_select(0, order), voxel_of_point, counts)


def voxelize_with_torch(cloud: PointBatch, grid: VoxelGrid) -> Voxels:
    """`voxelize` in operations that run on every device: what it does on CUDA."""
    points, (layers, rows, columns) = cloud.points, grid.shape
    origin, sizes = _origin_and_sizes(points, grid)
    # Compared as floats: a NaN or an infinity has no integer.
    cells = torch.floor((points[:, :3] - origin) / sizes)
    inside = ((cells >= 0) & (cells < cells.new_tensor([columns, rows, layers]))).all(dim=1)
    # Nothing finite times zero is zero, everything else NaN.
    kept = torch.nonzero(inside & ((points * 0).sum(dim=1) == 0))[:, 0]
    x, y, z = cells.index_select(0, kept).long().unbind(dim=1)
    key = ((cloud.sample_index.index_select(0, kept) * layers + z) * rows + y) * columns + x
    key, order = torch.sort(key, stable=True)
    voxel_key, voxel_of_point, counts = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    indices = torch.stack(
        [
            voxel_key // (layers * rows * columns),
            voxel_key // (rows * columns) % layers,
            voxel_key // columns % rows,
            voxel_key % columns,
        ],
        dim=1,
    )
    return Voxels(grid, cloud.batch_size, indices.int(), points.index_select(0, kept[order]), voxel_of_point, counts)


def _origin_and_sizes(points: Float[Tensor, "P C"], grid: VoxelGrid) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """The lowest corner (x, y, z) of the grid and the sizes of a cell, metres."""
    bev = grid.bev
    origin = points.new_tensor([bev.x_range[0], bev.y_range[0], grid.z_range[0]])
    return origin, points.new_tensor([bev.cell_size, bev.cell_size, grid.z_size])
