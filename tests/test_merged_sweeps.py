"""LiDAR sweeps that are moved while they are read: samples to the bit those of raw sweeps, whatever a file holds."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.augmentation.sensor_dropout import SensorDropout, without_channels
from datasets.boxes import Boxes3D
from datasets.classes import LIDAR_CHANNEL
from datasets.corruptions.absence import Dropped
from datasets.corruptions.misalignment import Late, Misaligned
from datasets.corruptions.points import PointsDropped
from datasets.corruptions.pose import PoseDelay
from datasets.corruptions.reader import CorruptedReader
from datasets.faults import InputRefused
from datasets.nuscenes.reader import NuScenesReader
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.sample import Sample
from datasets.sensors.sweeps import MovingSweep, merge_lidar_sweeps
from datasets.shards.frame_files import files_of_frame
from tests.nuscenes_fixture import read_table, write_dataset
from tools.drawing.frame_scene import bev_scene
from tools.open_dataset import open_dataset, open_tables

LAST = "scene-0103-sample-2"
CONFIG = SampleConfig(image_height=32, image_width=64, lidar_sweeps=6, radar_sweeps=2)
LIDAR_ONLY = replace(CONFIG, camera_channels=(), radar_channels=())


def readers(root: Path, config: SampleConfig = CONFIG) -> tuple[NuScenesReader, NuScenesReader]:
    """Raw and merging."""
    raw, merging = (
        open_tables(root, None, config, channels=config.channels, merge_lidar=merged) for merged in (False, True)
    )
    return raw, merging


def same(a: Sample, b: Sample) -> None:
    """Everything in two samples is the same, to the bit."""
    for field in fields(Sample):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, Tensor):
            assert torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0)), field.name
        elif isinstance(one, Boxes3D):
            for part in fields(Boxes3D):
                ours, theirs = getattr(one, part.name), getattr(other, part.name)
                assert torch.equal(ours.nan_to_num(-1.0), theirs.nan_to_num(-1.0)), part.name
        else:
            assert one == other, field.name


def check(root: Path, tokens: int, *configs: SampleConfig) -> None:
    raw, merging = readers(root)
    chosen = raw.frame_tokens("all")[:tokens]
    for token in chosen:
        as_recorded, merged = raw.frame(token), merging.frame(token)
        assert merged.lidar_sweeps == {}
        assert set(merged.merged_lidar) == set(as_recorded.lidar_sweeps)
        for config in (CONFIG, *configs):
            same(make_sample(merged, config), make_sample(as_recorded, config))


# The same samples ---------------------------------------------------------------------------------------------------


def test_samples_are_those_of_raw_sweeps(synthetic_root: Path) -> None:
    fewer, padded, thin = (
        replace(CONFIG, **c) for c in ({"lidar_sweeps": 2}, {"pad_lidar_sweeps": True}, {"max_lidar_points": 100})
    )
    # Two scenes, with their first frames, before which there is less than was asked for.
    check(synthetic_root, 6, fewer, padded, thin, replace(padded, lidar_sweeps=9))


@pytest.mark.parametrize("part", ["nuscenes-keyframe", "nuscenes-minival"])
def test_real_samples_are_those_of_raw_sweeps(real_data: Path, part: str) -> None:
    check(real_data / part, 3, replace(CONFIG, lidar_sweeps=1))


def test_data_sets_are_read_so(nuscenes_root: Path) -> None:
    dataset = open_dataset(nuscenes_root, None, "all", CONFIG)
    raw = open_tables(nuscenes_root, None, CONFIG)
    assert dataset.reader.frame(dataset.tokens[-1]).merged_lidar[LIDAR_CHANNEL].sizes
    same(dataset[len(dataset) - 1], make_sample(raw.frame(dataset.tokens[-1]), CONFIG))


# Files that are not as they should be -------------------------------------------------------------------------------


def not_finite(path: Path, rows: slice) -> None:
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    points[rows, 0] = np.nan
    points.tofile(path)


def longer(path: Path) -> None:
    """More points than in the newest sweep foreseen for all."""
    content = path.read_bytes()
    path.write_bytes(9 * content)


def odd_rings(path: Path) -> None:
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    points[0, 4] = 77.0
    points.tofile(path)


def all_close(path: Path) -> None:
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    points[:, :2] = 0.5
    points.tofile(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "a point not finite": lambda path: not_finite(path, slice(2, 5)),
    "none finite": lambda path: not_finite(path, slice(None)),
    "rings": odd_rings,
    "all close": all_close,
    "longer": longer,
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
HARMLESS = ("all close", "longer", "shorter")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NuScenesReader, NuScenesReader]:
    """A dataset whose files the tests damage, and restore; the raw and the merging reader."""
    root = tmp_path_factory.mktemp("merged")
    write_dataset(root)
    return root, *readers(root, LIDAR_ONLY)


@contextmanager
def restored(paths: list[Path]) -> Iterator[None]:
    contents = [path.read_bytes() for path in paths]
    yield
    for path, content in zip(paths, contents, strict=True):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("damaged", [(0,), (3,), (0, 3), (1, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told_and_merged_as_raw(
    world: tuple[Path, NuScenesReader, NuScenesReader], damage: str, damaged: tuple[int, ...]
) -> None:
    root, raw_reader, merging_reader = world
    names = {row["token"]: str(row["filename"]) for row in read_table(root, "sample_data")}
    paths = [root / names[f"scene-0103-LIDAR_TOP-{10 - age}"] for age in damaged]
    with restored(paths):
        for path in paths:
            DAMAGES[damage](path)
        raw, merging = raw_reader.frame(LAST), merging_reader.frame(LAST)
    assert merging.faults == raw.faults
    assert merging.impairments == raw.impairments
    assert set(merging.merged_lidar) == set(raw.lidar_sweeps)
    same(make_sample(merging, LIDAR_ONLY), make_sample(raw, LIDAR_ONLY))
    # Of a keyframe that is lost nothing is read but itself.
    lost = damaged[0] == 0 and damage not in (*HARMLESS, "a point not finite")
    assert len(raw.faults) == lost
    assert len(raw.impairments) == (0 if lost or damage in HARMLESS else len(damaged))


def test_a_link_out_of_the_dataset_is_refused(
    world: tuple[Path, NuScenesReader, NuScenesReader], tmp_path: Path
) -> None:
    root, _, merging = world
    (row,) = (row for row in read_table(root, "sample_data") if row["token"] == "scene-0103-LIDAR_TOP-8")
    path = root / str(row["filename"])
    with restored([path]):
        shutil.move(path, tmp_path / "outside.bin")
        path.symlink_to(tmp_path / "outside.bin")
        with pytest.raises(InputRefused, match="leads out of the dataroot"):
            merging.frame(LAST)


# What works on sweeps -----------------------------------------------------------------------------------------------


def test_a_merged_lidar_is_dropped_as_a_raw_one(nuscenes_root: Path) -> None:
    raw, merged = (reader.frame(LAST) for reader in readers(nuscenes_root))
    dropout = SensorDropout(camera=0.3, lidar=0.5, radar=0.3)
    drawn = []
    for seed in range(8):
        ours, theirs = (dropout.draw(frame, torch.Generator().manual_seed(seed)) for frame in (merged, raw))
        assert ours == theirs
        same(make_sample(without_channels(merged, ours), CONFIG), make_sample(without_channels(raw, theirs), CONFIG))
        drawn.append(LIDAR_CHANNEL in ours)
    assert {True, False} == set(drawn)


def test_what_needs_raw_sweeps_refuses_merged_ones(nuscenes_root: Path) -> None:
    merging = readers(nuscenes_root)[1]
    frame = merging.frame(LAST)
    channels = (LIDAR_CHANNEL,)
    corruptions = (Misaligned(channels, 1.0, 0.1), Late(channels, 1), PointsDropped(channels, 0.5), PoseDelay(0.1))
    uses: list[Callable[[], object]] = [
        lambda: files_of_frame(frame),
        lambda: bev_scene(frame, None),
        lambda: CorruptedReader(merging, Dropped(channels), [LAST]).frame(LAST),
        *(lambda corruption=corruption: corruption.corrupted(frame, lambda _: frame, 0) for corruption in corruptions),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="merged the sweeps of LIDAR_TOP, raw ones are needed"):
            use()
    assert len(merging.with_raw_lidar().frame(LAST).raw_lidar_sweeps[LIDAR_CHANNEL]) == CONFIG.lidar_sweeps


def test_merged_sweeps_are_of_one_radius_and_in_one_place(nuscenes_root: Path) -> None:
    raw, merged = (reader.frame(LAST) for reader in readers(nuscenes_root))
    with pytest.raises(ValueError, match=r"nearer than 1\.0 m, the config asks for 2\.0 m"):
        make_sample(merged, replace(CONFIG, close_radius=2.0))
    with pytest.raises(ValueError, match="LIDAR_TOP in lidar_sweeps and in merged_lidar"):
        replace(raw, merged_lidar=merged.merged_lidar)


def test_memory_for_sweeps_that_never_came_is_given_back() -> None:
    points = torch.full((1000, 5), 9.0)
    sweeps = [MovingSweep(points, torch.eye(4, dtype=torch.float64), 0.0)]
    few = merge_lidar_sweeps(iter(sweeps), close_radius=1.0, at_most=10).points
    assert few.untyped_storage().nbytes() == few.nbytes == 20_000
