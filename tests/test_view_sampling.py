"""The `sampling` view transform: against a loop, against its own dense form, and with cameras that are missing."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion
from torch import Tensor

from calibration.transforms import rigid
from perception.bev_neck import BevNeckConfig
from perception.camera_branch import CameraBranch, CameraConfig
from perception.detector import Detector
from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.tasks.depth import DepthTaskConfig
from perception.view_transform.sampling import Sampling, SamplingConfig, inverse_affine
from tests.random_batch import random_batch
from tests.small_run import small_detector

GRID = BevGrid((-8.0, 8.0), (-6.0, 6.0), 2.0)
CONFIG = SamplingConfig(heights=3, z_range=(-1.0, 3.0))
STRIDE, SIZE = 8, (8, 12)  # features of 8 x 12: pictures of 64 x 96


def sampling(channels: int = 5, in_channels: int = 4) -> Sampling:
    torch.manual_seed(0)
    return Sampling(CONFIG, GRID, in_channels, channels)


def images_of(cameras: list[tuple[int, int]], batch_size: int = 2, seed: int = 0) -> ImageFeatures:
    """These cameras (sample, channel) of a random batch, each with intrinsics of its own."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(batch_size, generator)
    sample, channel = torch.tensor(cameras).T
    intrinsics = batch.intrinsics[sample, channel].clone()
    intrinsics[:, :2] *= 1 + 0.1 * torch.rand(len(cameras), 2, 1, generator=generator)
    poses = batch.ego_from_cam[sample, channel].clone()
    poses[:, :3, 3] += torch.randn(len(cameras), 3, generator=generator) * 0.3
    features = torch.randn(len(cameras), 4, *SIZE, generator=generator)
    return ImageFeatures(features, intrinsics, poses, sample, batch_size, (64, 96), STRIDE)


def by_loops(view: Sampling, images: ImageFeatures) -> Tensor:
    """Cell by cell, height by height, camera by camera, in float64."""
    rows, columns = GRID.shape
    weight, bias = view.context.weight.double()[:, :, 0, 0], view.context.bias
    assert bias is not None
    out = torch.zeros(images.batch_size, view.channels, rows, columns, dtype=torch.float64)
    for sample in range(images.batch_size):
        for row in range(rows):
            for column in range(columns):
                stacked = []
                for layer in range(3):
                    point = torch.tensor([-8 + 2 * column + 1, -6 + 2 * row + 1, -1 + 4 / 3 * (layer + 0.5), 1.0])
                    found = []
                    for camera in range(len(images.features)):
                        if images.sample_index[camera] != sample:
                            continue
                        x, y, z, _ = (torch.linalg.inv(images.ego_from_cam[camera].double()) @ point.double()).tolist()
                        matrix = images.intrinsics[camera].double()
                        if z <= 0:
                            continue
                        u = float(matrix[0, 0] * x / z + matrix[0, 2]) / STRIDE
                        v = float(matrix[1, 1] * y / z + matrix[1, 2]) / STRIDE
                        if not (-0.5 <= u < SIZE[1] - 0.5 and -0.5 <= v < SIZE[0] - 0.5):
                            continue
                        u, v = min(max(u, 0.0), SIZE[1] - 1), min(max(v, 0.0), SIZE[0] - 1)
                        feature = torch.zeros(4, dtype=torch.float64)
                        for i in range(SIZE[0]):
                            for j in range(SIZE[1]):
                                near = max(0.0, 1 - abs(u - j)) * max(0.0, 1 - abs(v - i))
                                feature = feature + near * images.features[camera, :, i, j].double()
                        found.append(weight @ feature + bias.double())
                    zero = torch.zeros(view.channels, dtype=torch.float64)
                    stacked.append(torch.stack(found).mean(dim=0) if found else zero)
                out[sample, :, row, column] = view.reduce.weight.double() @ torch.cat(stacked)
    return out


CAMERAS = [(0, 0), (0, 1), (0, 4), (1, 3)]


def test_sampling_equals_loops() -> None:
    view, images = sampling(), images_of(CAMERAS)
    out, expected = view(images), by_loops(view, images)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    lit = expected.abs().sum(dim=1) > 0
    assert lit[0].sum() > 8
    assert not lit[1].all()
    assert torch.equal(out.abs().sum(dim=1) > 0, lit)


def test_the_dense_form_is_the_same_and_masks_cameras() -> None:
    """Six cameras a sample, of which the second lacks two and the first one: outputs and gradients."""
    view = sampling()
    available = torch.ones(2, 6, dtype=torch.bool)
    available[0, 5] = available[1, 1] = available[1, 3] = False
    images = images_of([(sample, channel) for sample in range(2) for channel in range(6)])
    chosen = available.flatten()
    features = images.features.clone().requires_grad_()
    few = replace(
        images,
        features=features[chosen],
        intrinsics=images.intrinsics[chosen],
        ego_from_cam=images.ego_from_cam[chosen],
        sample_index=images.sample_index[chosen],
    )
    poses = images.ego_from_cam.clone()
    poses[~chosen] = math.nan
    sparse = view(few)
    dense = view.dense(
        features.view(2, 6, 4, *SIZE), images.intrinsics.view(2, 6, 3, 3), poses.view(2, 6, 4, 4), available, STRIDE
    )
    torch.testing.assert_close(dense, sparse, atol=1e-5, rtol=1e-5)
    weights = torch.randn(sparse.shape)
    by_sparse = torch.autograd.grad((sparse * weights).sum(), [features, *view.parameters()])
    by_dense = torch.autograd.grad((dense * weights).sum(), [features, *view.parameters()])
    for one, other in zip(by_sparse, by_dense, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert one.any()


def test_a_point_is_looked_up_where_the_devkit_projects_it() -> None:
    """The devkit's chain: to the camera by quaternion and translation, then view_points."""
    view, generator = sampling(), np.random.default_rng(0)
    seen_points = 0
    for _ in range(20):
        turn = Quaternion(generator.normal(size=4))
        shift = generator.uniform(-3, 3, 3)
        intrinsics = np.array([[70.0, 0.0, 45.0], [0.0, 65.0, 30.0], [0.0, 0.0, 1.0]])
        pose = rigid(torch.from_numpy(turn.rotation_matrix), torch.from_numpy(shift)).float()
        pixels, seen = view._seen(torch.from_numpy(intrinsics).float()[None], pose[None], SIZE, STRIDE)
        in_cam = turn.inverse.rotation_matrix @ (view.points_ego.numpy().T - shift[:, None])
        expected = view_points(in_cam, intrinsics, normalize=True)[:2].T
        inside = (expected >= -STRIDE / 2) & (expected < (np.array(SIZE[::-1]) - 0.5) * STRIDE)
        known = (in_cam[2] > 0) & inside.all(axis=1)
        assert (seen[0].numpy() == known).mean() > 0.999  # float32 poses: an edge may fall to the other side
        both = seen[0].numpy() & known
        np.testing.assert_allclose(pixels[0].numpy()[both] * STRIDE, expected[both], atol=1e-3)
        seen_points += both.sum()
    assert seen_points > 100


def test_the_inverse_undoes_turns_mirrors_and_scales() -> None:
    torch.manual_seed(0)
    poses = torch.eye(4, dtype=torch.float64).repeat(8, 1, 1)
    poses[:, :3] = torch.randn(8, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(inverse_affine(poses), torch.linalg.inv(poses), atol=1e-10, rtol=1e-8)


def test_a_broken_calibration_sees_nothing() -> None:
    images = images_of([(0, 0)], batch_size=1)
    out = sampling()(replace(images, ego_from_cam=torch.full((1, 4, 4), math.nan)))
    assert out.shape == (1, 5, 6, 8)
    assert not out.any()


def test_samples_do_not_mix() -> None:
    view, images = sampling(), images_of(CAMERAS, batch_size=3)
    together = view(images)
    assert not together[2].any()
    alone = view(
        ImageFeatures(
            images.features[3:], images.intrinsics[3:], images.ego_from_cam[3:], torch.tensor([0]), 1, (64, 96), STRIDE
        )
    )
    torch.testing.assert_close(together[1], alone[0], atol=1e-6, rtol=1e-5)


def test_the_camera_branch_with_sampling_and_a_copy_of_it() -> None:
    backbone = small_detector().camera
    assert backbone is not None
    config = CameraConfig(backbone.backbone, CONFIG, 8, BevNeckConfig((8,), (1,)))
    branch = CameraBranch(config, GRID, 6).train()
    batch = random_batch(2, torch.Generator().manual_seed(0))
    inputs = (batch.images, batch.intrinsics, batch.ego_from_cam, batch.camera_available)
    out = branch(*inputs)
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert {name.split(".")[0] for name in branch.state_dict()} == {"backbone", "sampling", "neck"}
    branch.eval()
    assert torch.equal(copy.deepcopy(branch)(*inputs), branch(*inputs))


def test_depth_needs_the_lift() -> None:
    config = small_detector()
    assert config.camera is not None
    sampled = replace(config, camera=replace(config.camera, view=SamplingConfig()))
    Detector(sampled)
    with pytest.raises(ValueError, match="take lift_splat"):
        replace(sampled, depth=DepthTaskConfig())


@pytest.mark.parametrize("wrong", [{"heights": 0}, {"z_range": (1.0, 1.0)}])
def test_layers_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="layers"):
        SamplingConfig(**wrong)  # type: ignore[arg-type]
