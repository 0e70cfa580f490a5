"""The order of the samples, which sensors drop out, and what follows from (seed, epoch, rank) alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.augmentation.augmenter import Augmentation
from datasets.augmentation.bev import BevAugmentation
from datasets.augmentation.images import ImageAugmentation
from datasets.augmentation.sensor_dropout import SensorDropout, without_channels
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.frame_classes import classes_of_frames
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.sample import Sample
from tools.training.order import BatchOrder, ClassBalancedOrder, EpochIndex, EpochOrder, PlainOrder, ShardOrder

CONFIG = SampleConfig(image_height=32, image_width=64, lidar_sweeps=2, radar_sweeps=2)
SCENES = st.lists(st.sets(st.integers(0, 9), max_size=5), min_size=1, max_size=40).filter(any)


@settings(max_examples=60, deadline=None)
@given(classes=SCENES, seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_every_class_gets_the_same_share(classes: list[set[int]], seed: int, epoch: int) -> None:
    order = ClassBalancedOrder(classes, seed)
    drawn = order.epoch(epoch)
    assert len(drawn) == len(order) > 0
    assert np.array_equal(drawn, ClassBalancedOrder(classes, seed).epoch(epoch))
    present = set().union(*classes)
    share = sum(len(c) for c in classes) // len(present)
    assert len(order) == share * len(present)
    counts = Counter(drawn.tolist())
    # A class has at least its own share of draws; more where its samples were drawn for other classes.
    for label in present:
        assert sum(count for sample, count in counts.items() if label in classes[sample]) >= share
    assert all(classes[sample] for sample in counts)


def test_the_shares_are_those_of_the_paper() -> None:
    """As CBGS' own rule: class c has n_c samples, each stands in for (sum n / classes) / n_c draws."""
    classes = [{0}] * 80 + [{0, 1}] * 20
    order = ClassBalancedOrder(classes, seed=3)
    assert len(order) == 120
    counts = Counter(order.epoch(0).tolist())
    rare = sum(counts[sample] for sample in range(80, 100))
    # 60 draws of the class of 20 samples, three times each, and a fifth or so of the 60 of the other class.
    assert all(counts[sample] >= 3 for sample in range(80, 100))
    assert 60 <= rare <= 80
    with pytest.raises(ValueError, match="no sample has an annotated class"):
        ClassBalancedOrder([set(), set()], seed=0)


@settings(max_examples=40, deadline=None)
@given(
    classes=SCENES,
    kind=st.sampled_from(["plain", "balanced", "shards"]),
    batch=st.integers(1, 7),
    processes=st.integers(1, 3),
    first=st.integers(0, 9),
)
def test_resumed_and_split_orders_are_the_same_sequence(
    classes: list[set[int]], kind: str, batch: int, processes: int, first: int
) -> None:
    order: EpochOrder = PlainOrder(len(classes), 5)
    if kind == "balanced":
        order = ClassBalancedOrder(classes, 5)
    elif kind == "shards":
        shards = [place // 3 for place in range(len(classes))]
        order = ShardOrder(shards, 5, window=2, batch_size=batch, processes=processes)
    whole = [pick for step in BatchOrder(order, 1, first_step=0, last_step=12 * batch * processes) for pick in step]
    ranks = [
        list(BatchOrder(order, batch, first_step=first, last_step=12, process=rank, processes=processes))
        for rank in range(processes)
    ]
    flat = [pick for step in zip(*ranks, strict=True) for part in step for pick in part]
    assert flat == whole[first * batch * processes :]
    # No two picks are equal: a repeated sample of an epoch has a number of its own.
    assert len(set(whole)) == len(whole)
    for epoch in range(whole[-1].epoch):
        assert [pick.sample for pick in whole if pick.epoch == epoch] == order.epoch(epoch).tolist()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(1, 4),
    batch=st.integers(1, 4),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_processes_have_shards_of_their_own_and_few_at_a_time(
    sizes: list[int], window: int, batch: int, processes: int, epoch: int
) -> None:
    shard_of = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    order = ShardOrder(shard_of, 7, window=window, batch_size=batch, processes=processes)
    drawn = order.epoch(epoch)
    assert sorted(drawn.tolist()) == list(range(len(shard_of)))
    assert np.array_equal(drawn, order.epoch(epoch))
    readers: dict[int, set[int]] = {shard: set() for shard in range(len(sizes))}
    for process in range(processes):
        last = (epoch + 1) * len(shard_of) // (batch * processes) + 1
        steps = BatchOrder(order, batch, first_step=0, last_step=last, process=process, processes=processes)
        picks = [pick.sample for step in steps for pick in step if pick.epoch == epoch]
        shards = [shard_of[sample] for sample in picks]
        for shard in shards:
            readers[shard].add(process)
        # A window ends before the next one begins.
        seen = list(dict.fromkeys(shards))
        windows = [frozenset(seen[start : start + window]) for start in range(0, len(seen), window)]
        place = [next(number for number, of in enumerate(windows) if shard in of) for shard in shards]
        assert place == sorted(place)
    # Neighbours share the shard where one's stretch ends and the other's begins.
    assert sum(len(of) - 1 for of in readers.values()) <= processes - 1


def test_windows_of_shards_mix_what_lies_apart() -> None:
    """Neighbours in the order come from one shard no more often than chance has it within the window."""
    shard_of = [shard for shard in range(64) for _ in range(16)]
    mixed = ShardOrder(shard_of, 0, window=8, batch_size=1, processes=1)
    drawn = np.array(shard_of)[mixed.epoch(0)]
    assert 0.05 < np.mean(drawn[1:] == drawn[:-1]) < 0.2
    orders = [ShardOrder(shard_of, seed, window=8, batch_size=1, processes=1) for seed in range(3)]
    assert len({tuple(order.epoch(epoch).tolist()) for order in orders for epoch in range(3)}) == 9
    with pytest.raises(ValueError, match="no samples"):
        ShardOrder([], 0, window=1, batch_size=1, processes=1)


def test_repeats_are_counted_in_order() -> None:
    order = ClassBalancedOrder([{0}, {1}, {1}, {1}], 0)
    picks = [pick for step in BatchOrder(order, 4, first_step=0, last_step=1) for pick in step]
    assert sorted(pick for pick in picks if pick.sample == 0) == [EpochIndex(0, 0, 0), EpochIndex(0, 0, 1)]


def test_classes_come_from_boxes_that_were_hit(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root)
    tokens = reader.frame_tokens("all")
    for token, classes in zip(tokens, classes_of_frames(reader, tokens), strict=True):
        boxes = make_sample(reader.frame(token), CONFIG).boxes
        assert boxes is not None
        assert classes == set(boxes.labels.tolist())


def test_dropped_sensors_are_gone_and_no_fault(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root, lidar_sweeps=2, radar_sweeps=2)
    frame = reader.frame(reader.frame_tokens("all")[0])
    dropped = frozenset({"CAM_BACK", "LIDAR_TOP", "RADAR_FRONT"})
    sample = make_sample(without_channels(frame, dropped), CONFIG)
    whole = make_sample(frame, CONFIG)
    assert sample.camera_available.sum() == 5
    assert not sample.lidar_available
    assert sample.radar_available.sum() == 4
    assert 0 < len(sample.radar_points) < len(whole.radar_points)
    assert sample.faults == whole.faults
    assert without_channels(frame, frozenset()) is frame
    generator = torch.Generator().manual_seed(0)
    dropouts = [SensorDropout(camera=0.5, lidar=0.2, radar=1.0).draw(frame, generator) for _ in range(200)]
    share = np.mean(["CAM_FRONT" in names for names in dropouts])
    assert 0.4 < share < 0.6
    assert all("RADAR_FRONT" in names for names in dropouts if names)
    # Everything at once is never dropped.
    assert SensorDropout(1.0, 1.0, 1.0).draw(frame, generator) == frozenset()
    assert SensorDropout().draw(frame, generator) == frozenset()


def same(a: Sample, b: Sample) -> bool:
    assert a.boxes is not None
    assert b.boxes is not None
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.lidar_points, b.lidar_points)
        and torch.equal(a.intrinsics, b.intrinsics)
        and torch.equal(a.boxes.centers, b.boxes.centers)
    )


def test_a_sample_follows_from_seed_epoch_index_and_repeat(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root, lidar_sweeps=2, radar_sweeps=2)
    tokens = reader.frame_tokens("all")
    augmentation = Augmentation(BevAugmentation(), ImageAugmentation(), SensorDropout(camera=0.2))
    first, again, other = (
        FusionDataset(reader, tokens, CONFIG, augmentation=augmentation, seed=seed) for seed in (1, 1, 2)
    )
    sample = first.sample(2, 3, 1)
    assert same(sample, again.sample(2, 3, 1))
    for different in (first.sample(2, 3), first.sample(2, 4, 1), first.sample(1, 3, 1), other.sample(2, 3, 1)):
        assert not same(sample, different)


def test_augmentations_that_change_nothing_change_no_bit(synthetic_root: Path) -> None:
    reader = NuScenesReader(synthetic_root, lidar_sweeps=2, radar_sweeps=2)
    tokens = reader.frame_tokens("all")[:1]
    still = Augmentation(
        BevAugmentation(max_rotation=0.0, scale_range=(1.0, 1.0), flip=False),
        ImageAugmentation((1.0, 1.0), 0.0, False, 0.0, (1.0, 1.0), (1.0, 1.0)),
        SensorDropout(),
    )
    plain = FusionDataset(reader, tokens, CONFIG)[0]
    augmented = FusionDataset(reader, tokens, CONFIG, augmentation=still)[0]
    assert same(plain, augmented)
    for name in ("ego_from_cam", "radar_points", "ego_motion", "global_from_ego", "camera_available"):
        assert torch.equal(getattr(plain, name), getattr(augmented, name)), name
    moved = replace(still, bev=BevAugmentation())
    assert not same(plain, FusionDataset(reader, tokens, CONFIG, augmentation=moved)[0])
