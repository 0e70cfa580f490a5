"""LiDAR depth as an input of lift-splat: what the net sees, and that a sample without LiDAR stays by itself."""

import math
from dataclasses import replace

import numpy as np
import torch
from nuscenes.utils.geometry_utils import view_points

from datasets.samples.batch import Batch
from perception.detector import Detector, DetectorConfig
from perception.image_features import FeaturePixels
from perception.lidar_depth import nearest_depths
from perception.tasks.depth import DepthTaskConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from tests.random_batch import random_batch
from tests.small_run import small_detector


def with_lidar_depth() -> DetectorConfig:
    config = small_detector()
    assert config.camera is not None
    view = LiftSplatConfig(depth_bins=8, lidar_depth=True)
    return replace(config, camera=replace(config.camera, view=view), depth=DepthTaskConfig(max_age=0.5))


def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(with_lidar_depth())


def batch_of(count: int) -> Batch:
    return random_batch(count, torch.Generator().manual_seed(1))


def test_depths_equal_the_devkit_chain() -> None:
    batch = batch_of(1)
    owner, poses = torch.zeros(6, dtype=torch.int64), batch.ego_from_cam[0]
    found = nearest_depths(batch.lidar, FeaturePixels(batch.intrinsics[0], poses, owner, (8, 12), 8))
    cloud = batch.lidar.points[:, :3].double().numpy().T
    expected = np.full((6, 8, 12), np.inf)
    for camera in range(6):
        cam_from_ego = np.linalg.inv(poses[camera].double().numpy())
        in_cam = cam_from_ego[:3, :3] @ cloud + cam_from_ego[:3, 3:]
        pixels = view_points(in_cam, batch.intrinsics[0, camera].double().numpy(), normalize=True)
        for u, v, depth in zip(pixels[0], pixels[1], in_cam[2], strict=True):
            row, column = math.floor(v / 8 + 0.5), math.floor(u / 8 + 0.5)
            if depth > 0 and 0 <= row < 8 and 0 <= column < 12:
                expected[camera, row, column] = min(expected[camera, row, column], depth)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert np.isfinite(expected).mean() > 0.2


def test_every_parameter_gets_a_gradient_and_the_camera_sees_the_points() -> None:
    network, batch = detector(), batch_of(2)
    predictions = network(batch)
    network.losses(predictions, batch).total.backward()
    for name, parameter in network.camera.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    network.eval()
    moved = replace(batch, lidar=replace(batch.lidar, points=batch.lidar.points + 0.5))
    assert not torch.equal(network(moved).modality_bevs[:, 0], network(batch).modality_bevs[:, 0])


def test_a_missing_lidar_is_two_planes_of_zeros_and_no_other_sample_matters() -> None:
    network, batch = detector().eval(), batch_of(2)
    lacking = replace(batch, lidar_available=torch.tensor([True, False]))
    expected = network(lacking)
    camera = expected.modality_bevs[1, 0]
    assert expected.images is not None
    assert not expected.images.lidar_depth[6:].any()
    assert expected.images.lidar_depth[:6].any()
    # What stands in the points of the sample without LiDAR, and where the other sample's are, makes no difference.
    other = batch.lidar.sample_index == 1
    garbage = torch.where(other[:, None], math.nan, batch.lidar.points + 1.0)
    found = network(replace(lacking, lidar=replace(batch.lidar, points=garbage)))
    assert torch.equal(found.modality_bevs[1, 0], camera)
    assert not torch.equal(found.modality_bevs[0, 0], expected.modality_bevs[0, 0])
    # And it is as in a batch of its own without any LiDAR.
    alone = network(batch.without("lidar"))
    torch.testing.assert_close(alone.modality_bevs[1, 0], camera, atol=1e-5, rtol=1e-4)


def test_training_without_any_lidar_stays_finite() -> None:
    network, batch = detector().train(), batch_of(2).without("lidar")
    losses = network.losses(network(batch), batch)
    losses.total.backward()
    assert losses.total.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
