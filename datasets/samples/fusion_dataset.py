"""A map-style torch Dataset of Samples: a reader, a list of frames, and how each frame is made into a Sample."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch.utils.data import Dataset

from datasets.augmentation.augmenter import Augmentation, Augmenter
from datasets.reader import LogReader
from datasets.samples.make_sample import SampleConfig, make_sample
from datasets.samples.map_raster import MapTargets
from datasets.samples.sample import Sample


class FusionDataset(Dataset[Sample]):
    """The samples of some frames. The augmentation of a sample follows from (seed, epoch, index, repeat) alone, so that
    any number of loader workers makes the same samples. `maps` puts the map into each. `earlier_frames`: how many of
    the frames before come with each (`Sample.previous`), whether they are among `tokens` or not. They are augmented as
    the sample is: its turn of the world, its change of each camera's picture, the sensors it lost; nothing is pasted
    into them.

    Sensors that are absent or broken are in `Sample.faults`: the dataset reports, its consumer refuses or allows.
    Raises InputRefused where the database of objects to paste cannot be used (`ObjectPaster`).
    """

    def __init__(
        self,
        reader: LogReader,
        tokens: Sequence[str],
        config: SampleConfig,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        maps: MapTargets | None = None,
        earlier_frames: int = 0,
    ) -> None:
        if earlier_frames and augmentation is not None and augmentation.paste is not None:
            raise ValueError("objects are pasted into single frames: not into frames that come with earlier ones")
        self.reader = reader
        self.tokens = tuple(tokens)
        self.config = config
        self.seed = seed
        self._maps = maps
        self._earlier_frames = earlier_frames
        self._augmenter = None if augmentation is None else Augmenter(augmentation, config)

    def with_maps(self, maps: MapTargets) -> "FusionDataset":
        """The same samples, each with the map."""
        dataset = copy(self)
        dataset._maps = maps
        return dataset

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int, repeat: int = 0) -> Sample:
        """The sample as `epoch` augments it; loader workers may be in two epochs at once.

        `repeat` counts how often the epoch had the sample before: each time it is augmented in another way.
        """
        sample = self._sensed(index, epoch, repeat)
        return sample if self._maps is None else self._maps(sample)

    def _sensed(self, index: int, epoch: int, repeat: int) -> Sample:
        token = self.tokens[index]
        frame = self.reader.frame(token)
        tokens = self.reader.earlier_tokens(token, self._earlier_frames) if self._earlier_frames else ()
        earlier = [self.reader.frame(token) for token in tokens]
        if self._augmenter is None:
            return clip([make_sample(each, self.config) for each in (frame, *earlier)])
        generator = torch.Generator()
        # Odd multipliers spread (seed, epoch, index, repeat) over 63 bits: neighbours must not share a stream.
        key = self.seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB
        generator.manual_seed((key + repeat * 0xD6E8FEB86659FD93) % (1 << 63))
        drawn = self._augmenter.draw(frame, generator, epoch)
        return clip([self._augmenter.sample(each, drawn) for each in (frame, *earlier)])


def clip(samples: Sequence[Sample]) -> Sample:
    """A sample with the frames before it, from all of them, newest first."""
    return replace(samples[0], previous=tuple(samples[1:])) if len(samples) > 1 else samples[0]
