from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datasets.samples.batch import PointBatch
from perception.grid import BevGrid
from perception.pillars import PillarFeatures, largest_projections
from perception.voxelize import VoxelGrid, Voxels, voxelize

GRID = VoxelGrid(BevGrid((-8.0, 8.0), (-4.0, 4.0), 0.5), (-2.0, 4.0), 1)


VOXEL_GRID = replace(GRID, z_cells=4)


def _voxels(count: int = 600, grid: VoxelGrid = GRID) -> Voxels:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 5, generator=generator) * torch.tensor([5.0, 3.0, 1.0, 1.0, 0.3])
    return voxelize(PointBatch.of(list(points.split(count // 2))), grid)


def _by_loops(voxels: Voxels, weight: Tensor, bias: Tensor, scales: list[float]) -> Tensor:
    """PointPillars as it is written: all inputs of a point side by side, a product, the maximum over the pillar."""
    rows = []
    height = 6.0 / voxels.grid.z_cells
    for voxel, (_, z, y, x) in enumerate(voxels.indices.tolist()):
        points = voxels.points[voxels.voxel_of_point == voxel].double()
        xyz = points[:, :3]
        center = torch.tensor([-8.0 + (x + 0.5) * 0.5, -4.0 + (y + 0.5) * 0.5, -2.0 + (z + 0.5) * height])
        place = (xyz - torch.tensor([0.0, 0.0, 1.0])) / torch.tensor([8.0, 4.0, 3.0])
        others = (points[:, 3:] / torch.tensor(scales)).clamp(-4, 4)
        inputs = torch.cat([place, others, xyz - xyz.mean(0), xyz - center], dim=1)
        rows.append((inputs @ weight.T + bias).amax(dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("grid", [GRID, VOXEL_GRID], ids=["pillars", "voxels"])
def test_features_and_their_gradient_equal_a_float64_loop(grid: VoxelGrid) -> None:
    torch.manual_seed(0)
    voxels = _voxels(600 * grid.z_cells, grid)
    assert voxels.counts.max() > 3
    features = PillarFeatures((0.5, 0.25), 7)
    largest = features._largest(voxels)
    weight = features.linear.weight.detach().double().requires_grad_()
    expected = _by_loops(voxels, weight, features.linear.bias.detach().double(), [0.5, 0.25])
    torch.testing.assert_close(largest.double(), expected, atol=1e-5, rtol=1e-5)
    weights_out = torch.randn(largest.shape)
    (largest * weights_out).sum().backward()
    (expected * weights_out).sum().backward()
    assert features.linear.weight.grad is not None
    torch.testing.assert_close(features.linear.weight.grad.double(), weight.grad, atol=1e-3, rtol=1e-4)


def test_of_equal_points_the_first_gets_the_gradient() -> None:
    voxels = voxelize(PointBatch.of([torch.ones(3, 5)]), GRID)
    weight = torch.ones(2, 5, requires_grad=True)
    largest_projections(voxels.points, weight, voxels).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(2, 5))


def test_the_same_under_autocast() -> None:
    voxels, features = _voxels(), PillarFeatures((0.5, 0.25), 7)
    expected = features(voxels).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sites = features(voxels)
    torch.testing.assert_close(sites.features, expected, atol=1e-5, rtol=1e-5)


def test_no_point_at_all() -> None:
    voxels = voxelize(PointBatch.of([torch.zeros(0, 5)] * 2), GRID)
    sites = PillarFeatures((0.5, 0.25), 7)(voxels)
    assert sites.features.shape == (0, 7)
    assert sites.batch_size == 2


def test_voxels_become_sites_in_three_dimensions() -> None:
    voxels, features = _voxels(grid=VOXEL_GRID), PillarFeatures((0.5, 0.25), 7)
    sites = features(voxels, (5, 16, 32))
    assert sites.shape == (5, 16, 32)
    assert torch.equal(sites.indices, voxels.indices)
    assert sites.features.shape == (len(voxels.counts), 7)
