"""The detector with a memory: clips and streams come to the same, every subset of sensors trains, nothing leaks."""

import itertools
from dataclasses import replace

import pytest
import torch

from calibration.transforms import from_yaw
from datasets.samples.batch import MODALITIES, collate
from datasets.samples.sample import Sample
from perception.bev_neck import BevNeckConfig
from perception.detector import Detector, DetectorConfig, Predictions
from perception.fusion.build import FusionKind, fusion_config
from perception.heads.query_head import QueryHeadConfig
from perception.modality_dropout import drop_modalities
from perception.temporal import FrameBevs, TemporalConfig
from tests.random_batch import random_sample
from tests.small_run import small_detector

TEMPORAL = TemporalConfig(earlier_frames=2, neck=BevNeckConfig((8, 8), (1, 1)))


def config_of(kind: FusionKind = "concat", head: str = "center") -> DetectorConfig:
    config = small_detector()
    if kind != "transformer":
        config = replace(config, fusion=fusion_config(kind))
    if head == "query":
        config = replace(config, head=QueryHeadConfig(channels=8, hidden=16, queries=20, heads=2, feedforward=16))
    return replace(config, temporal=TEMPORAL)


def detector(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    return Detector(config)


def drive(scene: str, count: int, seed: int) -> list[Sample]:
    """Frames of a vehicle that drives a curve; of the third the LiDAR is gone, of the fourth everything but radar."""
    generator, samples = torch.Generator().manual_seed(seed), []
    for index in range(count):
        sample = random_sample(f"{scene}-{index}", generator, (32, 64), 300, 60, 4, 40.0)
        sample = replace(
            sample,
            scene_name=scene,
            timestamp_us=1_533_000_000_000_000 + 500_000 * index,
            global_from_ego=from_yaw(0.2 * index, (500.0 + 3.0 * index, 800.0, 0.0)),
            lidar_points=sample.lidar_points[: 0 if index in (2, 3) else 300],
            lidar_available=index not in (2, 3),
            camera_available=sample.camera_available & (index != 3),
        )
        samples.append(sample)
    return samples


def clips_of(frames: list[Sample], earlier: int = 2) -> list[Sample]:
    return [
        replace(frame, previous=tuple(reversed(frames[max(index - earlier, 0) : index])))
        for index, frame in enumerate(frames)
    ]


def same_boxes(one: Detector, found: Predictions, expected: Predictions, tolerance: float) -> None:
    torch.testing.assert_close(found.bev, expected.bev, atol=tolerance, rtol=tolerance)
    for a, b in zip(one.decode(found), one.decode(expected), strict=True):
        assert len(a) == len(b) > 0
        for name in ("centers", "velocities", "scores"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=10 * tolerance, rtol=10 * tolerance)


@torch.no_grad()
def test_a_stream_comes_to_the_same_as_clips() -> None:
    """To the last bit, frame by frame over two scenes, a sensor dying in the middle; several at a time to 1e-5."""
    network = detector(config_of()).eval()
    scenes = [drive("one", 5, 0), drive("two", 2, 1)]
    clips = [clip for frames in scenes for clip in clips_of(frames)]
    expected = [network(collate([clip])) for clip in clips]
    alone = [network(collate([replace(clip, previous=())])) for clip in clips]
    memory: FrameBevs | None = None
    for index, clip in enumerate(clips):
        found, memory = network.step(collate([clip]), memory)
        assert torch.equal(found.bev, expected[index].bev)
        assert memory is not None
        assert len(memory) == min(index + 1, 2)
        # The first frame of a scene is looked at by itself, the others are not.
        assert torch.equal(found.bev, alone[index].bev) == (index in (0, 5))
        same_boxes(network, found, expected[index], 0.0)
    # All clips in one batch, stand-ins at the start of scenes included; and the stream in batches.
    together = network(collate(clips))
    for index in range(len(clips)):
        torch.testing.assert_close(together.bev[index], expected[index].bev[0], atol=1e-5, rtol=1e-5)
    memory = None
    for start in range(0, len(clips), 3):
        found, memory = network.step(collate(clips[start : start + 3]), memory)
        wanted = torch.cat([predictions.bev for predictions in expected[start : start + 3]])
        torch.testing.assert_close(found.bev, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "head"), [("concat", "center"), ("transformer", "query")])
def test_every_subset_of_sensors_with_a_memory_trains_a_step_and_detects(kind: FusionKind, head: str) -> None:
    network = detector(config_of(kind, head)).train()
    full = collate([clips_of(drive("one", 2, 0))[-1], clips_of(drive("two", 3, 1))[-1]])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for present in itertools.product([True, False], repeat=3):
        absent = {name for name, here in zip(MODALITIES, present, strict=False) if not here}
        # With every other subset the sensors die just now: the frames before still have them.
        batch = full.without(*absent)
        if sum(present) % 2:
            batch = replace(batch, previous=full.previous)
        optimizer.zero_grad()
        predictions = network(batch)
        losses = network.losses(predictions, full)
        losses.total.backward()
        assert losses.total.isfinite(), absent
        for name, parameter in network.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), (name, absent)
            if not absent:
                assert parameter.grad is not None, name
                assert (parameter.grad != 0).any(), name
        optimizer.step()
        assert all(boxes.centers.isfinite().all() for boxes in network.decode(predictions))


def test_earlier_frames_leave_no_trace_in_the_network_and_none_of_the_absent_sensors_data() -> None:
    """No gradient runs through them, batch norm's statistics count the present frame alone."""
    network = detector(config_of()).train()
    clip = clips_of(drive("one", 2, 0))[-1]
    batch = collate([clip, clip])
    statistics = network.camera.backbone.resnet.state_dict()  # type: ignore[union-attr]
    counts = {name: tensor.clone() for name, tensor in statistics.items() if name.endswith("num_batches_tracked")}
    assert counts
    network(batch)
    for name, tensor in network.camera.backbone.resnet.state_dict().items():  # type: ignore[union-attr]
        if name in counts:
            assert tensor == counts[name] + 1
    assert network.training
    spoilt = replace(batch.previous[0], images=torch.full_like(batch.previous[0].images, 9))
    blind = replace(spoilt, camera_available=torch.zeros_like(spoilt.camera_available))
    network.eval()
    with torch.no_grad():
        one = network(replace(batch, previous=(blind,)))
        other = network(replace(batch, previous=(batch.previous[0].without("camera"),)))
    assert torch.equal(one.bev, other.bev)


def test_modality_dropout_takes_from_earlier_frames_what_it_takes_from_the_present() -> None:
    clip = clips_of(drive("one", 3, 0))[-1]  # the present one has no LiDAR, the others have
    batch = collate([clip] * 40)
    dropped = drop_modalities(batch, 0.9, torch.Generator().manual_seed(0))
    assert not dropped.camera_available.any(dim=1).all()
    assert dropped.camera_available.any()
    for earlier in dropped.previous:
        assert torch.equal(earlier.camera_available, dropped.camera_available)
        assert torch.equal(earlier.radar_available, dropped.radar_available)
        assert torch.equal(earlier.ego_motion_valid, dropped.ego_motion_valid)
        assert earlier.lidar_available.all()


def test_without_a_memory_the_network_has_the_weights_that_it_had() -> None:
    config = config_of()
    names = set(detector(replace(config, temporal=None)).state_dict())
    more = set(detector(config).state_dict()) - names
    assert names <= set(detector(config).state_dict())
    assert all(name.startswith("temporal.") for name in more)
    network = detector(replace(config, temporal=None)).eval()
    clip = clips_of(drive("one", 2, 0))[-1]
    found, memory = network.step(collate([clip]), None)
    assert memory is None
    assert torch.equal(found.bev, network(collate([replace(clip, previous=())])).bev)
