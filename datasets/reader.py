"""What every source of recorded frames can do."""

from typing import Protocol, runtime_checkable

from datasets.frames import LogFrame


@runtime_checkable
class LogReader(Protocol):
    """Frames by token. Reading a frame never fails for a broken sensor file: the frame's `faults` tell of it."""

    def frame_tokens(self, split: str) -> tuple[str, ...]:
        """The tokens of a split's frames, in recorded order log by log. Raises InputRefused for an unknown split."""
        ...

    def frame(self, token: str) -> LogFrame:
        """One frame with everything that was recorded for it."""
        ...
