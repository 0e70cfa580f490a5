"""Dynamic voxelisation: every point in range goes to its voxel, none is dropped for want of room."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from datasets.batch import PointBatch
from perception.grid import BevGrid
from perception.sparse_product import sparse_product, starts_of


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
        total: Tensor = _VoxelSum.apply(values, self.voxel_of_point, self.counts)  # type: ignore[no-untyped-call]
        return total / self.counts[:, None]

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


class _VoxelSum(torch.autograd.Function):
    """Sums over consecutive rows; the gradient of a sum goes to each of its rows."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "P K"], voxel_of_point: Int64[Tensor, "P"], counts: Int64[Tensor, "V"]
    ) -> Float[Tensor, "V K"]:
        ctx.save_for_backward(voxel_of_point)
        columns = torch.arange(len(values), device=values.device)
        return sparse_product(starts_of(counts), columns, values.new_ones(len(values)), values)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (voxel_of_point,) = ctx.saved_tensors
        return grads[0].index_select(0, voxel_of_point), None, None


def voxelize(cloud: PointBatch, grid: VoxelGrid) -> Voxels:
    """Points whose first three columns are x, y, z in ego, to voxels. Deterministic.

    Points outside the grid and points with a value that is not finite are left out.
    """
    points = cloud.points
    origin = points.new_tensor([grid.bev.x_range[0], grid.bev.y_range[0], grid.z_range[0]])
    sizes = points.new_tensor([grid.bev.cell_size, grid.bev.cell_size, grid.z_size])
    layers, rows, columns = grid.shape
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
