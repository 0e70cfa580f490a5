"""Points in boxes against the devkit's loop and against Boxes3D.points_inside."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes.utils.geometry_utils import points_in_box

from calibration.transforms import transform_points
from datasets.boxes import Boxes3D
from datasets.nuscenes.reader import NuScenesReader
from datasets.sensors.points_in_boxes import points_in_boxes
from tests.random_batch import random_boxes
from tests.test_boxes import devkit_boxes


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    boxes=st.integers(0, 12),
    points=st.integers(0, 300),
    reach=st.sampled_from([1.0, 20.0, 3000.0]),
)
def test_the_same_as_box_by_box(seed: int, boxes: int, points: int, reach: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = random_boxes(boxes, generator, reach).to(torch.float64)
    scattered = (torch.rand(points, 3, dtype=torch.float64, generator=generator) * 2 - 1) * reach
    # Corners and middles too: on a face and in the box.
    cloud = torch.cat([scattered, some.corners().reshape(-1, 3), some.centers])
    found, expected = points_in_boxes(some, cloud), some.points_inside(cloud)
    assert torch.equal(found.counts, expected.sum(dim=1))
    for box in range(boxes):
        assert torch.equal(found.of(box), torch.nonzero(expected[box])[:, 0])


def test_counts_are_the_devkits() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(40, generator, 30.0).to(torch.float64)
    cloud = torch.randn(20_000, 5, generator=generator) * torch.tensor([15.0, 15.0, 2.0, 1.0, 1.0])
    expected = [int(points_in_box(box, cloud[:, :3].double().numpy().T).sum()) for box in devkit_boxes(boxes)]
    assert sum(expected) > 100
    assert points_in_boxes(boxes, cloud).counts.tolist() == expected


def test_what_is_not_finite_lies_nowhere() -> None:
    boxes = random_boxes(3, torch.Generator().manual_seed(2)).to(torch.float64)
    cloud = torch.cat([boxes.centers, torch.tensor([[math.nan, 0, 0], [math.inf, 0, 0]], dtype=torch.float64)])
    assert points_in_boxes(boxes, cloud).counts.min() >= 1
    assert points_in_boxes(boxes, cloud[3:]).counts.tolist() == [0, 0, 0]
    boxes.centers[1, 0] = math.nan
    counts = points_in_boxes(boxes, boxes.centers).counts
    assert (counts[0], counts[1], counts[2]) == (1, 0, 1)
    assert points_in_boxes(Boxes3D.empty(), cloud).counts.shape == (0,)


@pytest.mark.parametrize("field", ["centers", "sizes_wlh", "yaws"])
@pytest.mark.parametrize("value", [1e16, 1e300, -1e300])
def test_a_box_without_measure_holds_nothing_and_harms_none(field: str, value: float) -> None:
    boxes = random_boxes(3, torch.Generator().manual_seed(2)).to(torch.float64)
    cloud = boxes.centers.clone()
    expected = points_in_boxes(boxes, cloud).counts
    getattr(boxes, field).view(3, -1)[1, 0] = value
    found = points_in_boxes(boxes, cloud).counts
    assert (found[0], found[1], found[2]) == (expected[0], 0, expected[2])


def test_another_device_is_refused() -> None:
    boxes = random_boxes(3, torch.Generator().manual_seed(2))
    with pytest.raises(ValueError, match="on the CPU only, not on cpu, meta"):
        points_in_boxes(boxes, torch.zeros(4, 3, device="meta"))


def test_the_real_keyframe_has_69_of_69(real_data: Path) -> None:
    reader = NuScenesReader(real_data / "nuscenes-keyframe", lidar_sweeps=1)
    frame = reader.frame(reader.frame_tokens("all")[0])
    assert frame.annotations is not None
    (sweep,) = frame.lidar_sweeps["LIDAR_TOP"]
    global_from_lidar = sweep.global_from_ego @ frame.rig.ego_from_sensor["LIDAR_TOP"]
    cloud = transform_points(global_from_lidar, sweep.points[:, :3].double())
    counts = points_in_boxes(frame.annotations.boxes_global, cloud).counts
    assert torch.equal(counts, frame.annotations.lidar_point_counts)
