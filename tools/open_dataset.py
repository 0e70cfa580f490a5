"""From --data-root, --version and --split to a data set of samples: the same for every command that reads nuScenes."""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from datasets.augmentation.augmenter import Augmentation
from datasets.nuscenes.reader import CHANNELS, NuScenesReader
from datasets.samples.fusion_dataset import FusionDataset
from datasets.samples.make_sample import SampleConfig
from tools.progress import Progress

_STATE_STEP = 0.5  # seconds between the ego states of a sample
_LARGE_TABLES = 100 * 2**20  # smaller ones are read within two seconds


def open_reader(
    data_root: Path, version: str | None, config: SampleConfig | None, *, channels: Collection[str] = CHANNELS
) -> NuScenesReader:
    """A reader of frames with all that samples of this config need; with None, of the keyframes' own readings.

    Files of other channels than `channels` are not read. Raises InputRefused for a root or a version that is not
    there, and for tables that contradict themselves.
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
            history=(config.ego_states - 1) * _STATE_STEP,
            history_step=_STATE_STEP,
            channels=channels,
            progress=progress,
        )


def open_dataset(
    data_root: Path,
    version: str | None,
    split: str,
    config: SampleConfig,
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> FusionDataset:
    """The samples of a split in the order of the recording.

    Raises InputRefused for a root, a version or a split that is not there, and for tables that contradict themselves.
    """
    reader = open_reader(data_root, version, config, channels=config.channels)
    return FusionDataset(reader, reader.frame_tokens(split), config, augmentation=augmentation, seed=seed)


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
