import math
from dataclasses import replace

import pytest
import torch

from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.grid import BevGrid
from perception.lidar_branch import LidarBranch, LidarConfig, PillarEncoder, PillarEncoderConfig, VoxelEncoderConfig
from perception.sparse import SparseHourglass
from perception.voxelize import voxelize

GRID = BevGrid((-12.8, 12.8), (-6.4, 6.4), 0.8)
NECK = BevNeckConfig((8, 8), (1, 1))
PILLARS = LidarConfig(PillarEncoderConfig((8, 8), (1, 1)), NECK)
VOXELS = LidarConfig(VoxelEncoderConfig((4, 4, 8, 8)), NECK)
LEARNED = LidarConfig(VoxelEncoderConfig((4, 4, 8, 8), features="learned"), NECK)
HOURGLASS = LidarConfig(PillarEncoderConfig((8, 8), (2, 1), "hourglass", (1, 1, 1)), NECK)
KINDS = {"pillars": PILLARS, "hourglasses": HOURGLASS, "voxels": VOXELS, "learned voxels": LEARNED}
every_encoder = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def _cloud(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([10.0, 5.0, 1.0, 0.3, 0.2])
    return torch.randn(count, 5, generator=generator) * spread


def _branch(config: LidarConfig) -> LidarBranch:
    torch.manual_seed(0)
    return LidarBranch(config, GRID, 6)


@every_encoder
def test_shape_and_a_gradient_for_every_parameter(config: LidarConfig) -> None:
    branch = _branch(config).train()
    out = branch(PointBatch.of([_cloud(500), _cloud(300, 1)]))
    assert out.shape == (2, 6, 16, 32)
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@every_encoder
@pytest.mark.parametrize(("x", "y"), [(8.2, -3.3), (-10.1, 4.9)])
def test_a_point_lights_its_cell(config: LidarConfig, x: float, y: float) -> None:
    branch = _branch(config)
    voxels_of = PointBatch.of([torch.tensor([[x, y, 0.3, 0.5, 0.0]])])
    # Before the neck, whose kernels smear.
    encoded = branch.encoder(voxelize(voxels_of, branch.encoder.grid))
    row, column = divmod(int(encoded[0].abs().sum(0).argmax()), 32)
    lit = torch.nonzero(encoded[0].abs().sum(0))
    # A strided kernel of 3 may also reach the neighbours; an inverse one only what was there.
    expected = (math.floor((y + 6.4) / 0.8), math.floor((x + 12.8) / 0.8))
    assert (lit - torch.tensor(expected)).abs().max() <= 1
    assert abs(row - expected[0]) <= 1
    assert abs(column - expected[1]) <= 1
    assert list(expected) in lit.tolist()


@every_encoder
def test_empty_samples_get_zeros_and_change_no_other(config: LidarConfig) -> None:
    branch = _branch(config).eval()
    cloud = _cloud(400)
    alone = branch(PointBatch.of([cloud]))
    out = branch(PointBatch.of([torch.zeros(0, 5), cloud, torch.zeros(0, 5)]))
    # Another batch size takes other kernels, which round otherwise.
    torch.testing.assert_close(out[1], alone[0], atol=1e-5, rtol=1e-5)
    assert not out[0].any()
    assert not out[2].any()
    assert out.shape == (3, 6, 16, 32)
    nothing = branch.train()(PointBatch.of([torch.zeros(0, 5)] * 2))
    assert nothing.shape == (2, 6, 16, 32)
    assert not nothing.any()


@every_encoder
def test_points_out_of_range_are_an_empty_cloud(config: LidarConfig) -> None:
    far = _cloud(50) + torch.tensor([1e5, 0, 0, 0, 0])
    assert not _branch(config)(PointBatch.of([far])).any()


@every_encoder
def test_corrupt_points_are_as_if_they_were_not_there(config: LidarConfig) -> None:
    branch = _branch(config).eval()
    cloud = _cloud(400)
    bad = torch.zeros(3, 5)
    bad[0, 0], bad[1, 3], bad[2, 1] = math.nan, math.inf, 3e38
    assert torch.equal(branch(PointBatch.of([torch.cat([cloud, bad])])), branch(PointBatch.of([cloud])))


@every_encoder
def test_one_point_in_training(config: LidarConfig) -> None:
    out = _branch(config).train()(PointBatch.of([torch.tensor([[1.0, 1.0, 0.0, 0.1, 0.0]])]))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert out.any()


@every_encoder
def test_state_returns_bit_equal(config: LidarConfig) -> None:
    branch, cloud = _branch(config).eval(), PointBatch.of([_cloud(300)])
    other = LidarBranch(config, GRID, 6).eval()
    other.load_state_dict(branch.state_dict())
    assert torch.equal(branch(cloud), other(cloud))


def test_cells_are_derived_from_the_grid() -> None:
    assert _branch(PILLARS).encoder.grid.bev.cell_size == pytest.approx(0.4)
    assert _branch(VOXELS).encoder.grid.bev.cell_size == pytest.approx(0.1)
    published = LidarBranch(LidarConfig(neck=NECK), BevGrid((-54.0, 54.0), (-54.0, 54.0), 0.6), 8)
    assert published.encoder.grid.bev.cell_size == pytest.approx(0.075)
    assert published.encoder.grid.shape == (40, 1440, 1440)
    # 41 layers halve to 21, 11, 5 and 2: 128 channels in two layers.
    assert published.encoder.out_channels == 256


def test_every_point_of_a_crowded_voxel_counts() -> None:
    """Published voxels hold at most ten points; here also the last of hundreds has its say."""
    # Of so many channels, some rise with the intensity.
    encoder = _branch(replace(LEARNED, encoder=VoxelEncoderConfig((32, 4, 8, 8), features="learned"))).encoder
    crowd = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.09, 0.09, 0.19, 0.5, 0.3])
    crowd[-1, 3] = 1.0  # the only strong echo
    all_of_it, all_but_one = (voxelize(PointBatch.of([cloud]), encoder.grid) for cloud in (crowd, crowd[:-1]))
    assert all_of_it.counts.tolist() == [300]
    change = encoder.points(all_of_it, encoder.shape).features - encoder.points(all_but_one, encoder.shape).features
    assert change.abs().max() > 1e-2


def test_hednets_encoder_on_pillars_of_03_metres() -> None:
    """Zhang et al. 2023, 2D: 128 channels, 6 blocks of (2, 1, 1) on 360 x 360 pillars of 0.3 m, out at 0.6 m."""
    encoder = PillarEncoder(
        PillarEncoderConfig((128, 128), (6, 0), "hourglass"), BevGrid((-54.0, 54.0), (-54.0, 54.0), 0.6)
    )
    assert encoder.grid.shape == (1, 360, 360)
    assert encoder.grid.bev.cell_size == pytest.approx(0.3)
    blocks = [layer for layer in encoder.layers if isinstance(layer, SparseHourglass)]
    assert [[len(level) for level in block.blocks] for block in blocks] == [[2, 1, 1]] * 6
    # Per block: 4 residual blocks of two convolutions, two down, two up.
    assert sum(p.numel() for p in blocks[0].parameters() if p.dim() > 1) == (4 * 2 + 2 + 2) * 9 * 128 * 128


def test_learned_features_see_what_the_mean_does_not() -> None:
    """Two clouds whose voxels have the same means, one flat and one tall."""
    flat = torch.tensor([[0.05, 0.05, z, 0.5, 0.0] for z in (0.09, 0.11)])
    tall = torch.tensor([[0.05, 0.05, z, 0.5, 0.0] for z in (0.01, 0.19)])
    for config, same in ((VOXELS, True), (LEARNED, False)):
        branch = _branch(config).eval()
        one, other = (branch(PointBatch.of([cloud])) for cloud in (flat, tall))
        assert torch.allclose(one, other, atol=1e-5) == same


def test_a_grid_beyond_int32_is_refused() -> None:
    with pytest.raises(ValueError, match="can number only"):
        LidarBranch(VOXELS, BevGrid((-512.0, 512.0), (-512.0, 512.0), 0.8), 6)
    branch = _branch(VOXELS)
    with pytest.raises(ValueError, match="can number only"):
        branch(PointBatch(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64), 2000))


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        PillarEncoderConfig((8, 8), (1,))
    with pytest.raises(ValueError, match="two levels at least"):
        PillarEncoderConfig(hourglass=(1,))
    with pytest.raises(ValueError, match="whole number of layers"):
        VoxelEncoderConfig(voxel_height=0.3)
    with pytest.raises(ValueError, match="too few"):
        LidarBranch(LidarConfig(VoxelEncoderConfig(voxel_height=4.0), NECK), GRID, 6)


@every_encoder
def test_a_second_run_is_bit_equal_forward_and_backward(config: LidarConfig) -> None:
    cloud = PointBatch.of([_cloud(400), _cloud(200, 1)])
    results = []
    for _ in range(2):
        branch = _branch(config)
        out = branch(cloud)
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in branch.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@every_encoder
def test_inference_mode(config: LidarConfig) -> None:
    branch, cloud = _branch(config).eval(), PointBatch.of([_cloud(300)])
    with torch.inference_mode():
        out = branch(cloud)
    assert torch.equal(out, branch(cloud))
