"""The cross-modal losses against loops, and where they look."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from calibration.cameras import PinholeCamera
from perception.cross_modal.alignment import CrossModalAlignment, CrossModalConfig
from perception.cross_modal.losses import info_nce, max_margin, triplet, unit
from perception.cross_modal.places import draw_places, far_apart, pictured_cells, seen_cells
from perception.grid import BevGrid
from perception.losses import Losses
from tests.random_batch import random_batch

GRID = BevGrid((-16.0, 16.0), (-12.0, 12.0), 2.0)
KINDS = ("info_nce", "triplet", "max_margin")


def embeddings(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two views of the same places, alike but not equal, and a mask of negatives in which some rows have none."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    first, second = (shared + torch.randn(shared.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = (v / v.norm(dim=1, keepdim=True) for v in (first, second))
    negative = torch.rand(count, count, generator=generator) < 0.6
    negative.fill_diagonal_(False)
    negative[3] = False
    return first, second, negative


def one_way(kind: str, first: torch.Tensor, second: torch.Tensor, negative: torch.Tensor) -> float:
    """From each place of the first sensor to those of the second."""
    losses = []
    for i in range(len(first)):
        others = [j for j in range(len(first)) if negative[i, j]]
        if not others:
            continue
        cosine = [float(first[i] @ second[j]) for j in range(len(first))]
        distance = [float((first[i] - second[j]).norm()) for j in range(len(first))]
        if kind == "info_nce":
            total = sum(math.exp(cosine[j] / 0.07) for j in [i, *others])
            losses.append(-math.log(math.exp(cosine[i] / 0.07) / total))
        elif kind == "max_margin":
            losses.append(sum(max(0.0, cosine[j] - cosine[i] + 0.3) for j in others) / len(others))
        else:
            farther = [distance[j] for j in others if distance[j] > distance[i]]
            chosen = min(farther) if farther else max(distance[j] for j in others)
            losses.append(max(0.0, distance[i] - chosen + 0.3))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_a_loop_over_pairs(kind: str) -> None:
    first, second, negative = embeddings(40)
    function = {"info_nce": info_nce, "triplet": triplet, "max_margin": max_margin}[kind]
    loss = function(first, second, negative, 0.07 if kind == "info_nce" else 0.3)
    expected = one_way(kind, first, second, negative) + one_way(kind, second, first, negative.T)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert function(second, first, negative.T, 0.07 if kind == "info_nce" else 0.3).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_small_differences(kind: str) -> None:
    first, second, negative = embeddings(9, seed=1)
    function = {"info_nce": info_nce, "triplet": triplet, "max_margin": max_margin}[kind]
    inputs = (first.requires_grad_(), second.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: function(a, b, negative, 0.5), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_embeddings_of_a_place_and_no_negatives(kind: str) -> None:
    function = {"info_nce": info_nce, "triplet": triplet, "max_margin": max_margin}[kind]
    same = unit(torch.randn(5, 4)).requires_grad_()
    for count in (0, 1, 5):
        loss = function(same[:count], same[:count], torch.zeros(count, count, dtype=torch.bool), 0.3)
        loss.backward()
        assert loss == 0
    assert same.grad is not None
    assert (same.grad == 0).all()
    # Places told apart perfectly cost nothing more: orthogonal directions.
    apart = torch.eye(4)
    negative = ~torch.eye(4, dtype=torch.bool)
    assert function(apart, apart, negative, 0.05) < 1e-6
    swapped = apart[[1, 0, 3, 2]]
    assert function(apart, swapped, negative, 0.05) > 0.09


def alignment(kind: str = "info_nce", **fields: object) -> CrossModalAlignment:
    torch.manual_seed(0)
    return CrossModalAlignment(CrossModalConfig(kind=kind, **fields), GRID, 8)


def bevs_and_seen(samples: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bevs = torch.randn(samples, 3, 8, *GRID.shape, generator=generator)
    return bevs, torch.rand(samples, 3, *GRID.shape, generator=generator) < 0.6


def run(module: CrossModalAlignment, bevs: torch.Tensor, seen: torch.Tensor, seed: int = 3) -> Losses:
    return module(bevs, seen, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 3])
def test_the_module_trains_its_projections_and_is_repeatable(kind: str, samples: int) -> None:
    module, (bevs, seen) = alignment(kind, places=40), bevs_and_seen(samples)
    bevs.requires_grad_()
    losses = run(module, bevs, seen)
    losses.total.backward()
    assert set(losses.parts) == {"camera-lidar", "camera-radar", "lidar-radar"}
    assert all(part > 0 for part in losses.parts.values())
    assert torch.allclose(losses.total, torch.stack(list(losses.parts.values())).sum())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias before a difference of distances may cancel; the weights never do.
        assert "bias" in name or (parameter.grad != 0).any(), name
    assert bevs.grad is not None
    assert torch.equal(run(module, bevs, seen).total, losses.total)
    assert not torch.equal(run(module, bevs, seen, seed=4).total, losses.total)


def test_a_teacher_gets_no_gradient_and_the_same_loss() -> None:
    module, (bevs, seen) = alignment(places=40), bevs_and_seen(2)
    taught = alignment(places=40, teacher="lidar")
    gradients = []
    for one in (module, taught):
        given = bevs.clone().requires_grad_()
        losses = run(one, given, seen)
        losses.total.backward()
        assert given.grad is not None
        gradients.append(given.grad)
    assert torch.equal(run(module, bevs, seen).total, run(taught, bevs, seen).total)
    assert (gradients[0][:, 1] != 0).any()
    assert (gradients[1][:, 1] == 0).all()
    assert torch.equal(gradients[0][:, [0, 2]], gradients[1][:, [0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_sensor_plays_no_part_and_nothing_in_common_costs_nothing(kind: str) -> None:
    module, (bevs, seen) = alignment(kind, places=400), bevs_and_seen(2)
    seen[:, 2] = False
    spoilt = bevs.clone()
    spoilt[:, 2] = math.nan
    clean, garbage = run(module, bevs, seen), run(module, spoilt, seen)
    assert torch.equal(clean.total, garbage.total)
    assert clean.parts["camera-radar"] == clean.parts["lidar-radar"] == 0
    seen[:, 1] = ~seen[:, 0]
    nothing = run(module, bevs, seen)
    nothing.total.backward()
    assert nothing.total == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())


def test_training_brings_the_views_of_a_place_together() -> None:
    """Two sensors see the same hidden map, each through a mixing of its own; projections learn to undo it."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 8, *GRID.shape, generator=generator)
    mixings = torch.randn(3, 8, 8, generator=generator)
    bevs = torch.einsum("mdc,bcyx->bmdyx", mixings, hidden)
    seen = torch.ones(2, 3, *GRID.shape, dtype=torch.bool)
    module = alignment(places=64)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    first = run(module, bevs, seen).total.item()
    for step in range(50):
        optimiser.zero_grad()
        run(module, bevs, seen, seed=step).total.backward()
        optimiser.step()
    assert run(module, bevs, seen, seed=1000).total.item() < 0.3 * first


def test_places_are_drawn_from_what_both_have_seen_and_negatives_are_far() -> None:
    _, seen = bevs_and_seen(2)
    both = seen[:, 0] & seen[:, 1]
    generator = torch.Generator().manual_seed(0)
    places = draw_places(both, 30, generator)
    assert both[places.sample, places.row, places.column].all()
    assert len(set(zip(places.sample.tolist(), places.row.tolist(), places.column.tolist(), strict=True))) == 30
    assert len(draw_places(both, 10_000, generator).row) == int(both.sum())
    far = far_apart(places, 3.0)
    for i in range(30):
        for j in range(30):
            steps = math.hypot(places.row[i] - places.row[j], places.column[i] - places.column[j])
            assert far[i, j] == (places.sample[i] != places.sample[j] or steps >= 3.0)


def test_pictured_cells_are_those_that_the_camera_model_projects_into_the_picture() -> None:
    batch = random_batch(1, torch.Generator().manual_seed(0))
    only = batch.camera_available.clone()
    only[:] = False
    only[0, [0, 2]] = True
    seen = pictured_cells(replace(batch, camera_available=only), GRID)[0]
    height, width = batch.images.shape[-2:]
    expected = torch.zeros(GRID.shape, dtype=torch.bool)
    for camera in (0, 2):
        model = PinholeCamera(width, height, batch.intrinsics[0, camera].double())
        cam_from_ego = torch.linalg.inv(batch.ego_from_cam[0, camera].double())
        for row, column in torch.cartesian_prod(*(torch.arange(n) for n in GRID.shape)).tolist():
            for z in (0.0, 1.0, 2.0):
                x, y = GRID.centers()[row, column].tolist()
                point = cam_from_ego[:3, :3] @ torch.tensor([x, y, z], dtype=torch.float64) + cam_from_ego[:3, 3]
                if point[2] > 1.0:
                    u, v, _ = (model.intrinsics @ point / point[2]).tolist()
                    expected[row, column] |= 0 <= u <= width - 1 and 0 <= v <= height - 1
    assert torch.equal(seen, expected)
    assert 0 < seen.sum() < seen.numel()


def test_seen_cells_hold_points_and_an_unavailable_sensor_has_seen_nothing() -> None:
    batch = random_batch(2, torch.Generator().manual_seed(0))
    seen = seen_cells(batch, GRID)
    for sensor, cloud in ((1, batch.lidar), (2, batch.radar)):
        expected = torch.zeros(2, *GRID.shape, dtype=torch.bool)
        for sample, (x, y) in zip(cloud.sample_index.tolist(), cloud.points[:, :2].tolist(), strict=True):
            row, column = math.floor((y + 12) / 2), math.floor((x + 16) / 2)
            if 0 <= row < GRID.shape[0] and 0 <= column < GRID.shape[1]:
                expected[sample, row, column] = True
        assert torch.equal(seen[:, sensor], expected)
    without = seen_cells(batch.without("camera", "radar"), GRID)
    assert not without[:, 0].any()
    assert not without[:, 2].any()
    broken = replace(batch.without("camera"), ego_from_cam=torch.zeros_like(batch.ego_from_cam))
    assert torch.equal(seen_cells(broken, GRID), seen_cells(batch.without("camera"), GRID))


@pytest.mark.parametrize(
    "wrong", [{"places": 1}, {"width": 0}, {"temperature": 0.0}, {"min_distance": -1.0}, {"teacher": "pose"}]
)
def test_a_wrong_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrossModalConfig(**wrong)
