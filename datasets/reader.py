"""What a source of recorded frames has to do: another dataset is such a class (datasets/dgp/).

Samples, training, prediction and pictures need nothing else. A LogFrame says the rest by itself: which channels there
are (names as nuScenes has them, since a network's views are in that order), cameras of any size, sweeps in the frame
of their sensor (a LiDAR's merged ones in ego, where a reader is told to merge them), and a fault for each of the twelve
channels that is not there. Two things are nuScenes' own and go by its tables: replay in recorded order
(datasets/nuscenes/recording.py) and the official metric.
"""

from typing import Protocol, runtime_checkable

from datasets.frames import Annotations, LogFrame


@runtime_checkable
class LogReader(Protocol):
    """Frames by token. Reading a frame never fails for a broken sensor file: the frame's `faults` tell of it.

    A reader is handed to the loader's worker processes: it holds no open file.
    """

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The tokens of a split's frames, in recorded order log by log. Raises InputRefused for an unknown split."""
        ...

    def frame(self, token: str) -> LogFrame:
        """One frame with everything that was recorded for it."""
        ...

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        """The tokens of up to `count` frames right before a frame, newest first, of the same log."""
        ...

    def annotations(self, token: str) -> Annotations | None:
        """The annotations of a frame, without reading a sensor file; None where it has none at all."""
        ...
