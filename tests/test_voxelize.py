import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.samples.batch import PointBatch
from perception.grid import BevGrid
from perception.voxelize import VoxelGrid, voxelize, voxelize_with_torch

GRID = VoxelGrid(BevGrid((-8.0, 8.0), (-4.0, 4.0), 0.5), (-2.0, 2.0), 8)


def _cloud(count: int = 2000, batch_size: int = 2, seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 5, generator=generator) * torch.tensor([5.0, 3.0, 1.0, 1.0, 1.0])
    return PointBatch.of(list(points.split(count // batch_size)))


def test_means_equal_a_float64_loop() -> None:
    cloud = _cloud()
    members: dict[tuple[int, ...], list[list[float]]] = {}
    for sample, point in zip(cloud.sample_index.tolist(), cloud.points.double().tolist(), strict=True):
        cell = (math.floor((point[2] + 2) / 0.5), math.floor((point[1] + 4) / 0.5), math.floor((point[0] + 8) / 0.5))
        if all(0 <= index < size for index, size in zip(cell, (8, 16, 32), strict=True)):
            members.setdefault((sample, *cell), []).append(point)
    voxels = voxelize(cloud, GRID)
    assert [tuple(index) for index in voxels.indices.tolist()] == sorted(members)
    mean = voxels.mean(voxels.points)
    for row, key in enumerate(sorted(members)):
        inside = torch.tensor(members[key], dtype=torch.float64)
        assert voxels.counts[row] == len(inside)
        torch.testing.assert_close(mean[row].double(), inside.mean(0), atol=1e-5, rtol=1e-5)


def test_gradients_of_the_mean() -> None:
    voxels = voxelize(_cloud(200), GRID)
    values = torch.randn(len(voxels.points), 3, dtype=torch.float64, requires_grad=True)
    assert (voxels.counts > 1).any()
    assert torch.autograd.gradcheck(voxels.mean, (values,))


def test_a_point_lies_in_the_voxel_whose_middle_is_nearest() -> None:
    voxels = voxelize(_cloud(), GRID)
    offset = voxels.points[:, :3] - voxels.centers()[voxels.voxel_of_point]
    assert offset.abs().max() <= 0.25 + 1e-5


def test_bad_points_are_as_if_they_were_not_there() -> None:
    cloud = _cloud()
    bad = torch.zeros(6, 5)
    bad[0, 0], bad[1, 1], bad[2, 2], bad[3, 4] = math.nan, math.inf, -math.inf, math.nan
    bad[4, 0], bad[5, 2] = 3e38, 1e5
    halves = cloud.points.split(1000)
    spoilt = voxelize(PointBatch.of([torch.cat([bad, halves[0]]), torch.cat([halves[1], bad])]), GRID)
    clean = voxelize(cloud, GRID)
    assert torch.equal(spoilt.indices, clean.indices)
    assert torch.equal(spoilt.points, clean.points)
    assert torch.equal(spoilt.mean(spoilt.points), clean.mean(clean.points))


def test_the_far_edges_of_the_grid_are_outside() -> None:
    edges = torch.tensor([[-8.0, -4.0, -2.0, 0, 0], [8.0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0], [0, 0, 2.0, 0, 0]])
    voxels = voxelize(PointBatch.of([edges]), GRID)
    assert voxels.indices.tolist() == [[0, 0, 0, 0]]


def test_no_point_at_all_and_a_last_sample_without_points() -> None:
    empty = voxelize(PointBatch.of([torch.zeros(0, 5)] * 2), GRID)
    assert empty.indices.shape == (0, 4)
    assert empty.mean(empty.points).shape == (0, 5)
    assert empty.occupied_samples().tolist() == [0.0, 0.0]
    partly = voxelize(PointBatch.of([torch.zeros(0, 5), torch.zeros(1, 5), torch.zeros(0, 5)]), GRID)
    assert partly.occupied_samples().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("z_range", "z_cells"), [((1.0, 1.0), 4), ((-1.0, 1.0), 0)])
def test_a_grid_without_height_is_refused(z_range: tuple[float, float], z_cells: int) -> None:
    with pytest.raises(ValueError, match="layers"):
        VoxelGrid(GRID.bev, z_range, z_cells)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    cells=st.sampled_from([(0.5, 8), (1.0, 1), (4.0, 3), (0.125, 40)]),
)
def test_the_kernel_finds_what_torch_finds(seed: int, counts: list[int], cells: tuple[float, int]) -> None:
    """The CPU's radix sort against the plain operations that a CUDA device runs (here on the CPU), bit for bit."""
    generator = torch.Generator().manual_seed(seed)
    grid = VoxelGrid(BevGrid((-8.0, 8.0), (-4.0, 4.0), cells[0]), (-2.0, 2.0), cells[1])
    clouds = [torch.randn(count, 5, generator=generator) * torch.tensor([6.0, 3.0, 1.5, 1, 1]) for count in counts]
    # Points on the edges of cells, and some that are not finite.
    clouds = [torch.where(torch.rand(cloud.shape, generator=generator) < 0.3, cloud.round(), cloud) for cloud in clouds]
    clouds = [torch.where(torch.rand(cloud.shape, generator=generator) < 0.02, math.nan, cloud) for cloud in clouds]
    cloud = PointBatch.of(clouds)
    with_kernel, with_torch = voxelize(cloud, grid), voxelize_with_torch(cloud, grid)
    for name in ("indices", "points", "voxel_of_point", "counts"):
        assert torch.equal(getattr(with_kernel, name), getattr(with_torch, name)), name
