"""A reader whose frames are spoilt on the way: prediction and evaluation work with it as with any other."""

from collections.abc import Sequence

from datasets.corruptions.corruption import Corruption
from datasets.frames import Annotations, LogFrame
from datasets.reader import LogReader


class CorruptedReader:
    """The frames of another reader with a corruption; a LogReader itself. Annotations are those of the other reader.

    That one must give sweeps as they were recorded: what is merged cannot be spoilt (ValueError).
    `recorded`: tokens in the order of the recording, scene by scene, as `frame_tokens` gives them. Where a corruption
    shows data of an older frame, it is looked up there, and never in another scene.
    """

    def __init__(self, reader: LogReader, corruption: Corruption, recorded: Sequence[str], seed: int = 0) -> None:
        self._reader = reader
        self._corruption = corruption
        self._recorded = tuple(recorded)
        self._places = {token: place for place, token in enumerate(self._recorded)}
        self._seed = seed

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """As the other reader. Raises InputRefused for an unknown split."""
        return self._reader.frame_tokens(split)

    def frame(self, token: str) -> LogFrame:
        """The spoilt frame. Raises as the other reader does, and KeyError for a token that is not in `recorded`."""
        place = self._places[token]
        frame = self._raw(token)

        def past(keyframes: int) -> LogFrame:
            for first in range(max(place - keyframes, 0), place):
                earlier = self._raw(self._recorded[first])
                if earlier.scene_name == frame.scene_name:
                    return earlier
            return frame

        return self._corruption.corrupted(frame, past, self._seed)

    def _raw(self, token: str) -> LogFrame:
        frame = self._reader.frame(token)
        frame.refuse_merged_lidar()
        return frame

    def earlier_tokens(self, token: str, count: int) -> tuple[str, ...]:
        """As the other reader. Raises KeyError for a token that is not there."""
        return self._reader.earlier_tokens(token, count)

    def annotations(self, token: str) -> Annotations | None:
        """As the other reader: nothing is spoilt."""
        return self._reader.annotations(token)
