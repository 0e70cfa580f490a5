"""Which places are compared: cells that several sensors have seen, and which of them are far enough apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from datasets.samples.batch import Batch, PointBatch
from perception.grid import BevGrid

# A camera has seen a cell if one of these heights over its middle (metres, ego) is in the picture: road and objects.
_HEIGHTS = (0.0, 1.0, 2.0)
_NEAREST = 1.0  # metres before the camera; nearer is the vehicle itself


@dataclass(frozen=True)
class Places:
    """K cells of a batch of BEVs: sample, row, column."""

    sample: Int64[Tensor, "K"]
    row: Int64[Tensor, "K"]
    column: Int64[Tensor, "K"]


def seen_cells(batch: Batch, grid: BevGrid) -> Bool[Tensor, "B 3 Y X"]:
    """Where the batch's cameras, LiDAR and radars have seen something: a picture shows the cell, a point lies in it.

    A sensor that is not available has seen nothing.
    """
    camera = pictured_cells(batch, grid)
    lidar = _cells_with_points(batch.lidar, grid) & batch.lidar_available[:, None, None]
    radar = _cells_with_points(batch.radar, grid) & batch.radar_available.any(dim=1)[:, None, None]
    return torch.stack([camera, lidar, radar], dim=1)


def pictured_cells(batch: Batch, grid: BevGrid) -> Bool[Tensor, "B Y X"]:
    """The cells that any available camera has in its picture. What hides them is not known."""
    height, width = batch.images.shape[-2:]
    middle = grid.centers().to(batch.intrinsics.device)
    seen = torch.zeros(len(batch.images), *grid.shape, dtype=torch.bool, device=middle.device)
    for z in _HEIGHTS:
        points = torch.cat([middle, torch.full_like(middle[..., :1], z)], dim=-1).reshape(-1, 3)
        u, v, depth = _pixels(points, batch.intrinsics, batch.ego_from_cam)
        inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1) & (depth > _NEAREST)
        inside = (inside & batch.camera_available[..., None]).any(dim=1)
        seen |= inside.view(seen.shape)
    return seen


def draw_places(seen_by_both: Bool[Tensor, "B Y X"], count: int, generator: torch.Generator | None) -> Places:
    """At most so many of these cells, each as likely as any other, drawn on the CPU (None: torch's own generator)."""
    sample, row, column = torch.nonzero(seen_by_both, as_tuple=True)
    chosen = torch.randperm(len(sample), generator=generator)[:count].to(sample.device)
    return Places(sample[chosen], row[chosen], column[chosen])


def far_apart(places: Places, cells: float) -> Bool[Tensor, "K K"]:
    """Pairs that are of two samples, or at least so many cells apart: negatives of each other."""
    position = torch.stack([places.row, places.column], dim=1).float()
    distance = (position[:, None] - position[None]).norm(dim=-1)
    same_sample = places.sample[:, None] == places.sample[None]
    out: Tensor = ~same_sample | (distance >= cells)
    return out


def _pixels(
    points_ego: Float[Tensor, "P 3"], intrinsics: Float32[Tensor, "B N 3 3"], ego_from_cam: Float32[Tensor, "B N 4 4"]
) -> tuple[Float[Tensor, "B N P"], Float[Tensor, "B N P"], Float[Tensor, "B N P"]]:
    """u, v and depth of points in all cameras. The BEV augmentation may have scaled and mirrored ego_from_cam."""
    # The inverse of broken matrices (of a camera that is not available) must not stop the others.
    cam_from_ego = torch.linalg.inv_ex(ego_from_cam.double()).inverse
    points_cam = points_ego.double() @ cam_from_ego[..., :3, :3].transpose(-1, -2) + cam_from_ego[..., None, :3, 3]
    pixels = points_cam @ intrinsics.double().transpose(-1, -2)
    depth = points_cam[..., 2]
    safe = torch.where(depth.abs() < 1e-6, 1e-6, depth)
    return pixels[..., 0] / safe, pixels[..., 1] / safe, depth


def _cells_with_points(cloud: PointBatch, grid: BevGrid) -> Bool[Tensor, "B Y X"]:
    rows, columns = grid.shape
    position = grid.cells(cloud.points[:, :2]).floor()
    inside = (position >= 0).all(1) & (position < position.new_tensor([columns, rows])).all(1)
    column, row = position[inside].long().unbind(1)
    hit = torch.zeros(cloud.batch_size, rows, columns, dtype=torch.bool, device=cloud.points.device)
    hit[cloud.sample_index[inside], row, column] = True
    return hit
