import math

import pytest
import torch

from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.grid import BevGrid
from perception.radar_branch import RadarBranch, RadarConfig
from perception.voxelize import voxelize

GRID = BevGrid((-12.8, 12.8), (-6.4, 6.4), 0.8)


def _branch() -> RadarBranch:
    torch.manual_seed(0)
    return RadarBranch(RadarConfig(width=8, blocks=1, neck=BevNeckConfig((8, 8), (1, 1))), GRID, 6)


def _cloud(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 7, generator=generator) * torch.tensor([10.0, 5.0, 0.5, 10.0, 5.0, 5.0, 0.2])


def test_shape_and_a_gradient_for_every_parameter() -> None:
    branch = _branch().train()
    out = branch(PointBatch.of([_cloud(60), _cloud(40, 1)]))
    assert out.shape == (2, 6, 16, 32)
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("x", "y"), [(8.2, -3.3), (-10.1, 4.9)])
def test_a_point_lights_its_cell_alone_before_the_neck(x: float, y: float) -> None:
    branch = _branch()
    cloud = PointBatch.of([torch.tensor([[x, y, 0.5, 5.0, 3.0, 0.0, 0.0]])])
    encoded = branch.blocks(branch.points(voxelize(cloud, branch.grid))).dense_bev()
    lit = torch.nonzero(encoded[0].abs().sum(0))
    assert lit.tolist() == [[math.floor((y + 6.4) / 0.8), math.floor((x + 12.8) / 0.8)]]


def test_each_column_matters() -> None:
    branch = _branch().eval()
    cloud = _cloud(30)
    before = branch(PointBatch.of([cloud]))
    for column in range(7):
        changed = cloud.clone()
        changed[:, column] += 0.05
        assert not torch.equal(branch(PointBatch.of([changed])), before), column


def test_empty_samples_get_zeros_and_change_no_other() -> None:
    branch = _branch().eval()
    cloud = _cloud(60)
    out = branch(PointBatch.of([torch.zeros(0, 7), cloud, torch.zeros(0, 7)]))
    # Another batch size takes other kernels, which round otherwise.
    torch.testing.assert_close(out[1], branch(PointBatch.of([cloud]))[0], atol=1e-5, rtol=1e-5)
    assert not out[0].any()
    assert not out[2].any()
    nothing = branch.train()(PointBatch.of([torch.zeros(0, 7)] * 2))
    assert nothing.shape == (2, 6, 16, 32)
    assert not nothing.any()


def test_corrupt_points_are_as_if_they_were_not_there() -> None:
    branch = _branch().eval()
    cloud = _cloud(60)
    bad = torch.zeros(2, 7)
    bad[0, 4], bad[1, 0] = math.nan, -math.inf
    assert torch.equal(branch(PointBatch.of([torch.cat([bad, cloud])])), branch(PointBatch.of([cloud])))


def test_one_point_in_training() -> None:
    out = _branch().train()(PointBatch.of([torch.zeros(1, 7)]))
    out.sum().backward()
    assert torch.isfinite(out).all()
