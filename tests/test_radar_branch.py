import math

import pytest
import torch

from datasets.samples.batch import PointBatch
from datasets.samples.sample import FULL_RADAR_POINT_FIELDS
from perception.bev_neck import BevNeckConfig
from perception.grid import BevGrid
from perception.radar_branch import RadarBranch, RadarConfig, with_states_apart
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


def _full_branch(painted: int = 0) -> RadarBranch:
    torch.manual_seed(0)
    config = RadarConfig(width=32, blocks=1, neck=BevNeckConfig((8, 8), (1, 1)), fields="full")
    return RadarBranch(config, GRID, 6, painted)


def _full_cloud(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    states = {"dyn_prop": 8, "ambig_state": 5, "invalid_state": 18, "is_quality_valid": 2, "pdh0": 8, "id": 200}
    columns = []
    for name in FULL_RADAR_POINT_FIELDS[7:]:
        if name in states:
            columns.append(torch.randint(states[name], (count,), generator=generator).float())
        else:
            columns.append(torch.randn(count, generator=generator) * 3)
    return torch.cat([_cloud(count), torch.stack(columns, dim=1)], dim=1)


def test_full_fields_reach_the_map_and_the_lists_index_does_not() -> None:
    branch = _full_branch().eval()
    cloud = _full_cloud(40)
    before = branch(PointBatch.of([cloud]))
    for column, name in enumerate(FULL_RADAR_POINT_FIELDS):
        changed = cloud.clone()
        # A state becomes another one; a number, a little larger.
        whole = bool((cloud[:, column] == cloud[:, column].round()).all())
        changed[:, column] += torch.where(cloud[:, column] > 0, -1.0, 1.0) if whole else 0.05
        assert torch.equal(branch(PointBatch.of([changed])), before) == (name == "id"), name


def test_states_are_columns_of_their_own() -> None:
    point = torch.zeros(1, 20)
    values = {
        "vx": 5.0,
        "dyn_prop": 6.0,
        "ambig_state": 3.0,
        "invalid_state": 17.0,
        "is_quality_valid": 1.0,
        "pdh0": 2.0,
    }
    for name, value in values.items():
        point[0, FULL_RADAR_POINT_FIELDS.index(name)] = value
    point[0, 19] = 9.0  # paint
    apart = with_states_apart(point)[0]
    lit = {7: 5.0, 13 + 6: 1.0, 21 + 3: 1.0, 26 + 17: 1.0, 44 + 1: 1.0, 46: 1.0, 47: 1.0, 53: 9.0}
    assert {index: value for index, value in enumerate(apart.tolist()) if value} == lit
    assert len(apart) == 54


def test_painted_full_points_train() -> None:
    branch = _full_branch(painted=3).train()
    paint = torch.randn(60, 3, requires_grad=True)
    out = branch(PointBatch.of([torch.cat([_full_cloud(60), paint], dim=1)]))
    (out * torch.randn(out.shape)).sum().backward()
    assert paint.grad is not None
    assert paint.grad.any()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_points_of_other_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="radar points have 7 columns, and this branch takes 19"):
        _full_branch()(PointBatch.of([_cloud(3)]))
    with pytest.raises(ValueError, match=r"have 19 columns, and this branch takes 7 \(basic fields\)"):
        _branch()(PointBatch.of([_full_cloud(3)]))
