"""The query head: matching, losses, decoding; and the quality branch, which both heads have."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES_OF_CLASS
from perception.grid import BevGrid
from perception.heads.box_codes import decode_codes
from perception.heads.box_losses import focal_loss
from perception.heads.center_head import CenterHeadConfig
from perception.heads.center_targets import center_targets
from perception.heads.matching import MatchCosts, cheapest_match, matching_costs
from perception.heads.quality import QualityConfig, overlaps, quality_loss, rescored
from perception.heads.query_decoder import QueryAttention
from perception.heads.query_head import QueryHead, QueryHeadConfig
from perception.rotated_iou import iou_3d
from tests.random_batch import random_boxes
from tests.test_rotated_iou import outline

GRID = BevGrid((-12.8, 12.8), (-9.6, 9.6), 0.8)
CONFIG = QueryHeadConfig(channels=16, hidden=32, queries=30, layers=2, quality=QualityConfig())


def small_head(config: QueryHeadConfig = CONFIG) -> QueryHead:
    torch.manual_seed(0)
    return QueryHead(config, GRID, 16)


def test_costs_and_match_equal_a_loop_with_shapely_and_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    found, truth = random_boxes(40, generator, reach=4.0), random_boxes(12, generator, reach=4.0)
    logits = torch.randn(40, 10, generator=generator) * 2
    weights = MatchCosts(label=0.15, distance=0.05, overlap=0.25)
    costs = matching_costs(logits, found, truth, weights)
    expected = torch.zeros(40, 12, dtype=torch.float64)
    for q in range(40):
        for m in range(12):
            p = 1 / (1 + math.exp(-logits[q, truth.labels[m]].item()))
            label = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
            distance = (found.centers[q, :2] - truth.centers[m, :2]).abs().sum().item()
            (low_q, high_q), (low_m, high_m) = (
                [boxes.centers[k, 2].item() + s * boxes.sizes_wlh[k, 2].item() / 2 for s in (-1, 1)]
                for boxes, k in ((found, q), (truth, m))
            )
            height = max(0.0, min(high_q, high_m) - max(low_q, low_m))
            common = outline(found, q).intersection(outline(truth, m)).area * height
            union = found.sizes_wlh[q].prod().item() + truth.sizes_wlh[m].prod().item() - common
            expected[q, m] = 0.15 * label + 0.05 * distance - 0.25 * common / union
    assert torch.allclose(costs, expected, atol=1e-6)
    rows, columns = cheapest_match(costs)
    scipy_rows, scipy_columns = linear_sum_assignment(expected.numpy())
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == sorted(
        zip(scipy_rows.tolist(), scipy_columns.tolist(), strict=True)
    )
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == 12


def test_a_match_of_nothing_and_of_numbers_that_are_not_finite() -> None:
    assert [len(part) for part in cheapest_match(torch.zeros(5, 0, dtype=torch.float64))] == [0, 0]
    broken = torch.rand(4, 3, dtype=torch.float64)
    broken[0, 1], broken[2] = math.nan, math.inf
    rows, columns = cheapest_match(broken)
    assert sorted(columns.tolist()) == [0, 1, 2]
    assert 2 not in rows.tolist()


def test_focal_loss_against_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=generator)
    targets = torch.randint(0, 2, (50,), generator=generator).float()
    for loss, logit, target in zip(
        focal_loss(logits, targets).tolist(), logits.tolist(), targets.tolist(), strict=True
    ):
        p = 1 / (1 + math.exp(-logit))
        expected = -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log(1 - p)
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [0, 4, 80])
def test_any_number_of_boxes_trains_every_parameter(count: int) -> None:
    """None, some, and more than there are queries."""
    head = small_head()
    boxes = [random_boxes(count, torch.Generator().manual_seed(seed), reach=9.0) for seed in (1, 2)]
    outputs = head(torch.randn(2, 16, *GRID.shape))
    losses = head.losses(outputs, boxes)
    losses.total.backward()
    assert losses.total.isfinite()
    assert torch.allclose(losses.total, torch.stack(list(losses.parts.values())).sum())
    silent = {name for name, part in losses.parts.items() if part == 0}
    assert silent == (set() if count else set(losses.parts) - {"heatmap", "class"})
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any() == (count > 0 or not name.startswith("regress")), name


def test_every_object_is_learnt_by_one_query_of_its_own() -> None:
    """The class loss tells: with one-hot answers at exactly the matched queries it is next to nothing."""
    head = small_head(replace(CONFIG, layers=1))
    boxes = random_boxes(6, torch.Generator().manual_seed(3), reach=9.0)
    outputs = head(torch.randn(1, 16, *GRID.shape))
    silent = replace(outputs, class_logits=torch.full_like(outputs.class_logits, -20.0))
    assert head.losses(silent, [boxes]).parts["class"].item() == pytest.approx(0.25 * 20.0, rel=1e-3)
    loud = replace(outputs, class_logits=torch.full_like(outputs.class_logits, 20.0))
    answers, wrong = outputs.class_logits[0, 0].numel(), 0.75 * 20.0
    assert head.losses(loud, [boxes]).parts["class"].item() == pytest.approx((answers - 6) * wrong / 6, rel=1e-3)


def test_unknown_velocities_and_boxes_off_the_grid_play_no_part() -> None:
    head = small_head()
    boxes = random_boxes(3, torch.Generator().manual_seed(3), reach=9.0)
    unknown = replace(boxes, velocities=torch.full((3, 2), math.nan))
    outputs = head(torch.randn(1, 16, *GRID.shape))
    parts = head.losses(outputs, [unknown]).parts
    assert parts["velocity"] == 0
    assert parts["offset"] > 0
    far = replace(boxes, centers=boxes.centers + 100.0)
    nothing, empty = head.losses(outputs, [far]).parts, head.losses(outputs, [Boxes3D.empty()]).parts
    assert all(nothing[name] == empty[name] for name in empty)


def test_a_sample_does_not_depend_on_its_batch_and_more_queries_than_cells_are_cut() -> None:
    torch.manual_seed(0)
    head = QueryHead(replace(CONFIG, queries=1000), BevGrid((-2.0, 2.0), (-1.5, 1.5), 0.5), 16).eval()
    bev = torch.randn(2, 16, 6, 8)
    together, alone = head.decode(head(bev)), head.decode(head(bev[1:]))
    assert head(bev).rows.shape == (2, 10 * 6 * 8)
    assert len(together[1]) == len(alone[0])
    assert torch.allclose(together[1].scores, alone[0].scores, atol=1e-5)


def test_sampled_attention_equals_projecting_the_whole_map_first() -> None:
    torch.manual_seed(0)
    attention = QueryAttention(8, heads=2, points=3)
    torch.nn.init.normal_(attention.offsets.weight)
    queries, bev = torch.randn(1, 5, 8), torch.randn(1, 8, 6, 7)
    places = torch.rand(1, 5, 2) * torch.tensor([7.0, 6.0])
    expected = torch.zeros(5, 8)
    offsets = attention.offsets(queries)[0].view(5, 2, 3, 2)
    weights = attention.weights(queries)[0].view(5, 2, 3).softmax(dim=-1)
    for head in range(2):
        projected = torch.einsum("cyx,cd->dyx", bev[0], attention.values[head])
        for q in range(5):
            for point in range(3):
                column, row = (places[0, q] + offsets[q, head, point] - 0.5).tolist()
                for r, c in ((math.floor(row) + i, math.floor(column) + j) for i in (0, 1) for j in (0, 1)):
                    if 0 <= r < 6 and 0 <= c < 7:
                        share = (1 - abs(row - r)) * (1 - abs(column - c)) * weights[q, head, point]
                        expected[q, 4 * head : 4 * head + 4] += share * projected[:, r, c]
    assert torch.allclose(attention(queries, places, bev)[0], attention.output(expected), atol=1e-5)


def test_the_head_learns_boxes_by_heart_without_any_suppression() -> None:
    boxes = [random_boxes(5, torch.Generator().manual_seed(7), reach=9.0), Boxes3D.empty()]
    head, steps = small_head(replace(CONFIG, queries=20, layers=1)), 160
    bev = torch.nn.Parameter(torch.randn(2, 16, *GRID.shape))
    optimiser = torch.optim.AdamW([bev, *head.parameters()], lr=0.02, weight_decay=0.0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        losses = head.losses(head(bev), boxes)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    found, nothing = head.decode(head(bev))
    sure = found[found.scores > 0.5]
    assert len(sure) == 5
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert (nothing.scores < 0.2).all()
    for index in range(5):
        twin = (sure.centers - boxes[0].centers[index]).norm(dim=1).argmin()
        one, other = sure[twin[None]], boxes[0][torch.tensor([index])]
        assert iou_3d(one, other) > 0.9
        assert (one.velocities - other.velocities).norm() < 0.3
        assert one.labels == other.labels
        assert one.attributes == (other.attributes if ATTRIBUTES_OF_CLASS[other.labels] else -1)


def test_under_bfloat16_the_losses_are_those_of_float32_but_for_its_rounding() -> None:
    head, boxes = small_head(), [random_boxes(5, torch.Generator().manual_seed(7), reach=9.0)]
    bev = torch.randn(1, 16, *GRID.shape)
    exact = head.losses(head(bev), boxes)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head.losses(head(bev), boxes)
    rounded.total.backward()
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_overlaps_are_those_of_the_boxes_that_the_codes_mean() -> None:
    boxes = random_boxes(30, torch.Generator().manual_seed(0), reach=9.0)
    targets = center_targets([boxes], GRID, 2, 0, torch.device("cpu"))
    assert torch.allclose(overlaps(targets.codes, targets.codes, targets.cells, GRID), torch.ones(len(targets.codes)))
    codes = targets.codes + 0.2 * torch.randn(targets.codes.shape, generator=torch.Generator().manual_seed(1))
    found = overlaps(codes, targets.codes, targets.cells, GRID)
    (centers, sizes, yaws, _), truth = (decode_codes(c, targets.cells, GRID) for c in (codes, targets.codes))
    nowhere = torch.zeros(len(codes), dtype=torch.int64)
    for index in range(len(codes)):
        one = Boxes3D(centers, sizes, yaws, torch.zeros(len(codes), 2), nowhere, yaws, nowhere)
        other = Boxes3D(*truth[:3], torch.zeros(len(codes), 2), nowhere, yaws, nowhere)
        bottom, top = (
            [b.centers[index, 2].item() + sign * b.sizes_wlh[index, 2].item() / 2 for b in (one, other)]
            for sign in (-1, 1)
        )
        common = outline(one, index).intersection(outline(other, index)).area * max(0.0, min(top) - max(bottom))
        union = one.sizes_wlh[index].prod().item() + other.sizes_wlh[index].prod().item() - common
        assert found[index].item() == pytest.approx(common / union, abs=1e-4)
    assert found.max() < 0.999


def test_quality_is_learnt_and_moves_scores_by_the_power_of_the_class() -> None:
    overlap = torch.tensor([0.0, 0.3, 1.0])
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        quality_loss(logits, overlap, torch.ones(3)).backward()
        optimiser.step()
    assert torch.allclose(logits.sigmoid(), overlap, atol=0.03)
    config = QualityConfig(powers=(0.0, 1.0, 0.5) + (0.5,) * 7)
    scores, quality = torch.full((3,), 0.64), torch.full((3,), math.log(0.25 / 0.75))
    expected = torch.tensor([0.64, 0.25, 0.4])
    assert torch.allclose(rescored(scores, quality, torch.tensor([0, 1, 2]), config), expected)


@pytest.mark.parametrize("config", [CenterHeadConfig(), QueryHeadConfig()])
def test_the_quality_branch_can_be_off(config: CenterHeadConfig | QueryHeadConfig) -> None:
    from perception.heads.build import build_head

    boxes = [random_boxes(4, torch.Generator().manual_seed(1), reach=9.0)]
    for quality in (None, QualityConfig(weight=2.0)):
        torch.manual_seed(0)
        head = build_head(replace(config, quality=quality), GRID, 16)
        losses = head.losses(head(torch.randn(1, 16, *GRID.shape)), boxes)
        assert ("quality" in losses.parts) == (quality is not None)


@pytest.mark.parametrize(
    "wrong",
    [{"powers": (0.5,)}, {"powers": (2.0,) * 10}, {"weight": 0.0}],
)
def test_a_wrong_quality_config_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"powers|weight"):
        QualityConfig(**wrong)
