"""What a corruption is, and where its chance comes from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from datasets.frames import LogFrame

# The frame so many keyframes ago, of the same scene; where the scene has no older one, its first.
Past = Callable[[int], LogFrame]


@runtime_checkable
class Corruption(Protocol):
    """One way to spoil a frame, as a frozen dataclass of its strengths.

    Only what its docstring names is changed. Annotations, the frame's token, time and `global_from_ego` never are: the
    truth that detections are compared with stays the truth, and detections go to global with it. At zero strength the
    frame comes back as it is, the same object.
    """

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """The spoilt frame. All chance follows from the seed and the names of what is changed (`generator_of`)."""
        ...


@dataclass(frozen=True)
class Together:
    """Several corruptions, one after the other: fog in the pictures and in the LiDAR, say.

    An older frame (`past`) is handed to each of them as it was recorded.
    """

    parts: tuple[Corruption, ...]

    def corrupted(self, frame: LogFrame, past: Past, seed: int) -> LogFrame:
        """See `Corruption`."""
        for part in self.parts:
            frame = part.corrupted(frame, past, seed)
        return frame


def generator_of(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on these names alone: not on the order in which frames are read, nor by which process.

    Severities of a corruption share their draws, so that what the weaker one takes the stronger one takes too.
    """
    digest = hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
