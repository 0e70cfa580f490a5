"""Every fusion strategy in the whole detector: any subset of sensors, nothing of an absent one, samples apart."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
import torch

from datasets.boxes import Boxes3D
from datasets.samples.batch import MODALITIES, Batch
from perception.detector import Detector, DetectorConfig, Predictions
from perception.fusion.attention import AttentionFusionConfig
from perception.fusion.build import FusionKind, fusion_config
from perception.fusion.late import LateFusionConfig, SensorOutputs
from perception.fusion.transformer import FusionTransformerConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.lidar_branch import VoxelEncoderConfig
from perception.modality_dropout import mask_modalities
from tests.devkit_ap import mean_average_precision
from tests.random_batch import random_batch, sample_of
from tests.small_run import small_detector

KINDS: tuple[FusionKind, ...] = get_args(FusionKind)
every_strategy = pytest.mark.parametrize("kind", KINDS)
# The transformer goes through the same, and more, in test_detector.py.
every_other_strategy = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transformer"])


def config_of(kind: FusionKind) -> DetectorConfig:
    config = small_detector()
    return replace(config, fusion=config.fusion if kind == "transformer" else fusion_config(kind))


def with_head(config: DetectorConfig, head: str) -> DetectorConfig:
    """The config with the head of this kind; of the centre head, the config's own."""
    if head == "center":
        return config
    query = QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16, quality=QualityConfig())
    return replace(config, head=query)


def detector(kind: FusionKind) -> Detector:
    torch.manual_seed(0)
    return Detector(config_of(kind))


def batch_of(count: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return random_batch(count, generator, image_size=(32, 64), lidar_points=400, radar_points=60, reach=40.0)


def outputs_of(network: Detector, batch: Batch) -> list[torch.Tensor]:
    """Everything that the network puts out for a batch, the boxes included."""
    predictions = network(batch)
    found = [predictions.bev]
    if predictions.modality_weights is not None:
        found.append(predictions.modality_weights)
    heads = predictions.head
    for head in heads.by_sensor.values() if isinstance(heads, SensorOutputs) else [heads]:
        found += [head.heatmap_logits, head.features]
    for boxes in network.decode(predictions):
        found += [boxes.centers, boxes.sizes_wlh, boxes.yaws, boxes.velocities, boxes.scores, boxes.labels]
    return found


@every_other_strategy
@pytest.mark.parametrize("head", ["center", "query"])
def test_every_subset_of_sensors_trains_a_step_and_detects(kind: FusionKind, head: str) -> None:
    torch.manual_seed(0)
    network, full = Detector(with_head(config_of(kind), head)), batch_of(2)
    assert full.boxes is not None
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for present in itertools.product([True, False], repeat=3):
        absent = {name for name, here in zip(MODALITIES, present, strict=False) if not here}
        if len(absent) == 2:
            absent.add("pose")  # so the pose is missing in some, too
        batch = full.without(*absent)
        optimizer.zero_grad()
        predictions = network(batch)
        losses = network.losses(predictions, full)
        losses.total.backward()
        assert losses.total.isfinite(), absent
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), (name, absent)
            owner = name.split(".")[0]
            if not absent or (any(present) and owner in MODALITIES and owner not in absent):
                assert parameter.grad is not None, (name, absent)
                assert (parameter.grad != 0).any(), (name, absent)
            elif owner in absent:
                assert parameter.grad is None or (parameter.grad == 0).all(), (name, absent)
        optimizer.step()
        assert all(parameter.isfinite().all() for parameter in network.parameters())
        found = network.decode(predictions)
        assert len(found) == 2
        for boxes in found:
            assert all(getattr(boxes, name).isfinite().all() for name in ("centers", "sizes_wlh", "yaws", "velocities"))
            assert (boxes.scores.diff() <= 0).all()


@every_other_strategy
@torch.no_grad()
def test_what_an_absent_sensor_left_behind_has_no_influence(kind: FusionKind) -> None:
    """Bit-identical, for a sensor that is missing in one sample, and for cameras that are missing in all."""
    network, full = detector(kind).eval(), batch_of(2)
    for index, rows in ((0, [0]), (1, [0]), (2, [0]), (3, [0]), (0, [0, 1])):
        mask = torch.ones(2, 4, dtype=torch.bool)
        mask[rows, index] = False
        masked = mask_modalities(full, mask)
        lidar = masked.lidar_available[masked.lidar.sample_index][:, None]
        radar = masked.radar_available.any(dim=1)[masked.radar.sample_index][:, None]
        spoilt = replace(
            masked,
            images=torch.where(masked.camera_available[..., None, None, None], masked.images, 77),
            ego_from_cam=torch.where(masked.camera_available[..., None, None], masked.ego_from_cam, torch.nan),
            lidar=replace(masked.lidar, points=torch.where(lidar, masked.lidar.points, torch.nan)),
            radar=replace(masked.radar, points=torch.where(radar, masked.radar.points, 1e30)),
            ego_motion=torch.where(masked.ego_motion_valid[..., None], masked.ego_motion, torch.nan),
        )
        for one, other in zip(outputs_of(network, masked), outputs_of(network, spoilt), strict=True):
            assert torch.equal(one, other), MODALITIES[index]


@every_strategy
def test_every_sensor_that_is_there_has_influence(kind: FusionKind) -> None:
    network, batch = detector(kind).eval(), batch_of(1)
    expected = outputs_of(network, batch)
    for name in MODALITIES:
        without = outputs_of(network, batch.without(name))
        assert len(without) != len(expected) or any(
            one.shape != other.shape or not torch.allclose(one, other, atol=1e-4)
            for one, other in zip(expected, without, strict=True)
        )


@every_strategy
@torch.no_grad()
def test_a_sample_does_not_depend_on_the_others_of_its_batch(kind: FusionKind) -> None:
    network, pair = detector(kind).eval(), batch_of(2)
    pair = mask_modalities(pair, torch.tensor([[True, True, True, True], [True, False, True, False]]))
    together = network(pair)
    for index in range(2):
        alone = network(sample_of(pair, index))
        torch.testing.assert_close(alone.bev[0], together.bev[index], atol=1e-5, rtol=1e-5)
        for one, other in zip(logits_of(alone, 0), logits_of(together, index), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def logits_of(predictions: Predictions, index: int) -> list[torch.Tensor]:
    """The heatmaps of one sample, from every head that sees it."""
    head = predictions.head
    if not isinstance(head, SensorOutputs):
        return [head.heatmap_logits[index]]
    return [
        outputs.heatmap_logits[head.samples[sensor].tolist().index(index)]
        for sensor, outputs in head.by_sensor.items()
        if index in head.samples[sensor]
    ]


@pytest.mark.slow
@every_strategy
def test_one_sample_can_be_learned_by_heart(kind: FusionKind) -> None:
    """To an official AP at 1 m above 0.95; the boxes have nothing to do with the data, so each must be remembered."""
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(1, generator, image_size=(32, 64), lidar_points=400, radar_points=60, boxes=4, reach=40.0)
    batch = replace(
        batch,
        images=batch.images[:, :3],
        intrinsics=batch.intrinsics[:, :3],
        ego_from_cam=batch.ego_from_cam[:, :3],
        camera_available=batch.camera_available[:, :3],
    )
    assert batch.boxes is not None
    network = detector(kind)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    precisions = []
    while len(precisions) < 16 and (not precisions or precisions[-1] <= 0.95):
        for _ in range(20):
            optimizer.zero_grad()
            network.losses(network(batch), batch).total.backward()
            optimizer.step()
        (found,) = network.detect(batch)
        precisions.append(mean_average_precision(batch.boxes[0], found, 1.0))
    assert precisions[-1] > 0.95, precisions


@every_strategy
def test_a_detector_without_a_branch_runs(kind: FusionKind) -> None:
    batch = batch_of(1)
    assert batch.boxes is not None
    for name in ("camera", "pose") if kind != "late" else MODALITIES:
        torch.manual_seed(0)
        network = Detector(replace(config_of(kind), **{name: None}))
        losses = network.losses(network(batch), batch)
        losses.total.backward()
        for parameter, value in network.named_parameters():
            assert not parameter.startswith(f"{name}."), parameter
            assert value.grad is None or value.grad.isfinite().all(), parameter


@every_strategy
def test_weights_of_modalities_are_shares(kind: FusionKind) -> None:
    network, batch = detector(kind).eval(), batch_of(2)
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[0, 1] = False
    weights = network(mask_modalities(batch, kept)).modality_weights
    if kind in ("concat", "early", "late"):
        assert weights is None
        return
    assert weights.shape == (2, 4 if kind == "transformer" else 3, 16, 16)
    assert (weights[0, 1] == 0).all()
    assert (weights[1] > 0).all()
    assert (weights.sum(dim=1) < 1 + 1e-5).all()


@every_strategy
@pytest.mark.parametrize("head", ["center", "query"])
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_stays_near_float32(kind: FusionKind, head: str, training: bool) -> None:
    """Within the bounds of docs/model.md, in training and in evaluation; losses and boxes are float32."""
    torch.manual_seed(0)
    network, batch = Detector(with_head(config_of(kind), head)).train(training), batch_of(2)
    exact = network(batch)
    expected = network.losses(exact, batch).total
    # The statistics of batch norms have moved, and are not used in training.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = network(batch)
        losses = network.losses(predictions, batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    assert all(value.grad is None or value.grad.isfinite().all() for value in network.parameters())
    assert (predictions.bev.float() - exact.bev).abs().mean() < 0.02 * exact.bev.abs().mean()
    for one, other in zip(heatmaps_of(predictions), heatmaps_of(exact), strict=True):
        torch.testing.assert_close(one.float().sigmoid(), other.sigmoid(), atol=0.04, rtol=0.0)
    # Which of two equal peaks becomes a query is left to rounding, and with it what the other boxes learn from.
    torch.testing.assert_close(losses.total, expected, rtol=0.02 if head == "center" else 0.12, atol=0.0)
    # Also after the autocast has ended.
    torch.testing.assert_close(network.losses(predictions, batch).total, losses.total, rtol=1e-2, atol=0.0)
    for boxes in network.decode(predictions):
        assert boxes.centers.dtype == torch.float32
        assert len(boxes) > 0
        assert boxes.centers.isfinite().all()


def heatmaps_of(predictions: Predictions) -> list[torch.Tensor]:
    """The heatmap logits of every head."""
    head = predictions.head
    heads = head.by_sensor.values() if isinstance(head, SensorOutputs) else [head]
    return [outputs.heatmap_logits for outputs in heads]


def test_painted_voxels_learn_from_the_images() -> None:
    """The other encoder of LiDAR points takes painted ones, too."""
    config = config_of("early")
    assert config.lidar is not None
    encoder = VoxelEncoderConfig((4, 8, 8), voxel_height=0.5)
    torch.manual_seed(0)
    network = Detector(replace(config, radar=None, lidar=replace(config.lidar, encoder=encoder)))
    batch = batch_of(1)
    assert network.painting is not None
    network(batch).head.heatmap_logits.square().mean().backward()
    (gradient,) = {value.grad for name, value in network.painting.named_parameters() if name == "project.conv.weight"}
    assert gradient is not None
    assert (gradient != 0).any()


def test_late_fusion_sums_the_losses_of_the_sensors_that_are_there() -> None:
    network, batch = detector("late").eval(), batch_of(2)
    assert batch.boxes is not None
    whole = network.losses(network(batch), batch)
    alone = [
        network.losses(network(batch.without(*({"camera", "lidar", "radar"} - {sensor}))), batch)
        for sensor in ("camera", "lidar", "radar")
    ]
    torch.testing.assert_close(whole.total, sum(losses.total for losses in alone))
    assert set(whole.parts) == {name for losses in alone for name in losses.parts}
    nothing = network.losses(network(batch.without(*MODALITIES)), batch)
    assert nothing.total.item() == 0.0
    assert [len(boxes) for boxes in network.detect(batch.without(*MODALITIES))] == [0, 0]


def test_late_fusion_of_one_sensor_is_that_sensors_boxes() -> None:
    network, batch = detector("late").eval(), batch_of(1).without("camera", "radar", "pose")
    (fused,) = network.detect(batch)
    outputs = network(batch).head
    (own,) = network.head.heads[1].decode(outputs.by_sensor["lidar"])
    assert len(fused) == len(own) > 0
    for name in Boxes3D.__dataclass_fields__:
        torch.testing.assert_close(getattr(fused, name), getattr(own, name), atol=1e-5, rtol=1e-5)


def test_configs_that_do_not_fit_are_refused() -> None:
    config = small_detector()
    with pytest.raises(ValueError, match="8 channels do not divide into the fusion's 3 heads"):
        replace(config, fusion=AttentionFusionConfig(heads=3))
    with pytest.raises(ValueError, match="whole number of the fusion's patches"):
        replace(config, fusion=FusionTransformerConfig(stride=3, width=16))
    with pytest.raises(ValueError, match="late fusion needs a camera, LiDAR or radar branch"):
        replace(config, fusion=LateFusionConfig(), camera=None, lidar=None, radar=None)
