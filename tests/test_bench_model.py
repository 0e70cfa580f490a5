"""The benchmark of the network: what it counts is right, and the ways that it compares do the same. No clocks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from datasets.samples.batch import PointBatch
from perception.bev_neck import BevNeckConfig
from perception.detector import Detector
from perception.grid import BevGrid
from perception.lidar_branch import LidarBranch, LidarConfig, PillarEncoderConfig, VoxelEncoderConfig
from perception.radar_branch import RadarConfig
from perception.sparse import SparseConv, SparseTensor
from perception.tasks.segmentation import SegmentationConfig
from perception.temporal import TemporalConfig
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.__main__ import main
from tools.benchmarks.branches import kernel_pairs, part_costs, step_shares
from tools.benchmarks.lidar_encoder import bench_lidar_encoder
from tools.benchmarks.view_transform import PoolingSize, bench_pooling, cumsum_trick
from tools.exit_codes import ExitCode
from tools.run_config import write_config


@pytest.mark.parametrize("shape", [(7, 9), (5, 7, 9)])
@pytest.mark.parametrize("strided", [False, True])
def test_pairs_are_counted_as_a_dense_convolution_of_ones_has_them(shape: tuple[int, ...], strided: bool) -> None:
    occupied = (torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    indices = torch.nonzero(occupied).int()
    sites = SparseTensor.of(torch.ones(len(indices), 1), indices, shape, 2)
    dims = len(shape)
    kernel = (3,) * (dims - 1) + (1,) if strided else (3,) * dims
    where = {"stride": (2,) * dims, "padding": (1,) * (dims - 1) + (0,)} if strided else {"level": "a"}
    conv = SparseConv(1, 1, kernel, **where)  # type: ignore[arg-type]
    dense_conv = F.conv2d if dims == 2 else F.conv3d
    ones = torch.ones(1, 1, *kernel)
    if strided:
        met = dense_conv(occupied[:, None], ones, stride=2, padding=where["padding"])
        expected = met.sum()
    else:
        expected = (dense_conv(occupied[:, None], ones, padding=1)[:, 0] * occupied).sum()
    assert kernel_pairs(conv, sites) == int(expected)


def test_no_site_has_no_pairs() -> None:
    sites = SparseTensor.of(torch.zeros(0, 1), torch.zeros(0, 3, dtype=torch.int32), (4, 4), 1)
    assert kernel_pairs(SparseConv(1, 1, (3, 3), level="a"), sites) == 0
    assert kernel_pairs(SparseConv(1, 1, (3, 3), stride=(2, 2), padding=(1, 1)), sites) == 0


def test_the_cumsum_trick_equals_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    context = torch.randn(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    cells = torch.randint(-1, 5, (9, 4), generator=generator).int()
    expected = torch.zeros(7, 3, dtype=torch.float64)
    for pixel in range(9):
        for depth_bin in range(4):
            if cells[pixel, depth_bin] >= 0:
                expected[cells[pixel, depth_bin]] += (depth[pixel, depth_bin] * context[pixel]).detach()
    torch.testing.assert_close(cumsum_trick(depth, context, cells, 7).detach(), expected)
    assert torch.autograd.gradcheck(lambda d, c: cumsum_trick(d, c, cells, 7), (depth, context))


def test_the_poolings_agree() -> None:
    comparisons = bench_pooling(PoolingSize(cameras=2, rows=3, columns=4, bins=5, channels=6, cells=40), 1, 1)
    assert len(comparisons) == 4
    for comparison in comparisons:
        assert comparison.agreement.within, comparison.lines()
        assert list(comparison.ratios()) == ["cumsum trick"]
    assert "new geometry, forward and backward" in comparisons[3].work


@pytest.mark.parametrize("encoder", [PillarEncoderConfig((8, 8), (1, 1)), VoxelEncoderConfig((4, 4, 8, 8))])
def test_the_lidar_encoder_does_what_spconv_does(encoder: PillarEncoderConfig | VoxelEncoderConfig) -> None:
    torch.manual_seed(0)
    grid = BevGrid((-12.8, 12.8), (-6.4, 6.4), 0.8)
    branch = LidarBranch(LidarConfig(encoder, BevNeckConfig((8,), (1,))), grid, 6)
    points = PointBatch.of([torch.randn(400, 5) * torch.tensor([6.0, 3.0, 1.0, 0.3, 0.2])])
    comparison = bench_lidar_encoder(branch.encoder, points, 1, 1)
    assert comparison.agreement.within, comparison.lines()
    assert type(branch.encoder).__name__ in comparison.work


def test_the_parts_add_up_and_a_layer_more_is_counted_as_what_it_is() -> None:
    batch = random_batch(1, torch.Generator().manual_seed(0))
    config = small_detector()
    costs = part_costs(Detector(config), batch)
    assert set(costs) == {"camera", "lidar", "radar", "pose", "fusion", "head"}
    network = Detector(config)
    assert sum(cost.parameters for cost in costs.values()) == sum(p.numel() for p in network.parameters())
    assert all(cost.gflop > 0 and cost.kept_mib > 0 for cost in costs.values())
    assert config.radar is not None
    deeper = RadarConfig(width=8, blocks=1, neck=BevNeckConfig((8,), (2,)))
    more = part_costs(Detector(replace(config, radar=deeper)), batch)
    # A 3 x 3 convolution of 8 to 8 channels on 16 x 16 cells.
    assert more["radar"].gflop - costs["radar"].gflop == pytest.approx(2 * 9 * 8 * 8 * 16 * 16 / 1e9)
    assert more["radar"].parameters - costs["radar"].parameters == 9 * 8 * 8 + 8 + 16
    # Its input, what the norm keeps, and what the ReLU keeps: some maps of 8 x 16 x 16.
    assert 1 <= (more["radar"].kept_mib - costs["radar"].kept_mib) / (4 * 8 * 16 * 16 / 2**20) <= 4
    assert more["camera"] == costs["camera"]
    remembering = part_costs(Detector(replace(config, temporal=TemporalConfig())), batch)
    assert remembering["temporal"].parameters > 0
    # Without a site no pair.
    without = part_costs(Detector(config), replace(batch, lidar=batch.lidar.without_points()))
    assert without["lidar"].gflop < costs["lidar"].gflop


def test_the_shares_of_a_step_are_of_all_its_parts() -> None:
    torch.manual_seed(0)
    network, batch = Detector(small_detector()), random_batch(1, torch.Generator().manual_seed(0))
    before = network.head.state_dict() if hasattr(network.head, "state_dict") else {}
    before = {name: value.clone() for name, value in before.items()}
    shares = step_shares(network, batch, small_config(1).training, steps=1)
    assert list(shares) == ["camera", "lidar", "radar", "pose", "fusion", "head", "losses, rest", "optimizer"]
    assert math.fsum(share.share for share in shares.values()) == pytest.approx(1.0)
    for part in ("camera", "lidar", "radar", "fusion", "losses, rest"):
        assert shares[part].forward > 0
        assert shares[part].backward > 0
    # Steps were taken, and the hooks are gone.
    assert any(not torch.equal(value, before[name]) for name, value in network.head.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_command_measures_and_writes_its_figures(
    nuscenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = tmp_path / "config.json", tmp_path / "figures.json"
    small = small_config(1)
    detector = replace(small.detector, segmentation=SegmentationConfig(channels=8, layers=1))
    write_config(config, replace(small, detector=detector))
    words = ["bench", "model", "--world", str(nuscenes_root), "--no-cumsum", "--rounds", "1", "--output", str(output)]
    for option in ("--presets", "--steps", "--encoders"):
        words += [option, str(config)]
    assert main(words) == ExitCode.FINE
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(output)
    assert "spconv called directly" in said
    figures = json.loads(output.read_text())
    assert len(figures["comparisons"]) == 1
    assert all(comparison["agreement"]["within"] for comparison in figures["comparisons"])
    assert set(figures["costs"][str(config)]) >= {"camera", "lidar", "all"}
    assert set(figures["step_shares"][str(config)]) >= {"camera", "lidar", "tasks", "optimizer"}


def test_what_cannot_be_measured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hourglass = LidarConfig(PillarEncoderConfig((8, 8), (1, 0), block="hourglass"), BevNeckConfig((8,), (1,)))
    config = small_config(1)
    write_config(tmp_path / "hourglass.json", replace(config, detector=replace(config.detector, lidar=hourglass)))
    encoder = ["--encoders", str(tmp_path / "hourglass.json")]
    for words in (["--rounds", "0"], ["--repeats", "0"], ["--presets", "huge"], encoder):
        assert main(["bench", "model", *words]) == ExitCode.INPUT_REFUSED
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
