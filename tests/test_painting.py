"""Painted points: where they fall in the pictures, what they get there, and that gradients come back."""

import numpy as np
import pytest
import torch
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion

from calibration.transforms import rigid
from datasets.samples.batch import PointBatch
from perception.fusion.early import EarlyFusionConfig, PointPainting, pixels_of_points, sample_features
from perception.grid import BevGrid
from perception.image_features import ImageFeatures
from perception.pillars import largest_projections
from perception.voxelize import VoxelGrid, voxelize

SIZE = (90, 160)
INTRINSICS = torch.tensor([[127.0, 0.0, 81.0], [0.0, 126.0, 49.0], [0.0, 0.0, 1.0]])
# A camera 1.5 m above the ego origin that looks along ego x.
EGO_FROM_CAM = rigid(
    torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64), torch.tensor([0.0, 0, 1.5]).double()
).float()


def points_around(count: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, 3, generator=generator) * 2 - 1) * torch.tensor([50.0, 50.0, 4.0])


def images(features: torch.Tensor, sample_index: list[int], batch_size: int, stride: int = 1) -> ImageFeatures:
    count = len(features)
    return ImageFeatures(
        features=features,
        intrinsics=INTRINSICS.expand(count, 3, 3),
        ego_from_cam=EGO_FROM_CAM.expand(count, 4, 4),
        sample_index=torch.tensor(sample_index),
        batch_size=batch_size,
        image_size=SIZE,
        stride=stride,
    )


def test_pixels_equal_the_devkits_chain() -> None:
    """As in the devkit's map_pointcloud_to_image: minus the translation, the inverse rotation, view_points."""
    points = points_around()
    rotation, translation = Quaternion(0.51, -0.49, 0.48, -0.52).normalised, np.array([1.7, 0.1, 1.5])
    pose = torch.eye(4)
    pose[:3, :3] = torch.from_numpy(rotation.rotation_matrix)
    pose[:3, 3] = torch.from_numpy(translation)
    pixels, seen = pixels_of_points(points, INTRINSICS, pose, SIZE)

    in_cam = rotation.rotation_matrix.T @ (points.double().numpy().T - translation[:, None])
    expected = view_points(in_cam, INTRINSICS.double().numpy(), normalize=True)[:2].T
    height, width = SIZE
    inside = (expected > -0.5).all(axis=1) & (expected < np.array([width, height]) - 0.5).all(axis=1)
    assert 5 < seen.sum() < 250
    assert seen.tolist() == ((in_cam[2] > 0.1) & inside).tolist()
    np.testing.assert_allclose(pixels[seen].numpy(), expected[seen.numpy()], atol=1e-2)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_augmented_world_falls_on_the_same_pixels(mirrored: bool) -> None:
    """Turned, scaled and mirrored, with the camera's pose turned by the same matrix, as the augmentation does it."""
    points = points_around()
    world = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) * 1.07
    if mirrored:
        world[:, 1] *= -1
    whole = torch.eye(4)
    whole[:3, :3] = world
    expected, seen = pixels_of_points(points, INTRINSICS, EGO_FROM_CAM, SIZE)
    pixels, still_seen = pixels_of_points(points @ world.T, INTRINSICS, whole @ EGO_FROM_CAM, SIZE)
    assert seen.sum() > 10
    assert torch.equal(seen, still_seen)
    torch.testing.assert_close(pixels[seen], expected[seen], atol=1e-2, rtol=0.0)


def test_points_that_are_no_numbers_are_seen_by_no_camera() -> None:
    points = torch.tensor([[torch.nan, 0.0, 0.0], [torch.inf, 0.0, 1.0], [-5.0, 0.0, 1.5], [5.0, 0.0, 1.5]])
    _, seen = pixels_of_points(points, INTRINSICS, EGO_FROM_CAM, SIZE)
    assert seen.tolist() == [False, False, False, True]


def test_features_are_sampled_at_their_pixels() -> None:
    """Features that are linear in the pixel are found exactly, between the outermost features."""
    stride, rows, columns = 8, 12, 20
    v, u = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    features = torch.stack([u, v]).float()
    pixels = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([152.0, 88.0])
    torch.testing.assert_close(sample_features(features, pixels, stride), pixels, atol=1e-3, rtol=0.0)
    beyond = torch.tensor([[159.0, 89.0]])
    torch.testing.assert_close(sample_features(features, beyond, stride), torch.tensor([[152.0, 88.0]]))


def painting(width: int = 3) -> PointPainting:
    torch.manual_seed(0)
    return PointPainting(EarlyFusionConfig(width=width), 2)


def test_a_point_gets_the_mean_of_the_cameras_of_its_sample() -> None:
    network = painting()
    features = torch.randn(3, 2, 90, 160, generator=torch.Generator().manual_seed(2))
    clouds = [points_around(200), points_around(200), points_around(200)]
    (painted,) = network([PointBatch.of(clouds)], images(features, [0, 0, 1], 3))
    maps = network.project(features)
    pixels, seen = pixels_of_points(clouds[0], INTRINSICS, EGO_FROM_CAM, SIZE)
    assert 0 < seen.sum() < 200
    first, second, third = (sample_features(one, pixels[seen], 1) for one in maps)
    rows = painted.points.view(3, 200, 7)
    torch.testing.assert_close(rows[0, seen, 3:6], (first + second) / 2)
    torch.testing.assert_close(rows[1, seen, 3:6], third)
    assert torch.equal(rows[:2, :, 6], seen.float().expand(2, 200))
    assert (rows[:2, ~seen, 3:] == 0).all()
    assert (rows[2, :, 3:] == 0).all()  # a sample without a camera
    assert torch.equal(rows[..., :3].reshape(-1, 3), torch.cat(clouds))


def test_without_a_camera_all_points_are_unpainted() -> None:
    cloud = PointBatch.of([points_around(10), points_around(0)])
    for painted in painting()([cloud, cloud.without_points()], None):
        assert painted.points.shape[1] == 3 + 4
        assert (painted.points[:, 3:] == 0).all()


def test_samples_do_not_see_each_others_pictures() -> None:
    network = painting()
    features = torch.randn(2, 2, 90, 160, generator=torch.Generator().manual_seed(2))
    cloud = PointBatch.of([points_around(100), points_around(100)])
    (both,) = network([cloud], images(features, [0, 1], 2))
    changed = torch.stack([features[0], features[1] + 1.0])
    (other,) = network([cloud], images(changed, [0, 1], 2))
    assert torch.equal(both.points[:100], other.points[:100])
    assert not torch.equal(both.points[100:], other.points[100:])


def test_the_gradient_of_points_in_pillars_equals_autograds() -> None:
    """Of the largest projections, for the points as they came in: against torch's maximum, pillar by pillar."""
    generator = torch.Generator().manual_seed(3)
    points = (torch.randn(300, 6, generator=generator) * 4).requires_grad_()
    grid = VoxelGrid(BevGrid((-8.0, 8.0), (-8.0, 8.0), 2.0), (-8.0, 8.0), 1)
    weight = torch.randn(5, 6, generator=generator, requires_grad=True)

    def gradients(of_loops: bool) -> tuple[torch.Tensor, torch.Tensor]:
        points.grad = weight.grad = None
        voxels = voxelize(PointBatch.of([points]), grid)
        assert 30 < len(voxels.counts) < len(voxels.points) < 300
        if of_loops:
            pillars = [voxels.points[voxels.voxel_of_point == index] for index in range(len(voxels.counts))]
            largest = torch.stack([(pillar @ weight.T).amax(dim=0) for pillar in pillars])
        else:
            largest = largest_projections(voxels.points, weight, voxels)
        (largest * torch.linspace(-1.0, 1.0, largest.numel()).view_as(largest)).sum().backward()
        assert points.grad is not None
        assert weight.grad is not None
        return points.grad, weight.grad

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
