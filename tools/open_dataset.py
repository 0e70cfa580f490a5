"""From --data-root, --version and --split to a data set of samples: the same for every command that reads nuScenes."""

from pathlib import Path

from datasets.augment import BevAugmentation
from datasets.fusion_dataset import FusionDataset
from datasets.make_sample import SampleConfig
from datasets.nuscenes.reader import NuScenesReader


def open_dataset(
    data_root: Path,
    version: str | None,
    split: str,
    config: SampleConfig,
    *,
    augmentation: BevAugmentation | None = None,
    seed: int = 0,
) -> FusionDataset:
    """The samples of a split in the order of the recording.

    Raises InputRefused for a root, a version or a split that is not there, and for tables that contradict themselves.
    """
    reader = NuScenesReader(data_root, version, lidar_sweeps=config.lidar_sweeps, radar_sweeps=config.radar_sweeps)
    return FusionDataset(reader, reader.frame_tokens(split), config, augmentation=augmentation, seed=seed)
