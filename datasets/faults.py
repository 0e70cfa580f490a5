"""What can be wrong with the input, and how it is said.

Two kinds. Tables, folders and arguments that contradict themselves are refused before any compute: `InputRefused`,
one sentence, exit code 3. A sensor file that is absent or broken is a `SensorFault`: data about one sensor of one
frame, which training and evaluation refuse unless told `--missing-sensors allow`, and replay reports and survives.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class InputRefused(Exception):
    """Bad input, told to the user in one sentence: which file, which field, what was expected, what to do."""


class FaultReason(Enum):
    """Why a sensor of a frame cannot be used. The list is closed: a new way to fail is a new member."""

    NOT_RECORDED = "not_recorded"  # the dataset has no such sensor at this frame: no fault of a file
    MISSING_FILE = "missing_file"
    EMPTY_FILE = "empty_file"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    SIZE_MISMATCH = "size_mismatch"
    IMPLAUSIBLE = "implausible"
    NO_FINITE_POINTS = "no_finite_points"
    NONFINITE_POINTS = "nonfinite_points"  # these points are dropped, the sensor stays: told and counted, not refused
    BAD_HEADER = "bad_header"
    HEADER_MISMATCH = "header_mismatch"


@dataclass(frozen=True)
class SensorFault:
    """One sensor of one frame that is absent or impaired. `detail` is a sentence that names the file and the field."""

    channel: str
    reason: FaultReason
    detail: str


class SensorFileError(Exception):
    """Raised while one sensor file is read; the reader turns it into a SensorFault of its channel."""

    def __init__(self, reason: FaultReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def costs_data(reason: FaultReason) -> bool:
    """False for a sensor that was never recorded, and for points that carried no position anyhow."""
    return reason not in (FaultReason.NOT_RECORDED, FaultReason.NONFINITE_POINTS)


def refuse_faults(faults: Iterable[SensorFault]) -> None:
    """Raise InputRefused for the first fault that costs data which the tables promise (`costs_data`)."""
    for fault in faults:
        if costs_data(fault.reason):
            raise InputRefused(
                f"{fault.detail} ({fault.channel}: {fault.reason.value}). "
                "Restore the file, or pass --missing-sensors allow to treat the sensor as unavailable."
            )
