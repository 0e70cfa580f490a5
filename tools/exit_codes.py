"""What a command's exit code says. The table for readers: docs/exit-codes.md."""

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The exit codes of every `bevel` command."""

    FINE = 0
    FAILED = 1  # a loader process died, the disk is full, or Bevel has a bug (then there is a traceback)
    USAGE = 2
    INPUT_REFUSED = 3
    DEGRADED = 4  # finished, but with missing sensors, and one asked to be told (--strict, data check)
    DISAGREED = 5  # finished, but figures do not fit: the devkit's (evaluate --official), published ones (verify-nds)
    DIVERGED = 6
    INTERRUPTED = 130


class CommandFailed(Exception):
    """A failure that is not the input's and no bug of Bevel's: one sentence, exit code 1."""


class Interrupted(Exception):
    """The user stopped the command, and it has put its work away: one sentence on how to go on, exit code 130."""


class Diverged(Exception):
    """Training gave numbers that are not finite again and again: one sentence, exit code 6."""


class Degraded(Exception):
    """The command finished with less than it should have had, and one asked to be told: exit code 4.

    `output` is what was written all the same.
    """

    def __init__(self, message: str, output: Path | None) -> None:
        super().__init__(message)
        self.output = output


class Disagreement(Exception):
    """Figures are not those of the reference that one asked to compare with: a line for each, exit code 5.

    `output` is what was written all the same.
    """

    def __init__(self, message: str, output: Path | None) -> None:
        super().__init__(message)
        self.output = output
