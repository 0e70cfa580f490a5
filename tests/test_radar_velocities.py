import math
from dataclasses import replace

import pytest
import torch

from datasets.samples.batch import PointBatch
from perception.detector import Detector
from perception.fusion.build import FusionKind, fusion_config
from perception.fusion.late import SensorOutputs
from perception.grid import BevGrid
from perception.heads.box_codes import CODE_SLICES, BoxRegression
from perception.heads.box_regressor import BoxRegressor
from perception.heads.query_head import QueryHeadConfig
from perception.radar_branch import RadarConfig
from perception.radar_velocities import velocities_around
from perception.voxelize import VoxelGrid
from tests.random_batch import random_batch
from tests.small_run import small_detector

GRID = VoxelGrid(BevGrid((-6.0, 6.0), (-4.0, 4.0), 1.0), (-2.0, 2.0), 1)


def test_each_window_has_the_mean_of_the_returns_in_it() -> None:
    generator = torch.Generator().manual_seed(0)
    # Some of them outside of the grid, beside it and above.
    points = torch.randn(40, 9, generator=generator) * torch.tensor([4.0, 3.0, 1.2, 5, 8.0, 8.0, 0.2, 1, 1])
    clouds = [points[:25], points[:0], points[25:]]
    windows = (1, 3, 7)
    found = velocities_around(PointBatch.of(clouds), GRID, windows)
    assert found.shape == (3, 9, 8, 12)
    for sample, cloud in enumerate(clouds):
        inside = cloud[(cloud[:, 0].abs() < 6) & (cloud[:, 1].abs() < 4) & (cloud[:, 2].abs() < 2)].double()
        cells = torch.stack([inside[:, 0] + 6, inside[:, 1] + 4], dim=1).floor()
        for index, window in enumerate(windows):
            for row in range(8):
                for column in range(12):
                    near = ((cells - torch.tensor([column, row])).abs() <= window // 2).all(dim=1)
                    expected = torch.zeros(3, dtype=torch.float64)
                    if near.any():
                        expected = torch.cat([inside[near, 4:6].mean(dim=0), torch.ones(1)])
                    here = found[sample, 3 * index : 3 * index + 3, row, column]
                    torch.testing.assert_close(here.double(), expected, atol=1e-5, rtol=1e-5)


def test_at_first_a_velocity_is_counted_from_the_mean_of_the_last_window() -> None:
    torch.manual_seed(0)
    regressor = BoxRegressor(4, 8, groups=2, quality=True, velocities=6)
    features = torch.randn(5, 4)
    silent = torch.zeros(5, 6)
    moving = torch.tensor([0.0, 0.0, 0.0, 7.0, -3.0, 1.0]).expand(5, 6)
    with torch.no_grad():
        before, after = regressor(features, silent), regressor(features, moving)
    assert before.shape == (5, 2, BoxRegression.width(quality=True))
    change = torch.zeros(before.shape[-1])
    change[CODE_SLICES["velocity"]] = torch.tensor([7.0, -3.0])
    torch.testing.assert_close(after - before, change.expand_as(before), atol=1e-5, rtol=1e-5)
    regressor(features, moving).square().sum().backward()
    assert all(parameter.grad.any() for parameter in regressor.radar.parameters())


def heads_of(kind: FusionKind, *, query: bool) -> Detector:
    config = replace(small_detector(), fusion=fusion_config(kind))
    if query:
        config = replace(config, head=QueryHeadConfig(channels=8, hidden=8, queries=20, heads=2, feedforward=8))
    torch.manual_seed(0)
    return Detector(config).eval()


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("kind", ["concat", "early", "late"])
def test_a_box_is_as_fast_as_the_radars_say_around_its_cell(kind: FusionKind, query: bool) -> None:
    """The branch is blind here: what changes the boxes' velocities is what the head reads beside the BEV."""
    detector = heads_of(kind, query=query)
    branch = detector.radar
    assert branch is not None
    with torch.no_grad():
        branch.neck.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    batch = random_batch(1, torch.Generator().manual_seed(0))
    everywhere = detector.config.grid.centers().view(-1, 2)
    cloud = torch.cat([everywhere, torch.zeros(len(everywhere), 5)], dim=1)
    fast = cloud.clone()
    fast[:, 4:6] = torch.tensor([6.0, -2.0])
    boxes = {}
    for name, points in (("standing", cloud), ("fast", fast)):
        outputs = detector(replace(batch, radar=PointBatch.of([points]))).head
        if isinstance(outputs, SensorOutputs):
            assert isinstance(detector.head.decode(outputs), list)
            outputs, head = outputs.by_sensor["radar"], detector.head.heads[detector.head.sensors.index("radar")]
        else:
            head = detector.head
        boxes[name] = head.decode(outputs)[0]
    assert len(boxes["fast"]) == len(boxes["standing"]) > 0
    change = boxes["fast"].velocities - boxes["standing"].velocities
    torch.testing.assert_close(change, torch.tensor([6.0, -2.0]).expand_as(change), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("query", [False, True])
def test_returns_of_radars_that_are_not_available_have_no_say(query: bool) -> None:
    detector = heads_of("concat", query=query)
    batch = random_batch(2, torch.Generator().manual_seed(0))
    off = torch.zeros_like(batch.radar_available)
    garbage = PointBatch.of([torch.full((9, 7), 5.0), torch.full((9, 7), math.nan)])
    without = detector.detect(replace(batch, radar=PointBatch.of([torch.zeros(0, 7)] * 2), radar_available=off))
    for left, right in zip(without, detector.detect(replace(batch, radar=garbage, radar_available=off)), strict=True):
        assert torch.equal(left.velocities, right.velocities)
        assert torch.equal(left.centers, right.centers)


def test_a_detector_without_windows_or_without_radars_has_no_such_layer() -> None:
    config = small_detector()
    for radar in (None, replace(config.radar, velocity_windows=())):
        names = [name for name, _ in Detector(replace(config, radar=radar)).named_parameters()]
        assert not any("regress.radar" in name for name in names)


@pytest.mark.parametrize("windows", [(0,), (1, 2), (3, -1), (5, 3), (3, 3)])
def test_windows_are_odd_and_rise(windows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="velocity_windows must be odd"):
        RadarConfig(velocity_windows=windows)


def test_one_return_that_is_wrong_by_far_does_not_drown_the_others() -> None:
    points = torch.zeros(4, 7)
    points[:, 4] = 6.0
    mad = points.clone()
    mad[0, 4:6] = torch.tensor([1e30, -1e4])
    sane, found = (velocities_around(PointBatch.of([cloud]), GRID, (1, 3)) for cloud in (points, mad))
    assert found.abs().max() <= 40.0
    row, column = 4, 6
    assert sane[0, :, row, column].tolist() == [6.0, 0.0, 1.0] * 2
    assert found[0, :, row, column].tolist() == [14.5, -10.0, 1.0] * 2


def test_a_head_that_reads_velocities_gets_them_and_no_other_does() -> None:
    features, velocities = torch.zeros(2, 4), torch.zeros(2, 6)
    for built, given in ((6, None), (0, velocities)):
        with pytest.raises(ValueError, match="both or neither"):
            BoxRegressor(4, 8, groups=1, quality=False, velocities=built)(features, given)


@pytest.mark.parametrize("query", [False, True])
def test_the_detectors_losses_reach_the_layers_for_velocities(query: bool) -> None:
    detector = heads_of("concat", query=query).train()
    batch = random_batch(1, torch.Generator().manual_seed(0))
    everywhere = detector.config.grid.centers().view(-1, 2)
    cloud = torch.cat([everywhere, torch.zeros(len(everywhere), 2), torch.ones(len(everywhere), 3)], dim=1)
    batch = replace(batch, radar=PointBatch.of([cloud]))
    detector.losses(detector(batch), batch).total.backward()
    for layer in (detector.head.regress.radar.hidden, detector.head.regress.radar.speed):
        assert layer.weight.grad.abs().sum() > 0
