"""A map-style torch Dataset of Samples: a reader, a list of frames, and how each frame is made into a Sample."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from datasets.augment import BevAugmentation, augment
from datasets.make_sample import SampleConfig, make_sample
from datasets.reader import LogReader
from datasets.sample import Sample


class FusionDataset(Dataset[Sample]):
    """The samples of some frames. The augmentation of a sample follows from (seed, epoch, index) alone, so that any
    number of loader workers makes the same samples.

    Sensors that are absent or broken are in `Sample.faults`: the dataset reports, its consumer refuses or allows.
    """

    def __init__(
        self,
        reader: LogReader,
        tokens: Sequence[str],
        config: SampleConfig,
        *,
        augmentation: BevAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.reader = reader
        self.tokens = tuple(tokens)
        self.config = config
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample as `epoch` augments it; loader workers may be in two epochs at once."""
        sample = make_sample(self.reader.frame(self.tokens[index]), self.config)
        if self.augmentation is None:
            return sample
        generator = torch.Generator()
        # Odd multipliers spread (seed, epoch, index) over 63 bits: neighbours must not share a stream.
        key = self.seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB
        generator.manual_seed(key % (1 << 63))
        return augment(sample, self.augmentation.draw(generator))
