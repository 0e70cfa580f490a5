"""From --data-root, --version and --split to frames and samples: the same for every command that reads a dataset."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from datasets.augmentation.augmenter import Augmentation
from datasets.faults import InputRefused
from datasets.nuscenes.reader import CHANNELS, NuScenesReader
from datasets.nuscenes.splits import Purpose, default_split
from datasets.nuscenes.tables import find_version
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import SampleConfig
from datasets.shards.manifest import MANIFEST
from datasets.shards.reader import ShardReader
from tools.progress import Progress

DataRoot = Annotated[str | Path, arg(metavar="DATAROOT|SHARDS")]
"""The folder that holds v1.0-mini, say; or a folder or URL (s3://...) of shards. A URL is no path: it keeps its //."""

EGO_STATE_STEP = 0.5
"""Seconds between the ego states of a sample."""
_LARGE_TABLES = 100 * 2**20  # smaller ones are read within two seconds


def open_reader(
    data_root: str | Path,
    version: str | None,
    config: SampleConfig,
    *,
    channels: Collection[str] = CHANNELS,
    merge_lidar: bool = False,
) -> NuScenesReader | ShardReader:
    """A reader of frames with all that samples of this config need, from tables or from shards.

    Files of other channels than `channels` are not read. `merge_lidar`: frames are wanted for their samples alone, so
    that the LiDAR's sweeps may be moved while they are read; those of shards are not. Raises InputRefused as
    `open_tables` and `ShardReader` do, and for shards of another version or with less in them than the config asks for.
    """
    if not holds_shards(data_root):
        return open_tables(Path(data_root), version, config, channels=channels, merge_lidar=merge_lidar)
    reader = ShardReader(str(data_root))
    if version not in (None, reader.version):
        raise InputRefused(f"{data_root} holds shards of {reader.version}, not of {version}.")
    for name in ("lidar_sweeps", "radar_sweeps", "ego_states"):
        packed, needed = getattr(reader.contents, name), getattr(config, name)
        if packed < needed:
            raise InputRefused(
                f"{data_root}: its frames were packed with {name} {packed}, the config asks for {needed}: pack them "
                "again with more."
            )
    return reader


def open_tables(
    data_root: Path,
    version: str | None,
    config: SampleConfig | None,
    *,
    channels: Collection[str] = CHANNELS,
    merge_lidar: bool = False,
) -> NuScenesReader:
    """A reader of nuScenes' tables with all that samples of this config need; with None, of keyframes' own readings.

    Files of other channels than `channels` are not read; with `merge_lidar` the LiDAR's sweeps are moved while they
    are (`NuScenesReader`). Raises InputRefused for a root or a version that is not there, and for tables that
    contradict themselves.
    """
    with _ReadingTables() as progress:
        if config is None:
            return NuScenesReader(
                data_root, version, lidar_sweeps=1, radar_sweeps=1, channels=channels, progress=progress
            )
        return NuScenesReader(
            data_root,
            version,
            lidar_sweeps=config.lidar_sweeps,
            radar_sweeps=config.radar_sweeps,
            history=(config.ego_states - 1) * EGO_STATE_STEP,
            history_step=EGO_STATE_STEP,
            channels=channels,
            merge_lidar=config.close_radius if merge_lidar else None,
            progress=progress,
        )


def open_dataset(
    data_root: str | Path,
    version: str | None,
    split: str,
    config: SampleConfig,
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    earlier_frames: int = 0,
) -> FusionDataset:
    """The samples of a split in the order of the recording, with so many earlier frames each. (The frames that the data
    set's reader gives have a LiDAR's sweeps merged, `LogFrame.merged_lidar`.)

    Raises InputRefused for a root, a version or a split that is not there, and for tables that contradict themselves.
    """
    reader = open_reader(data_root, version, config, channels=config.channels, merge_lidar=True)
    tokens = reader.frame_tokens(split)
    return FusionDataset(reader, tokens, config, augmentation=augmentation, seed=seed, earlier_frames=earlier_frames)


def holds_shards(data_root: str | Path) -> bool:
    """Whether it is a URL or a folder of shards. A dataset's own files are always in a folder, and in no URL."""
    return "://" in str(data_root) or (Path(data_root) / MANIFEST).is_file()


def version_and_split(
    data_root: str | Path, version: str | None, split: str | None, purpose: Purpose
) -> tuple[str, str]:
    """The version that is there and the split that is meant. Raises InputRefused where that is not clear."""
    if holds_shards(data_root):
        reader = ShardReader(str(data_root))
        return reader.version, split or split_of_reader(reader, purpose)
    found = find_version(Path(data_root), version)
    return found, split or default_split(found, purpose)


def split_of_reader(reader: NuScenesReader | ShardReader, purpose: Purpose) -> str:
    """The split that is meant where none is named: of shards that hold but one, that one."""
    if isinstance(reader, ShardReader) and reader.contents.split != "all":
        return reader.contents.split
    return default_split(reader.version, purpose)


def tables_root(data_root: str | Path, needed_by: str = "the official metric") -> Path:
    """The dataroot as a path, for what needs tables. Raises InputRefused for shards."""
    if holds_shards(data_root):
        raise InputRefused(
            f"{data_root} holds shards, and {needed_by} needs nuScenes' tables: detect with bevel predict, then "
            "name the results file and the --data-root of the tables."
        )
    return Path(data_root)


def refuse_shared_scenes(reader: NuScenesReader, split: str, val_split: str) -> None:
    """Raise InputRefused where scenes that are trained on would be scored."""
    both = sorted(reader.scenes_of(reader.frame_tokens(split)) & reader.scenes_of(reader.frame_tokens(val_split)))
    if both:
        raise InputRefused(f"{split} and {val_split} share scenes ({', '.join(both[:3])}): nothing would be held out.")


def instants(reader: NuScenesReader, tokens: Sequence[str]) -> list[tuple[str, int]]:
    """Samples with their times (us): synthetic worlds of one seed have the same tokens by day and at night."""
    found = []
    for token in tokens:
        scene, sample = reader.index.find(token)
        found.append((token, int(reader.index.scene(scene).samples.timestamp[sample])))
    return found


class _ReadingTables(ExitStack):
    """Shows how far the tables are read, the once that this takes long; called with bytes read, and all."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Progress | None = None
        self._mebibytes = 0

    def __call__(self, done: int, total: int) -> None:
        if self._shown is None and total >= _LARGE_TABLES:
            self._shown = self.enter_context(Progress("reading the tables, once (MiB)", total >> 20))
        while self._shown is not None and self._mebibytes < done >> 20:
            self._mebibytes += 1
            self._shown.advance()
