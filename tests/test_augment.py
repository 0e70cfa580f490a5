"""Augment then measure equals measure then augment, for everything that is said in the ego frame."""

import math
from dataclasses import replace

import pytest
import torch

from calibration.cameras import project
from calibration.transforms import from_yaw, invert
from datasets.augmentation.bev import BevAugmentation, augment
from datasets.samples.sample import FULL_RADAR_POINT_FIELDS, Sample
from tests.random_batch import random_boxes


def sample(seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(6, generator)
    corners = boxes.corners().reshape(-1, 3)
    # A camera that looks along ego x: cam z is ego x, cam x is ego -y, cam y is ego -z.
    ego_from_cam = torch.tensor([[0.0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]])
    motion = torch.zeros(2, 11)
    motion[0] = torch.tensor([-3.0, 0.4, math.sin(0.1), math.cos(0.1), 5.0, 0.2, 0.5, 0.5, -2.9, 0.5, 1.0])
    motion[1, 3] = 1.0
    return Sample(
        token="a",
        scene_name="scene",
        timestamp_us=1_532_402_927_000_000,
        images=torch.zeros(1, 3, 8, 16, dtype=torch.uint8),
        intrinsics=torch.tensor([[[10.0, 0, 7.5], [0, 10, 3.5], [0, 0, 1]]]),
        ego_from_cam=ego_from_cam[None],
        camera_available=torch.tensor([True]),
        lidar_points=torch.cat([corners, torch.rand(len(corners), 2, generator=generator)], dim=1),
        lidar_available=True,
        radar_points=torch.cat([boxes.centers, boxes.scores[:, None], boxes.velocities, torch.zeros(6, 1)], dim=1),
        radar_available=torch.tensor([True]),
        ego_motion=motion,
        ego_motion_valid=torch.tensor([True, True]),
        global_from_ego=from_yaw(0.4, (50.0, 20.0, 0.0)),
        boxes=boxes,
        faults=(),
    )


@pytest.mark.parametrize("seed", range(12))
def test_everything_moves_together(seed: int) -> None:
    before = sample(seed)
    assert before.boxes is not None
    matrix = BevAugmentation(translation_std=0.5 * (seed % 2)).draw(torch.Generator().manual_seed(seed))
    after = augment(before, matrix)
    assert after.boxes is not None
    # The LiDAR points are the boxes' corners, the radar points carry their velocities. (Mirrored corners come in
    # another order, so compare them as the extent of the box they span.)
    scale = float(matrix[2, 2])
    turned = after.lidar_points[:, :3].reshape(-1, 8, 3)
    for axis_points, corners in zip(turned, after.boxes.corners(), strict=True):
        nearest = torch.cdist(axis_points, corners).min(dim=1).values
        assert float(nearest.max()) < 1e-4
    torch.testing.assert_close(after.radar_points[:, :3], after.boxes.centers)
    torch.testing.assert_close(after.radar_points[:, 4:6], after.boxes.velocities)
    torch.testing.assert_close(after.boxes.sizes_wlh, before.boxes.sizes_wlh * scale)
    # A pixel of the (unturned) picture still sees the point that it saw.
    cam_from_ego = torch.linalg.inv(before.ego_from_cam[0])
    cam_from_augmented = torch.linalg.inv(after.ego_from_cam[0])
    points_cam = before.lidar_points[:, :3] @ cam_from_ego[:3, :3].T + cam_from_ego[:3, 3]
    points_cam_after = after.lidar_points[:, :3] @ cam_from_augmented[:3, :3].T + cam_from_augmented[:3, 3]
    ahead = points_cam[:, 2] > 0.5
    pixels, _ = project(before.intrinsics[0], points_cam[ahead])
    pixels_after, _ = project(after.intrinsics[0], points_cam_after[ahead])
    torch.testing.assert_close(pixels_after, pixels, rtol=1e-3, atol=1e-2)
    # And global coordinates are where they were.
    world = before.boxes.transformed(before.global_from_ego)
    world_after = after.boxes.transformed(after.global_from_ego)
    torch.testing.assert_close(world_after.centers, world.centers, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(world_after.velocities, world.velocities, rtol=1e-4, atol=1e-3)


def test_the_past_of_the_vehicle_turns_with_the_world() -> None:
    before = sample()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    after = augment(before, turn)
    past = after.ego_motion[0]
    torch.testing.assert_close(past[:2], torch.tensor([-0.4, -3.0]))
    assert math.atan2(float(past[2]), float(past[3])) == pytest.approx(0.1 + math.pi / 2, abs=1e-6)
    assert float(past[5]) == pytest.approx(0.2)
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    mirrored = augment(before, mirror).ego_motion[0]
    torch.testing.assert_close(mirrored[:6], torch.tensor([-3.0, -0.4, -math.sin(0.1), math.cos(0.1), 5.0, -0.2]))


def test_a_mirror_is_its_own_inverse_and_no_augmentation_is_the_identity() -> None:
    before = sample(3)
    assert before.boxes is not None
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    twice = augment(augment(before, mirror), mirror)
    assert twice.boxes is not None
    torch.testing.assert_close(twice.lidar_points, before.lidar_points)
    torch.testing.assert_close(twice.boxes.yaws.cos(), before.boxes.yaws.cos())
    torch.testing.assert_close(twice.boxes.yaws.sin(), before.boxes.yaws.sin())
    still = BevAugmentation(max_rotation=0.0, scale_range=(1.0, 1.0), flip=False)
    identity = still.draw(torch.Generator())
    assert torch.equal(identity, torch.eye(4, dtype=torch.float64))
    assert augment(before, identity) is before


def test_a_shift_moves_what_has_a_place_and_nothing_else() -> None:
    before = sample(5)
    assert before.boxes is not None
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([2.0, -1.0, 0.5])
    after = augment(before, shift)
    assert after.boxes is not None
    torch.testing.assert_close(after.boxes.centers - before.boxes.centers, shift[:3, 3].float().expand(6, 3))
    torch.testing.assert_close(
        after.lidar_points[:, :3] - before.lidar_points[:, :3], shift[:3, 3].float().expand(48, 3)
    )
    torch.testing.assert_close(after.boxes.velocities, before.boxes.velocities)
    torch.testing.assert_close(after.radar_points[:, 4:6], before.radar_points[:, 4:6])
    # The vehicle stands where it is put, now and then.
    torch.testing.assert_close(after.ego_motion[:, :2] - before.ego_motion[:, :2], shift[:2, 3].float().expand(2, 2))
    torch.testing.assert_close(after.ego_motion[:, 2:], before.ego_motion[:, 2:])
    # The first four draws are those of an augmentation that shifts nothing.
    without, moved = (BevAugmentation(translation_std=std).draw(torch.Generator().manual_seed(1)) for std in (0.0, 0.5))
    assert torch.equal(without[:3, :3], moved[:3, :3])
    assert not without[:3, 3].any()


def test_rows_that_are_not_valid_stay_zero_and_empty_clouds_stay_empty() -> None:
    empty = replace(
        sample(),
        lidar_points=torch.zeros(0, 5),
        radar_points=torch.zeros(0, 7),
        ego_motion=torch.zeros(2, 11),
        ego_motion_valid=torch.tensor([False, False]),
        boxes=None,
    )
    after = augment(empty, BevAugmentation().draw(torch.Generator().manual_seed(1)))
    assert after.lidar_points.shape == (0, 5)
    assert after.radar_points.shape == (0, 7)
    assert not after.ego_motion.any()
    assert after.boxes is None


def test_invert_is_for_rigid_transforms_only() -> None:
    """Why `augment` uses a general inverse: a scale is not undone by a transpose."""
    matrix = BevAugmentation(flip=False).draw(torch.Generator().manual_seed(4))
    assert not torch.allclose(invert(matrix) @ matrix, torch.eye(4, dtype=torch.float64))


def test_the_measured_velocity_of_full_radar_fields_turns_too() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, len(FULL_RADAR_POINT_FIELDS), generator=generator)
    matrix = BevAugmentation().draw(generator)
    of_sample = replace(sample(), radar_points=points)
    after = augment(of_sample, matrix).radar_points
    basic = augment(replace(of_sample, radar_points=points[:, :7]), matrix).radar_points
    assert torch.equal(after[:, :7], basic)
    velocity = [FULL_RADAR_POINT_FIELDS.index(name) for name in ("vx", "vy")]
    torch.testing.assert_close(after[:, velocity], points[:, velocity] @ matrix[:2, :2].float().T)
    others = [column for column in range(7, len(FULL_RADAR_POINT_FIELDS)) if column not in velocity]
    assert torch.equal(after[:, others], points[:, others])
