"""Targets, losses and decoding of the centre head."""

import math
from dataclasses import replace

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from perception.grid import BevGrid
from perception.heads.box_codes import decode_codes
from perception.heads.box_losses import gaussian_focal_loss
from perception.heads.center_head import CenterHead, CenterHeadConfig, CenterOutputs
from perception.heads.center_targets import CenterTargets, center_targets, gaussian_radius
from perception.heads.peaks import CROWDED_CLASSES, NMS_RADIUS, circle_nms, local_maxima
from tests.random_batch import random_boxes

GRID = BevGrid((-12.8, 12.8), (-9.6, 9.6), 0.8)
CPU = torch.device("cpu")
CAR, PEDESTRIAN, CONE = (DETECTION_CLASSES.index(name) for name in ("car", "pedestrian", "traffic_cone"))


def box_at(x: float, y: float, label: int = CAR, size: tuple[float, float, float] = (2.0, 4.0, 1.5)) -> Boxes3D:
    return Boxes3D(
        centers=torch.tensor([[x, y, 1.0]]),
        sizes_wlh=torch.tensor([size]),
        yaws=torch.tensor([0.3]),
        velocities=torch.tensor([[1.0, -2.0]]),
        labels=torch.tensor([label]),
        scores=torch.ones(1),
        attributes=torch.tensor([0 if label == CAR else 7 if label == PEDESTRIAN else -1]),
    )


def joined(*parts: Boxes3D) -> Boxes3D:
    return Boxes3D(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in Boxes3D.__dataclass_fields__}
    )


def yaw_difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b + math.pi) % (2 * math.pi) - math.pi).abs()


def test_codes_of_the_targets_decode_to_the_boxes_again() -> None:
    boxes = random_boxes(40, torch.Generator().manual_seed(0), reach=9.5)
    targets = center_targets([boxes], GRID, 2, 1, CPU)
    centers, sizes, yaws, velocities = decode_codes(targets.codes, targets.cells, GRID)
    assert len(set(zip(targets.codes[:, 3].tolist(), targets.labels.tolist(), strict=True))) > 30
    assert len(targets.cells) > 9 * 30
    for index in range(len(centers)):
        twin = (boxes.centers - centers[index]).norm(dim=1).argmin()
        assert torch.allclose(centers[index], boxes.centers[twin], atol=1e-5)
        assert torch.allclose(sizes[index], boxes.sizes_wlh[twin], atol=1e-5)
        assert yaw_difference(yaws[index], boxes.yaws[twin]) < 1e-5
        assert torch.allclose(velocities[index], boxes.velocities[twin])
        assert targets.labels[index] == boxes.labels[twin]
        assert targets.attributes[index] == boxes.attributes[twin]


def test_the_peak_is_one_at_the_centre_cell_and_lower_elsewhere() -> None:
    targets = center_targets([box_at(1.0, -0.2)], GRID, 2, 1, CPU)
    heat = targets.heatmap[0, CAR]
    row, column = math.floor((-0.2 + 9.6) / 0.8), math.floor((1.0 + 12.8) / 0.8)
    assert (heat == 1).nonzero().tolist() == [[row, column]]
    assert {(row, column), (row + 1, column - 1)} <= set(
        zip(targets.cells.row.tolist(), targets.cells.column.tolist(), strict=True)
    )
    assert heat[row, column + 1] == heat[row, column - 1] == heat[row + 1, column]
    assert 0 < heat[row, column + 2] < heat[row, column + 1] < 1
    assert (targets.heatmap[0, :CAR] == 0).all()
    assert (targets.heatmap[0, CAR + 1 :] == 0).all()


def test_peaks_at_the_edge_are_cut_and_boxes_off_the_grid_left_out() -> None:
    corner = center_targets([box_at(-12.79, -9.59)], GRID, 2, 1, CPU)
    assert corner.heatmap[0, CAR, 0, 0] == 1
    far = joined(box_at(12.8, 0.0), box_at(0.0, -9.61), box_at(100.0, 0.0))
    outside = center_targets([far], GRID, 2, 1, CPU)
    assert len(outside.cells) == 0
    assert (outside.heatmap == 0).all()


@pytest.mark.parametrize("field", ["centers", "sizes_wlh", "yaws"])
def test_boxes_that_are_not_finite_are_left_out(field: str) -> None:
    broken = box_at(0.0, 0.0)
    broken = replace(broken, **{field: torch.full_like(getattr(broken, field), float("nan"))})
    targets = center_targets([joined(broken, box_at(5.0, 5.0))], GRID, 2, 1, CPU)
    assert len(targets.cells) == 9
    assert targets.heatmap.isfinite().all()


def owner_at(targets: CenterTargets, column: int, row: int, group: int) -> int:
    """The label of the object that this cell belongs to."""
    cells = targets.cells
    here = (cells.column == column) & (cells.row == row) & (cells.group == group)
    return int(targets.labels[here].item())


def test_a_cell_belongs_to_the_object_in_it_then_to_the_nearest() -> None:
    # Columns of 0.8 m from -12.8: x = 0.4 is the middle of column 16, 1.2 that of column 17.
    person, cone = box_at(0.75, 0.4, PEDESTRIAN), box_at(0.85, 0.4, CONE)
    row, group = 12, 5
    for boxes in (joined(person, cone), joined(cone, person)):
        targets = center_targets([boxes], GRID, 2, 1, CPU)
        assert len(targets.cells) == 3 * 4
        assert owner_at(targets, 16, row, group) == PEDESTRIAN
        assert owner_at(targets, 17, row, group) == CONE
        assert owner_at(targets, 15, row, group) == PEDESTRIAN
        assert owner_at(targets, 18, row, group) == CONE


def test_of_two_centres_in_a_cell_the_one_nearest_to_its_middle_owns_it() -> None:
    person, cone, car = box_at(0.1, 0.4, PEDESTRIAN), box_at(0.5, 0.4, CONE), box_at(0.4, 0.4)
    for boxes in (joined(person, cone, car), joined(car, cone, person)):
        targets = center_targets([boxes], GRID, 2, 1, CPU)
        assert owner_at(targets, 16, 12, 5) == CONE
        assert owner_at(targets, 16, 12, 0) == CAR  # another group: both have this cell
        assert owner_at(targets, 15, 12, 5) == PEDESTRIAN
        assert targets.heatmap[0, PEDESTRIAN, 12, 16] == targets.heatmap[0, CONE, 12, 16] == 1


def test_without_reach_only_the_centre_cell_learns_the_box() -> None:
    targets = center_targets([box_at(0.4, 0.4)], GRID, 2, 0, CPU)
    assert (targets.cells.row.tolist(), targets.cells.column.tolist()) == ([12], [16])
    assert targets.weights.tolist() == [1.0]


def test_the_cells_around_an_object_count_less_than_its_own() -> None:
    targets = center_targets([box_at(0.4, 0.4)], GRID, 2, 1, CPU)
    own = (targets.cells.row == 12) & (targets.cells.column == 16)
    assert targets.weights[own].tolist() == [1.0]
    assert (targets.weights[~own] < 0.2).all()


def test_a_world_turned_by_90_degrees_has_its_targets_turned() -> None:
    square = BevGrid((-9.6, 9.6), (-9.6, 9.6), 0.8)
    boxes = random_boxes(20, torch.Generator().manual_seed(2), reach=9.0)
    quarter = torch.tensor([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    before = center_targets([boxes], square, 2, 1, CPU)
    after = center_targets([boxes.transformed(quarter)], square, 2, 1, CPU)
    # x becomes y, y becomes -x: columns become rows, rows become columns from the other end.
    assert torch.allclose(after.heatmap, before.heatmap.transpose(2, 3).flip(3))
    assert sorted(after.labels.tolist()) == sorted(before.labels.tolist())


def test_gaussian_radius_keeps_the_overlap() -> None:
    """The definition itself, checked with the overlap of real rectangles."""
    from shapely.geometry import box

    generator = torch.Generator().manual_seed(0)
    lengths, widths = 1 + 30 * torch.rand(50, generator=generator), 1 + 10 * torch.rand(50, generator=generator)
    radii = gaussian_radius(lengths.double(), widths.double(), min_overlap=0.1)
    for length, width, radius in zip(lengths.tolist(), widths.tolist(), radii.tolist(), strict=True):
        truth = box(0, 0, length, width)
        others = [
            box(radius, radius, length + radius, width + radius),
            box(radius, radius, length - radius, width - radius),
            box(-radius, -radius, length + radius, width + radius),
        ]
        overlaps = [truth.intersection(other).area / truth.union(other).area for other in others]
        assert min(overlaps) == pytest.approx(0.1, abs=1e-4)


def test_focal_loss_against_the_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    targets = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    targets[0, 0, 0, 0] = targets[1, 2, 3, 4] = 1.0
    expected = 0.0
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected -= (1 - p) ** 2 * math.log(p) if target == 1 else (1 - target) ** 4 * p**2 * math.log(1 - p)
    loss = gaussian_focal_loss(logits.float(), targets.float(), torch.tensor(2.0))
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)
    extreme = gaussian_focal_loss(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]), torch.tensor(1.0))
    assert extreme.isfinite()


def losses_on(boxes: list[Boxes3D]) -> tuple[CenterHead, object]:
    torch.manual_seed(0)
    head = CenterHead(CenterHeadConfig(channels=8, hidden=16), GRID, 8)
    outputs = head(torch.randn(len(boxes), 8, *GRID.shape))
    losses = head.losses(outputs, boxes)
    losses.total.backward()
    return head, losses


def test_without_any_object_the_loss_is_finite_and_regressions_get_zero_gradients() -> None:
    head, losses = losses_on([Boxes3D.empty(), Boxes3D.empty()])
    assert losses.total.isfinite()
    assert losses.total > 0
    assert all(losses.parts[name] == 0 for name in losses.parts if name != "heatmap")
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad == 0).all() == name.startswith("regress"), name


def test_unknown_velocity_and_attribute_play_no_part() -> None:
    known = box_at(0.0, 0.0)
    unknown = replace(
        known, velocities=torch.full((1, 2), float("nan")), attributes=torch.full((1,), -1, dtype=torch.int64)
    )
    head, losses = losses_on([unknown])
    assert losses.total.isfinite()
    assert losses.parts["velocity"] == 0
    assert losses.parts["attribute"] == 0
    assert losses.parts["offset"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    _, both = losses_on([known])
    assert both.parts["velocity"] > 0
    assert both.parts["attribute"] > 0


def test_an_attribute_the_class_cannot_have_is_ignored() -> None:
    wrong = replace(box_at(0.0, 0.0), attributes=torch.tensor([6]))
    assert losses_on([wrong])[1].parts["attribute"] == 0


def test_losses_are_divided_by_the_number_of_objects() -> None:
    one = losses_on([box_at(0.0, 0.0)])[1].parts
    # The same object twice, in two samples with different features: of the same order, not twice as large.
    two = losses_on([box_at(0.0, 0.0), box_at(0.0, 0.0)])[1].parts
    assert two["size"] < 1.5 * one["size"]


def test_local_maxima_and_crowded_classes() -> None:
    heat = torch.zeros(1, 10, 5, 5)
    heat[:, :, 2, 2], heat[:, :, 2, 3] = 0.9, 0.8
    peak = local_maxima(heat)
    assert peak[0, CAR, 2, 2]
    assert not peak[0, CAR, 2, 3]
    for label in CROWDED_CLASSES:
        assert peak[0, label, 2, 2:4].all()
        assert not peak[0, label, 1, 2]


def test_circle_nms_equals_the_greedy_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(200, 2, generator=generator) * 15
    labels = torch.randint(0, 10, (200,), generator=generator)
    kept: list[int] = []
    for index in range(200):
        if all(
            labels[other] != labels[index] or (centers[other] - centers[index]).norm() >= NMS_RADIUS[labels[index]]
            for other in kept
        ):
            kept.append(index)
    assert circle_nms(centers, labels).nonzero().flatten().tolist() == kept
    assert len(kept) < 150
    assert circle_nms(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def head_with_heatmap(value: float) -> tuple[CenterHead, CenterOutputs]:
    torch.manual_seed(0)
    head = CenterHead(CenterHeadConfig(channels=8, hidden=16), GRID, 8)
    rows, columns = head.grid.shape
    return head, CenterOutputs(torch.full((2, 10, rows, columns), value), torch.randn(2, 8, rows, columns))


def test_nothing_above_the_threshold_gives_no_boxes() -> None:
    head, outputs = head_with_heatmap(-10.0)
    assert [len(boxes) for boxes in head.decode(outputs)] == [0, 0]


def test_decoding_ties_is_bounded_ordered_and_repeatable() -> None:
    head, outputs = head_with_heatmap(0.0)
    first, second = head.decode(outputs), head.decode(outputs)
    for boxes, again in zip(first, second, strict=True):
        assert 0 < len(boxes) <= head.config.max_boxes
        assert torch.equal(boxes.centers, again.centers)


def test_decoded_attributes_are_those_of_the_class() -> None:
    head, outputs = head_with_heatmap(-10.0)
    for label in range(10):
        outputs.heatmap_logits[:, label, 3 * label, 2 * label] = 2.0 + label / 10
    for boxes in head.decode(outputs):
        assert sorted(boxes.labels.tolist()) == list(range(10))
        assert (boxes.scores[:-1] >= boxes.scores[1:]).all()
        for label, attribute in zip(boxes.labels.tolist(), boxes.attributes.tolist(), strict=True):
            allowed = ATTRIBUTES_OF_CLASS[label]
            assert attribute in allowed if allowed else attribute == -1


def test_the_head_learns_boxes_by_heart() -> None:
    """Overfit on a free BEV: the loss goes to almost nothing and decoding gives the annotated boxes back."""
    torch.manual_seed(0)
    boxes = [random_boxes(5, torch.Generator().manual_seed(7), reach=9.0), Boxes3D.empty()]
    head = CenterHead(CenterHeadConfig(channels=16, hidden=32), GRID, 16)
    bev = torch.nn.Parameter(torch.randn(2, 16, *GRID.shape))
    optimiser = torch.optim.AdamW([bev, *head.parameters()], lr=0.02, weight_decay=0.0)
    steps, first = 220, None
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        losses = head.losses(head(bev), boxes)
        first = losses.total.item() if first is None else first
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert losses.total.item() < 0.01 * first
    found = head.decode(head(bev))
    sure = found[0][found[0].scores > 0.5]
    assert len(sure) == 5
    assert (found[1].scores < 0.3).all()
    for index in range(5):
        twin = (sure.centers[:, :2] - boxes[0].centers[index, :2]).norm(dim=1).argmin()
        assert (sure.centers[twin] - boxes[0].centers[index]).norm() < 0.15
        assert (sure.sizes_wlh[twin] / boxes[0].sizes_wlh[index]).log().abs().max() < 0.1
        assert yaw_difference(sure.yaws[twin], boxes[0].yaws[index]) < 0.1
        assert (sure.velocities[twin] - boxes[0].velocities[index]).norm() < 0.3
        assert sure.labels[twin] == boxes[0].labels[index]
        assert sure.attributes[twin] == boxes[0].attributes[index]
