import math

import numpy as np
import torch
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from calibration.transforms import from_quaternion, invert
from datasets.boxes import Boxes3D
from tests.random_batch import random_boxes


def boxes_in_double(count: int, seed: int = 0) -> Boxes3D:
    return random_boxes(count, torch.Generator().manual_seed(seed), reach=40.0).to(torch.float64)


def devkit_boxes(boxes: Boxes3D) -> list[Box]:
    return [
        Box(
            boxes.centers[row].tolist(),
            boxes.sizes_wlh[row].tolist(),
            Quaternion(axis=[0, 0, 1], angle=float(boxes.yaws[row])),
            velocity=(*boxes.velocities[row].tolist(), 0.0),
        )
        for row in range(len(boxes))
    ]


def test_corners_equal_the_devkits() -> None:
    boxes = boxes_in_double(30)
    for corners, reference in zip(boxes.corners(), devkit_boxes(boxes), strict=True):
        np.testing.assert_allclose(corners.numpy(), reference.corners().T, atol=1e-12)


def test_points_inside_equal_the_devkits() -> None:
    boxes = boxes_in_double(20, seed=1)
    points = torch.rand(3000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 80 - 40
    inside = boxes.points_inside(points)
    assert inside.any()
    for mask, reference in zip(inside, devkit_boxes(boxes), strict=True):
        np.testing.assert_array_equal(mask.numpy(), points_in_box(reference, points.numpy().T))


def test_a_level_transform_equals_the_devkits_and_comes_back() -> None:
    boxes = boxes_in_double(25, seed=3)
    rotation, translation = Quaternion(axis=[0, 0, 1], angle=2.2), (300.0, -120.0, 1.0)
    a_from_b = from_quaternion(list(rotation), translation)
    moved = boxes.transformed(a_from_b)
    for row, reference in enumerate(devkit_boxes(boxes)):
        reference.rotate(rotation)
        reference.translate(np.array(translation))
        np.testing.assert_allclose(moved.centers[row], reference.center, atol=1e-9)
        np.testing.assert_allclose(moved.velocities[row], reference.velocity[:2], atol=1e-9)
        heading = reference.orientation.rotation_matrix[:2, 0]
        np.testing.assert_allclose([moved.yaws[row].cos(), moved.yaws[row].sin()], heading, atol=1e-9)
    back = moved.transformed(invert(a_from_b))
    torch.testing.assert_close(back.centers, boxes.centers)
    torch.testing.assert_close(back.velocities, boxes.velocities)


def test_empty_sets_go_through_everything() -> None:
    empty = Boxes3D.empty()
    assert len(empty) == 0
    assert empty.corners().shape == (0, 8, 3)
    assert empty.points_inside(torch.zeros(4, 3)).shape == (0, 4)
    assert len(empty.transformed(torch.eye(4, dtype=torch.float64))) == 0
    assert boxes_in_double(3).points_inside(torch.zeros(0, 3)).shape == (3, 0)


def test_an_unknown_velocity_stays_unknown() -> None:
    boxes = boxes_in_double(2)
    boxes.velocities[1] = math.nan
    moved = boxes.transformed(from_quaternion([1.0, 0.0, 0.0, 0.0], (1.0, 2.0, 3.0)))
    assert moved.velocities[1].isnan().all()
    assert moved.velocities[0].isfinite().all()
