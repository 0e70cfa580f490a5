"""Weighted box fusion against cases worked out by hand."""

import math

import pytest
import torch

from datasets.boxes import Boxes3D
from perception.fusion.box_fusion import weighted_box_fusion
from tests.random_batch import random_boxes

RADII = [2.0] * 10


def box(
    x: float,
    y: float,
    score: float,
    *,
    label: int = 0,
    yaw: float = 0.0,
    width: float = 2.0,
    velocity: tuple[float, float] = (0.0, 0.0),
    attribute: int = -1,
) -> Boxes3D:
    return Boxes3D(
        centers=torch.tensor([[x, y, 1.0]]),
        sizes_wlh=torch.tensor([[width, 4.0, 1.5]]),
        yaws=torch.tensor([yaw]),
        velocities=torch.tensor([velocity]),
        labels=torch.tensor([label]),
        scores=torch.tensor([score]),
        attributes=torch.tensor([attribute]),
    )


def several(*boxes: Boxes3D) -> Boxes3D:
    return Boxes3D.concatenated(boxes)


def test_two_of_three_sensors_see_one_object() -> None:
    lidar = box(10.0, 0.0, 0.9, width=2.0, velocity=(4.0, 0.0), attribute=3)
    camera = box(10.0, 1.2, 0.3, width=1.6, velocity=(0.0, 4.0), attribute=5)
    fused = weighted_box_fusion([camera, lidar, Boxes3D.empty()], RADII)
    assert len(fused) == 1
    # A quarter of the way from the better box to the worse one; (0.9 + 0.3) / 3 sensors.
    torch.testing.assert_close(fused.centers, torch.tensor([[10.0, 0.3, 1.0]]))
    torch.testing.assert_close(fused.sizes_wlh, torch.tensor([[1.9, 4.0, 1.5]]))
    torch.testing.assert_close(fused.velocities, torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(fused.scores, torch.tensor([0.4]))
    assert fused.attributes.tolist() == [3]


@pytest.mark.parametrize(
    ("yaws", "scores", "expected"),
    [
        ((0.2, 0.4), (0.5, 0.5), 0.3),
        ((math.pi - 0.1, -math.pi + 0.1), (0.5, 0.5), math.pi),  # not 0, the mean of the numbers
        ((0.2, 0.4 + math.pi), (0.6, 0.6), None),  # a tie about the front: the axis still is 0.3
        ((0.3, 0.3 + math.pi), (0.6, 0.2), 0.3),  # the majority says where the front is
        ((0.3 + math.pi, 0.3), (0.6, 0.2), 0.3 - math.pi),
    ],
)
def test_yaws_are_averaged_on_the_circle(
    yaws: tuple[float, float], scores: tuple[float, float], expected: float | None
) -> None:
    fused = weighted_box_fusion([box(0, 0, s, yaw=yaw) for yaw, s in zip(yaws, scores, strict=True)], RADII)
    (yaw,) = fused.yaws.tolist()
    if expected is None:
        assert math.sin(2 * (yaw - 0.3)) == pytest.approx(0.0, abs=1e-5)
        assert math.cos(2 * (yaw - 0.3)) == pytest.approx(1.0, abs=1e-5)
    else:
        assert math.cos(yaw - expected) == pytest.approx(1.0, abs=1e-5)


def test_a_velocity_that_is_unknown_has_no_say() -> None:
    known, unknown = box(0.0, 0.0, 0.2, velocity=(3.0, 1.0)), box(0.0, 0.5, 0.8, velocity=(math.nan, math.nan))
    fused = weighted_box_fusion([known, unknown], RADII)
    torch.testing.assert_close(fused.velocities, torch.tensor([[3.0, 1.0]]))
    assert weighted_box_fusion([unknown], RADII).velocities.isnan().all()


def test_classes_and_far_boxes_stay_apart() -> None:
    fused = weighted_box_fusion([several(box(0, 0, 0.9), box(9, 0, 0.6)), box(0, 0, 0.8, label=1)], RADII)
    assert fused.labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(fused.scores, torch.tensor([0.45, 0.4, 0.3]))


def test_the_radius_is_the_class_s_own() -> None:
    radii = [2.0, 0.5, *[2.0] * 8]
    for label, count in ((0, 1), (1, 2)):
        pair = [box(0, 0, 0.9, label=label), box(1.0, 0, 0.8, label=label)]
        assert len(weighted_box_fusion(pair, radii)) == count


def test_two_boxes_of_one_sensor_are_two_objects() -> None:
    """However wide the radius: the second sensor's boxes go to their nearest, best first."""
    lidar = several(box(0.0, 0.0, 0.95), box(1.0, 0.0, 0.8))
    camera = several(box(0.9, 0.0, 0.6), box(0.2, 0.0, 0.5))
    fused = weighted_box_fusion([lidar, camera], RADII)
    assert len(fused) == 2
    expected = torch.tensor([(0.95 * 0.0 + 0.5 * 0.2) / 1.45, (0.8 * 1.0 + 0.6 * 0.9) / 1.4])
    torch.testing.assert_close(fused.centers[:, 0], expected)
    torch.testing.assert_close(fused.scores, torch.tensor([0.725, 0.7]))


def test_a_cluster_is_compared_by_its_fused_centre() -> None:
    """The third box is 2.5 m from the first, and 1.75 m from the mean of the first two."""
    chain = [box(0.0, 0.0, 0.6), box(1.5, 0.0, 0.6), box(2.5, 0.0, 0.3)]
    assert len(weighted_box_fusion(chain, RADII)) == 1
    assert len(weighted_box_fusion([chain[0], chain[2]], RADII)) == 2


def test_one_sensor_alone_stays_as_it_is() -> None:
    boxes = random_boxes(40, torch.Generator().manual_seed(0))
    boxes = boxes[torch.argsort(torch.rand(40, generator=torch.Generator().manual_seed(1)))]
    fused = weighted_box_fusion([boxes], [1e-6] * 10)
    assert len(fused) == 40
    for name in Boxes3D.__dataclass_fields__:
        torch.testing.assert_close(getattr(fused, name), getattr(boxes, name), atol=1e-6, rtol=1e-6)


def test_nothing_at_all() -> None:
    assert len(weighted_box_fusion([Boxes3D.empty(), Boxes3D.empty()], RADII)) == 0
    assert len(weighted_box_fusion([Boxes3D.empty(), box(0, 0, 0.5)], RADII)) == 1
