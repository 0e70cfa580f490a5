"""Overlaps of rotated boxes against shapely."""

import math

import pytest
import torch
from shapely import affinity
from shapely.geometry import Polygon, box

from datasets.boxes import Boxes3D
from perception.rotated_iou import bev_intersections, bev_iou, iou_3d, iou_3d_of_all
from tests.random_batch import random_boxes


def outline(boxes: Boxes3D, index: int) -> Polygon:
    width, length = boxes.sizes_wlh[index, :2].tolist()
    x, y = boxes.centers[index, :2].tolist()
    turned = affinity.rotate(
        box(-length / 2, -width / 2, length / 2, width / 2), boxes.yaws[index].item(), (0, 0), True
    )
    return affinity.translate(turned, x, y)


def some_boxes(count: int, seed: int) -> Boxes3D:
    """Crowded in 3 x 3 m, so that most overlap; among them parallel, crossed and equal ones."""
    boxes = random_boxes(count, torch.Generator().manual_seed(seed), reach=1.5).to(torch.float64)
    boxes.yaws[::3] = (boxes.yaws[::3] / (math.pi / 2)).round() * (math.pi / 2)
    return boxes


def test_areas_equal_shapely() -> None:
    a, b = some_boxes(300, 0), some_boxes(300, 1)
    expected = [outline(a, index).intersection(outline(b, index)).area for index in range(300)]
    assert sum(area > 0.1 for area in expected) > 150
    assert sum(area == 0.0 for area in expected) > 10
    assert torch.allclose(bev_intersections(a, b), torch.tensor(expected, dtype=torch.float64), atol=1e-9)
    unions = [outline(a, index).union(outline(b, index)).area for index in range(300)]
    ratio = torch.tensor(expected, dtype=torch.float64) / torch.tensor(unions, dtype=torch.float64)
    assert torch.allclose(bev_iou(a, b), ratio, atol=1e-9)


def test_overlap_in_space_is_that_of_the_prisms() -> None:
    a, b = some_boxes(100, 2), some_boxes(80, 3)
    found = iou_3d_of_all(a, b)
    assert found.shape == (100, 80)
    for i in range(0, 100, 7):
        for j in range(80):
            low, high = (
                [c.centers[k, 2].item() + sign * c.sizes_wlh[k, 2].item() / 2 for c, k in ((a, i), (b, j))]
                for sign in (-1, 1)
            )
            common = outline(a, i).intersection(outline(b, j)).area * max(0.0, min(high) - max(low))
            volumes = a.sizes_wlh[i].prod() + b.sizes_wlh[j].prod()
            assert found[i, j].item() == pytest.approx(common / (volumes.item() - common), abs=1e-9)


def test_equal_touching_contained_and_distant_boxes() -> None:
    a = some_boxes(60, 4)
    assert torch.allclose(iou_3d(a, a), torch.ones(60, dtype=torch.float64))
    turned = Boxes3D(**{**vars(a), "yaws": a.yaws + math.pi})
    assert torch.allclose(bev_iou(a, turned), torch.ones(60, dtype=torch.float64))
    headings = torch.stack([a.yaws.cos(), a.yaws.sin(), torch.zeros_like(a.yaws)], dim=1)
    beside = Boxes3D(**{**vars(a), "centers": a.centers + headings * a.sizes_wlh[:, 1:2]})
    assert bev_iou(a, beside).max() < 1e-9
    smaller = Boxes3D(**{**vars(a), "sizes_wlh": a.sizes_wlh / 2})
    assert torch.allclose(bev_iou(a, smaller), torch.full((60,), 0.25, dtype=torch.float64))
    flat = Boxes3D(**{**vars(a), "sizes_wlh": torch.zeros_like(a.sizes_wlh)})
    assert (iou_3d(flat, flat) == 0).all()
    assert iou_3d_of_all(a, Boxes3D.empty()).shape == (60, 0)
    assert iou_3d_of_all(Boxes3D.empty(), a).shape == (0, 60)


def test_the_common_frame_does_not_matter() -> None:
    a, b = some_boxes(50, 5), some_boxes(50, 6)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:2, :2] = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    pose[:3, 3] = torch.tensor([300.0, -800.0, 2.0])
    assert torch.allclose(iou_3d(a.transformed(pose), b.transformed(pose)), iou_3d(a, b), atol=1e-9)
    assert torch.allclose(iou_3d(b, a), iou_3d(a, b), atol=1e-12)
