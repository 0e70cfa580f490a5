"""The whole detector: every subset of sensors, masks, batches, and modality dropout."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.samples.batch import MODALITIES, Batch, PointBatch
from perception.cross_modal.alignment import CrossModalConfig
from perception.detector import Detector, DetectorConfig, Predictions
from perception.heads.center_head import CenterHeadConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.modality_dropout import drop_modalities, mask_modalities
from perception.presets import base, large, small, tiny
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.perspective import PerspectiveConfig
from perception.tasks.segmentation import SegmentationConfig
from perception.tasks.task_weights import TaskWeightsConfig
from perception.view_transform.lift_splat import LiftSplatConfig
from tests.random_batch import random_batch, sample_of
from tests.small_run import small_detector


def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(small_detector())


def batch_of(count: int) -> Batch:
    return random_batch(count, torch.Generator().manual_seed(1))


def assert_same(a: Predictions, b: Predictions) -> None:
    assert torch.equal(a.bev, b.bev)
    assert torch.equal(a.modality_weights, b.modality_weights)
    assert torch.equal(a.head.heatmap_logits, b.head.heatmap_logits)
    assert torch.equal(a.head.features, b.head.features)


def assert_same_boxes(a: list[Boxes3D], b: list[Boxes3D]) -> None:
    for one, other in zip(a, b, strict=True):
        for name in Boxes3D.__dataclass_fields__:
            assert torch.equal(getattr(one, name), getattr(other, name)), name


HEADS = {
    "center": small_detector().head,
    "center with quality": CenterHeadConfig(channels=8, hidden=16, upsample=2, quality=QualityConfig()),
    "query": QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16, quality=QualityConfig()),
}


TASKS = {
    "none": small_detector(),
    "all": replace(
        small_detector(),
        segmentation=SegmentationConfig(channels=8, layers=1),
        depth=DepthTaskConfig(max_age=0.5),
        perspective=PerspectiveConfig(),
        cross_modal=CrossModalConfig(width=8, places=40),
        task_weights=TaskWeightsConfig(learned=True),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_subset_of_sensors_trains_and_detects(name: str) -> None:
    """All 2^3 - 1 subsets of camera, LiDAR and radar, with and without pose; and nothing at all; with every head."""
    torch.manual_seed(0)
    network, full = Detector(replace(TASKS["none"], head=HEADS[name])), batch_of(2)
    train_and_detect_with_every_subset(network, full)


def test_every_task_trains_beside_detection_with_every_subset_of_sensors() -> None:
    torch.manual_seed(0)
    masks = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    batch = replace(batch_of(2), map_masks=masks, map_known=torch.ones(2, 16, 16, dtype=torch.bool))
    train_and_detect_with_every_subset(Detector(TASKS["all"]), batch)


def train_and_detect_with_every_subset(network: Detector, full: Batch) -> None:
    for present in itertools.product([True, False], repeat=4):
        absent = [name for name, here in zip(MODALITIES, present, strict=True) if not here]
        batch = full.without(*absent)
        network.zero_grad()
        predictions = network(batch)
        losses = network.losses(predictions, batch)
        losses.total.backward()
        assert losses.total.isfinite(), absent
        assert torch.allclose(losses.total, torch.stack(list(losses.parts.values())).sum())
        for name, parameter in network.named_parameters():
            # Parameters of an absent modality get no gradient or zeros, all others get one.
            owner = name.split(".")[0]
            if name.startswith("fusion.at_cells.sensors."):
                owner = MODALITIES[int(name.split(".")[3])]
            if name.startswith("fusion.at_cells.pose."):
                owner = "pose"
            if name.startswith("cross_modal."):
                owner = MODALITIES[int(name.split(".")[2])]
                # A sensor alone has nothing to compare with.
                if sum(present[:3]) < 2:
                    owner = absent[0] if absent else owner
            if owner == "perspective":
                owner = "camera"
            if ".regress.radar." in name:
                owner = "radar" if "radar" in absent else "near returns"
            if owner in absent:
                assert parameter.grad is None or (parameter.grad == 0).all(), (name, absent)
            elif any(present) or not name.startswith("fusion.at_cells"):
                assert parameter.grad is not None, (name, absent)
                assert parameter.grad.isfinite().all(), (name, absent)
                # Of the queries none may stand near a return of the radars.
                if any(present) and owner != "near returns":
                    assert (parameter.grad != 0).any(), (name, absent)
        found = network.detect(batch)
        assert len(found) == 2
        for boxes in found:
            assert boxes.centers.isfinite().all()
            assert boxes.sizes_wlh.isfinite().all()
            assert boxes.velocities.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": DepthTaskConfig(), "lidar": None}, "needs both branches"),
        ({"perspective": PerspectiveConfig(), "camera": None}, "learnt by the camera branch"),
        (
            {"camera": replace(small_detector().camera, view=LiftSplatConfig(lidar_depth=True)), "lidar": None},
            "needs LiDAR points",
        ),
        ({"cross_modal": CrossModalConfig(), "camera": None, "radar": None}, "needs two of camera, lidar and radar"),
    ],
)
def test_tasks_without_their_sensors_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(small_detector(), **fields)


def test_losses_without_what_they_need_are_refused() -> None:
    network, batch = Detector(TASKS["all"]), batch_of(1)
    with pytest.raises(ValueError, match="annotations"):
        network.losses(network(batch), replace(batch, boxes=None))
    with pytest.raises(ValueError, match="map segmentation needs"):
        network.losses(network(batch), batch)


def test_detectors_built_without_a_branch_run() -> None:
    batch = batch_of(1)
    for name in MODALITIES:
        torch.manual_seed(0)
        network = Detector(replace(small_detector(), **{name: None}))
        assert not any(parameter.startswith(f"{name}.") for parameter, _ in network.named_parameters())
        predictions = network(batch)
        assert (predictions.modality_weights[:, MODALITIES.index(name)] == 0).all()
        assert network.losses(predictions, batch).total.isfinite()


def with_garbage(batch: Batch, value: float) -> Batch:
    """The batch with garbage in everything that belongs to an unavailable sensor."""

    def spoil(available: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        wide = available.view(*available.shape, *[1] * (data.dim() - available.dim()))
        return torch.where(wide, data, torch.full_like(data, 77 if data.dtype == torch.uint8 else value))

    def spoil_points(available: torch.Tensor, cloud: PointBatch) -> PointBatch:
        return replace(cloud, points=spoil(available[cloud.sample_index], cloud.points))

    return replace(
        batch,
        images=spoil(batch.camera_available, batch.images),
        intrinsics=spoil(batch.camera_available, batch.intrinsics),
        ego_from_cam=spoil(batch.camera_available, batch.ego_from_cam),
        lidar=spoil_points(batch.lidar_available, batch.lidar),
        radar=spoil_points(batch.radar_available.any(dim=1), batch.radar),
        ego_motion=spoil(batch.ego_motion_valid, batch.ego_motion),
    )


def test_garbage_of_an_absent_sensor_changes_nothing() -> None:
    """Bit-identical: in training and in evaluation, for one sensor of one sample, one camera, or a whole modality."""
    full = batch_of(2)
    masks = [[True, True, True, True] for _ in range(2)]
    cases = []
    for index in range(4):
        one = torch.tensor(masks)
        one[0, index] = False
        cases.append(mask_modalities(full, one))
        both = torch.tensor(masks)
        both[:, index] = False
        cases.append(mask_modalities(full, both))
    one_camera = full.camera_available.clone()
    one_camera[1, 3] = False
    cases.append(replace(full, camera_available=one_camera))
    network = detector()
    for batch in cases:
        spoilt = [with_garbage(batch, value) for value in (0.25, math.nan, math.inf)]
        for mode in (True, False):
            network.train(mode)
            expected = network(batch)
            for garbage in spoilt:
                predictions = network(garbage)
                assert_same(predictions, expected)
                assert_same_boxes(network.decode(predictions), network.decode(expected))


def test_an_absent_modality_of_one_sample_leaves_the_others_alone() -> None:
    network, full = detector().eval(), batch_of(2)
    expected = network(full)
    for index in range(4):
        kept = torch.ones(2, 4, dtype=torch.bool)
        kept[0, index] = False
        masked = network(mask_modalities(full, kept))
        assert torch.allclose(masked.bev[1], expected.bev[1], atol=1e-5)
        assert not torch.allclose(masked.bev[0], expected.bev[0], atol=1e-3)


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    network, generator = detector().eval(), torch.Generator().manual_seed(5)
    pair = random_batch(2, generator)
    together = network(pair)
    for index in range(2):
        alone = network(sample_of(pair, index))
        assert torch.allclose(together.bev[index], alone.bev[0], atol=1e-5)
        assert torch.allclose(together.head.heatmap_logits[index], alone.head.heatmap_logits[0], atol=1e-5)


def test_detect_keeps_the_mode_and_changes_no_state() -> None:
    network, batch = detector().train(), batch_of(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, second = network.detect(batch), network.detect(batch)
    assert network.training
    assert_same_boxes(first, second)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_points_that_are_available_but_none_are_no_error() -> None:
    network, batch = detector(), batch_of(2)
    empty = replace(
        batch,
        lidar=batch.lidar.without_points(),
        radar=batch.radar.without_points(),
        boxes=(Boxes3D.empty(), Boxes3D.empty()),
    )
    losses = network.losses(network(empty), empty)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("preset", "millions", "cells"),
    [(tiny, (0.3, 2), 128), (small, (8, 20), 180), (base, (25, 60), 180), (large, (60, 120), 180)],
)
def test_the_presets_have_the_size_they_promise(
    preset: Callable[[], DetectorConfig], millions: tuple[float, float], cells: int
) -> None:
    with torch.device("meta"):
        network = Detector(preset())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert millions[0] * 1e6 < parameters < millions[1] * 1e6
    assert network.config.grid.shape == (cells, cells)


@pytest.mark.slow
def test_small_detects() -> None:
    batch = random_batch(1, torch.Generator().manual_seed(0), image_size=(64, 128))
    assert Detector(small()).detect(batch)[0].centers.isfinite().all()


def test_modality_dropout_draws_every_subset_and_never_none() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(1)
    counts: dict[tuple[bool, ...], int] = {}
    draws = 2000
    for _ in range(draws):
        kept = tuple(drop_modalities(batch, 0.5, generator).availability[0].tolist())
        counts[kept] = counts.get(kept, 0) + 1
    assert len(counts) == 14  # 7 subsets of the sensors, with and without pose
    assert all(any(kept[:3]) for kept in counts)
    whole = sum(number for kept, number in counts.items() if all(kept[:3]))
    assert whole / draws == pytest.approx(0.5, abs=0.05)
    only_lidar = sum(number for kept, number in counts.items() if kept[:3] == (False, True, False))
    assert only_lidar / draws == pytest.approx(0.5 / 6, abs=0.03)
    without_pose = sum(number for kept, number in counts.items() if not kept[3])
    assert without_pose / draws == pytest.approx(0.5, abs=0.05)


def test_modality_dropout_never_takes_the_last_modality() -> None:
    generator = torch.Generator().manual_seed(0)
    for name in MODALITIES:
        others = [other for other in MODALITIES if other != name]
        batch = batch_of(1).without(*others)
        for _ in range(20):
            assert torch.equal(drop_modalities(batch, 0.99, generator).availability, batch.availability)


def test_modality_dropout_is_repeatable_and_off_at_zero() -> None:
    batch = batch_of(3)
    drawn = [drop_modalities(batch, 0.5, torch.Generator().manual_seed(3)).availability for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])
    unchanged = drop_modalities(batch, 0.0, torch.Generator().manual_seed(3))
    assert torch.equal(unchanged.availability, batch.availability)
