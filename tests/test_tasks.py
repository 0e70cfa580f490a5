"""Depth and the weights of tasks."""

import math
from dataclasses import replace

import pytest
import torch

from datasets.samples.batch import PointBatch
from perception.grid import BevGrid
from perception.image_features import FeaturePixels, ImageFeatures
from perception.losses import Losses
from perception.tasks.depth import depth_loss, depth_targets
from perception.tasks.task_weights import TaskWeights, TaskWeightsConfig
from perception.view_transform.lift_splat import LiftSplat, LiftSplatConfig
from perception.view_transform.splat import SplatPlan, splat
from tests.random_batch import random_batch

BINS = LiftSplatConfig(depth_range=(1.0, 17.0), depth_bins=8)


def test_depth_targets_equal_a_loop_over_points() -> None:
    """The nearest young point in each feature pixel; a camera sees the points of its own sample only."""
    batch = random_batch(2, torch.Generator().manual_seed(0), lidar_points=3000)
    cameras = [(0, 0), (0, 4), (1, 2)]
    sample = torch.tensor([index for index, _ in cameras])
    intrinsics = torch.stack([batch.intrinsics[s, c] for s, c in cameras])
    ego_from_cam = torch.stack([batch.ego_from_cam[s, c] for s, c in cameras])
    height, width = batch.images.shape[3] // 8, batch.images.shape[4] // 8
    found = depth_targets(
        batch.lidar, FeaturePixels(intrinsics, ego_from_cam, sample, (height, width), 8), BINS, max_age=0.4
    )
    expected = torch.full((3, height, width), -1)
    nearest = torch.full((3, height, width), math.inf)
    for k in range(3):
        cam_from_ego = torch.linalg.inv(ego_from_cam[k].double())
        for point, owner in zip(batch.lidar.points.double(), batch.lidar.sample_index.tolist(), strict=True):
            x, y, z = (cam_from_ego[:3, :3] @ point[:3] + cam_from_ego[:3, 3]).tolist()
            if owner != sample[k] or float(point[4]) > 0.4 or z <= 0:
                continue
            fx, cx, fy, cy = (float(intrinsics[k, i, j]) for i, j in ((0, 0), (0, 2), (1, 1), (1, 2)))
            column, row = round((fx * x / z + cx) / 8), round((fy * y / z + cy) / 8)
            if 0 <= column < width and 0 <= row < height and z < nearest[k, row, column]:
                nearest[k, row, column] = z
                expected[k, row, column] = math.floor((z - 1.0) / 2.0) if 1.0 <= z < 17.0 else -1
    assert torch.equal(found, expected)
    assert (found >= 0).sum() > 50
    assert (found == -1).any()


def test_a_target_is_the_bin_from_which_the_lift_puts_the_pixel_where_the_point_is() -> None:
    """Projection and lift undo each other: the bin's cell is the cell of the point, to half a bin."""
    grid = BevGrid((-20.0, 20.0), (-20.0, 20.0), 4.0)
    bins = LiftSplatConfig(depth_range=(1.0, 17.0), depth_bins=64)
    lift = LiftSplat(bins, grid, in_channels=4, channels=4)
    batch = random_batch(1, torch.Generator().manual_seed(0))
    sample = torch.zeros(6, dtype=torch.int64)
    intrinsics, poses = batch.intrinsics[0], batch.ego_from_cam[0]
    cells = lift.cells(ImageFeatures(torch.zeros(6, 4, 8, 12), intrinsics, poses, sample, 1, (64, 96), 8))
    # Points exactly on the rays of feature pixels.
    hits = 0
    for camera, row, column, depth in ((0, 4, 6, 5.3), (2, 5, 3, 8.1), (5, 4, 8, 12.7)):
        ray = torch.linalg.inv(intrinsics[camera]) @ torch.tensor([8.0 * column, 8.0 * row, 1.0])
        point = poses[camera, :3, :3] @ (ray * depth) + poses[camera, :3, 3]
        cloud = PointBatch.of([torch.cat([point, torch.zeros(2)])[None]])
        target = depth_targets(cloud, FeaturePixels(intrinsics, poses, sample, (8, 12), 8), bins, max_age=0.0)
        assert target[camera, row, column] == math.floor((depth - 1.0) * 4)
        x, y = grid.cells(point[None, :2])[0].floor().tolist()
        if cells[camera, row, column, target[camera, row, column]] == y * 10 + x:
            hits += 1
    assert hits == 3


def test_depth_loss_is_the_mean_over_known_pixels_and_zero_without_any() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 8, 3, 4, requires_grad=True)
    targets = torch.randint(-1, 8, (2, 3, 4))
    expected = [
        -logits[k, :, v, u].double().log_softmax(0)[targets[k, v, u]].item()
        for k, v, u in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist()
        if targets[k, v, u] >= 0
    ]
    assert 0 < len(expected) < 24
    assert depth_loss(logits, targets).total.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    nothing = depth_loss(logits, torch.full((2, 3, 4), -1)).total
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("lidar_depth", [False, True])
def test_the_lift_splat_puts_out_the_logits_of_its_own_depths(lidar_depth: bool) -> None:
    """All features to cells: what comes out for a depth that the logits are sure of is in the cells of that depth."""
    torch.manual_seed(0)
    bins, grid = replace(BINS, lidar_depth=lidar_depth), BevGrid((-20.0, 20.0), (-20.0, 20.0), 1.0)
    lift = LiftSplat(bins, grid, in_channels=6, channels=4)
    batch = random_batch(1, torch.Generator().manual_seed(0))
    owner = torch.zeros(6, dtype=torch.int64)
    features, measured = torch.randn(6, 6, 8, 12), torch.rand(6, 8, 12) * 20 * (torch.rand(6, 8, 12) < 0.3)
    images = ImageFeatures(features, batch.intrinsics[0], batch.ego_from_cam[0], owner, 1, (64, 96), 8, measured)
    logits = lift.depth_logits(images).permute(0, 2, 3, 1)
    mixed = features if lift.lidar is None else lift.lidar(images)
    context = lift.depth_and_context(mixed)[:, 8:].permute(0, 2, 3, 1)
    plan = SplatPlan.of(lift.cells(images).flatten(0, 2), 1600)
    expected = splat(logits.softmax(dim=3).flatten(0, 2), context.flatten(0, 2), plan)
    torch.testing.assert_close(lift(images)[0].permute(1, 2, 0).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def two_tasks(detection: torch.Tensor, depth: torch.Tensor) -> dict[str, Losses]:
    return {"detection": Losses.of({"heatmap": detection}), "depth": Losses.of({"bins": depth})}


def test_fixed_weights_multiply() -> None:
    weights = TaskWeights(TaskWeightsConfig(detection=2.0, depth=0.5), ["detection", "depth"])
    losses = weights(two_tasks(torch.tensor(3.0), torch.tensor(4.0)))
    assert losses.total == 8.0
    assert losses.parts == {"heatmap": 6.0, "depth_bins": 2.0}
    assert not list(weights.parameters())


def test_learnt_weights_come_to_rest_at_one_over_the_loss_and_a_silent_task_is_left_alone() -> None:
    weights = TaskWeights(TaskWeightsConfig(learned=True), ["detection", "depth", "cross_modal"])
    optimiser = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(400):
        losses = two_tasks(torch.tensor(5.0), torch.tensor(0.2))
        losses |= {"cross_modal": Losses.of({"camera-lidar": torch.zeros(())})}
        total = weights(losses)
        optimiser.zero_grad()
        total.total.backward()
        optimiser.step()
    assert torch.allclose(total.total, torch.stack(list(total.parts.values())).sum())
    assert weights.log_variances is not None
    assert torch.allclose((-weights.log_variances).exp(), torch.tensor([0.2, 5.0, 1.0]), rtol=1e-2)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="depth must be a positive number"):
        TaskWeightsConfig(depth=weight)
