"""Sensors that give nothing: dead ones, which one sees, and black pictures, which one does not."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets.augmentation.sensor_dropout import without_channels
from datasets.corruptions.corruption import Past, generator_of
from datasets.corruptions.pictures import with_changed_pictures
from datasets.frames import LogFrame


@dataclass(frozen=True)
class Dropped:
    """These channels are dead: as if they had not been recorded, which the availability mask says."""

    channels: tuple[str, ...]

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        return without_channels(frame, frozenset(self.channels))


@dataclass(frozen=True)
class SomeDropped:
    """`count` of these channels are dead, the same ones for a whole scene, drawn without putting back."""

    channels: tuple[str, ...]
    count: int

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        order = generator_of(seed, "dropped", frame.scene_name, *self.channels).permutation(len(self.channels))
        return without_channels(frame, frozenset(self.channels[place] for place in order[: self.count]))


@dataclass(frozen=True)
class PoseDropped:
    """No past states of the vehicle and no GPS: the pose branch has nothing. Sweeps keep their poses."""

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        return replace(frame, ego_states=())


@dataclass(frozen=True)
class BlackPictures:
    """Each picture by itself is black with this probability, and nobody says so: it counts as available."""

    probability: float

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        black = frozenset(
            channel
            for channel in frame.images
            if generator_of(seed, "black", frame.token, channel).random() < self.probability
        )
        return with_changed_pictures(frame, _blackened, black) if black else frame


def _blackened(channel: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.zeros_like(pixels)
