"""What the check can find, how bad each kind is and what to do about it."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The tables contradict themselves or lead out of the dataset: results would be wrong."""
    LOSS = "loss"
    """A sensor file is missing or broken: this sensor of this frame is absent, and that must be allowed."""
    WARNING = "warning"
    """Worth knowing; nothing is refused for it."""


_META = "unpack the archive of the tables (…_meta.tgz, or v1.0-mini.tgz) again"
_REPAIR = "correct the record, or " + _META
_FETCH = "unpack the archive again that holds the file, or pass --missing-sensors allow"


class Problem(Enum):
    """A kind of finding. The list is closed: a new way to be wrong is a new member."""

    def __init__(self, code: str, severity: Severity, remedy: str) -> None:
        self.code = code
        self.severity = severity
        self.remedy = remedy

    MISSING_TABLE = "missing_table", Severity.ERROR, _META
    NOT_JSON = "not_json", Severity.ERROR, _META
    NO_RECORDS = "no_records", Severity.ERROR, _META
    NO_TOKEN = "no_token", Severity.ERROR, _REPAIR
    MISSING_FIELD = "missing_field", Severity.ERROR, _REPAIR
    NOT_FINITE = "not_finite", Severity.ERROR, _REPAIR
    BAD_VALUE = "bad_value", Severity.ERROR, _REPAIR
    BAD_ROTATION = "bad_rotation", Severity.ERROR, "write a quaternion [w, x, y, z] of length 1"
    BAD_SIZE = "bad_size", Severity.ERROR, "remove the annotation, or give it a positive size"
    BAD_INTRINSIC = "bad_intrinsic", Severity.ERROR, _REPAIR
    BAD_TIME = "bad_time", Severity.ERROR, "write whole microseconds since 1970"
    CONFLICTING_TOKEN = "conflicting_token", Severity.ERROR, "give each record a token of its own"
    DANGLING_TOKEN = "dangling_token", Severity.ERROR, _REPAIR
    BROKEN_CHAIN = "broken_chain", Severity.ERROR, "make prev and next of two neighbours name each other"
    CHAIN_CYCLE = "chain_cycle", Severity.ERROR, "end the chain: its last record's next is the empty text"
    MIXED_CHAIN = "mixed_chain", Severity.ERROR, "end the chain where its scene, sensor or track ends"
    TIME_BACKWARDS = "time_backwards", Severity.ERROR, "order the chain by time; no two records of it have one time"
    DUPLICATE_CHANNEL = "duplicate_channel", Severity.ERROR, "give each sensor a channel of its own"
    DUPLICATE_SCENE = "duplicate_scene", Severity.ERROR, "give each scene a name of its own"
    DUPLICATE_KEYFRAME = "duplicate_keyframe", Severity.ERROR, "keep one keyframe of a channel for each sample"
    NO_KEYFRAME = "no_keyframe", Severity.ERROR, "remove the sample, or add its sample_data"
    WRONG_SCENE = "wrong_scene", Severity.ERROR, "name a sample of this scene"
    LEAVES_ROOT = "leaves_root", Severity.ERROR, "copy the file into the dataroot; nothing outside it is read"

    MISSING_FILE = "missing_file", Severity.LOSS, _FETCH
    UNREADABLE_FILE = "unreadable_file", Severity.LOSS, "give yourself the right to read it (chmod u+r, u+x on folders)"
    EMPTY_FILE = "empty_file", Severity.LOSS, _FETCH
    NOT_A_REGULAR_FILE = "not_a_regular_file", Severity.LOSS, "put the sensor file where this folder or pipe is"
    NOT_AN_IMAGE = "not_an_image", Severity.LOSS, _FETCH
    TRUNCATED = "truncated", Severity.LOSS, _FETCH
    SIZE_MISMATCH = "size_mismatch", Severity.LOSS, "restore the picture in the size that its calibration is for"
    IMPLAUSIBLE = "implausible", Severity.LOSS, _FETCH
    NO_FINITE_POINTS = "no_finite_points", Severity.LOSS, _FETCH
    BAD_HEADER = "bad_header", Severity.LOSS, _FETCH
    HEADER_MISMATCH = "header_mismatch", Severity.LOSS, _FETCH

    NONFINITE_POINTS = "nonfinite_points", Severity.WARNING, "nothing: these points are dropped and counted"
    REPEATED_RECORD = "repeated_record", Severity.WARNING, "nothing: the same record twice counts once"
    # A guess from a name, and names are free: nothing is refused for it.
    WRONG_FOLDER = "wrong_folder", Severity.WARNING, "look at the file: were file name and sensor mixed up?"
    SHARED_FILE = "shared_file", Severity.WARNING, "look at the sensor: did it stand still?"
    WRONG_COUNT = "wrong_count", Severity.WARNING, "nothing: Bevel counts by itself"
    CHAIN_IN_PIECES = "chain_in_pieces", Severity.WARNING, "nothing: what was before a gap is not used after it"
    TIME_GAP = "time_gap", Severity.WARNING, "nothing, if the recording did stop here"
    LATE_SENSOR = "late_sensor", Severity.WARNING, "look at the sensor's clock"
    POSE_JUMP = "pose_jump", Severity.WARNING, "look at the localisation: sweeps around it are moved wrongly"
    HUGE_BOX = "huge_box", Severity.WARNING, "look at the annotation"
    UNKNOWN_CATEGORY = "unknown_category", Severity.WARNING, "nothing: such boxes play no part in detection"
    OPTIONAL_TABLE = "optional_table", Severity.WARNING, "only nuscenes-devkit and map tasks need it: " + _META


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `file` is relative to the dataroot; `token` and `field` are empty where none applies."""

    problem: Problem
    file: str
    token: str
    field: str
    detail: str

    def sentence(self) -> str:
        """`v1.0-mini/sample.json: record 'ab12', field next: ...`, on one line, with nothing a terminal would obey."""
        place = printable(self.file)
        if self.token:
            place += f": record {printable(self.token)!r}"
        if self.field:
            place += f", field {self.field}" if self.token else f": field {self.field}"
        return f"{place}: {printable(self.detail, 300)}"


class Findings:
    """All findings: every one counted, of each kind the first `limit` kept."""

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._counts: Counter[Problem] = Counter()
        self._kept: list[Finding] = []

    def add(self, problem: Problem, file: str, token: str, field: str, detail: str) -> None:
        """Count one finding, and keep it while there are not too many of its kind."""
        self._counts[problem] += 1
        if self._counts[problem] <= self._limit:
            self._kept.append(Finding(problem, file, token, field, detail))

    @property
    def counts(self) -> dict[Problem, int]:
        """How often each kind was found, in the order of `Problem`."""
        return {problem: self._counts[problem] for problem in Problem if self._counts[problem]}

    @property
    def kept(self) -> tuple[Finding, ...]:
        """The findings that are told one by one."""
        return tuple(self._kept)

    def count(self, severity: Severity) -> int:
        """How many findings are this bad."""
        return sum(count for problem, count in self._counts.items() if problem.severity is severity)


def shown(value: Any) -> str:
    """A value as text for a sentence, cut short."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " ..."


def printable(text: str, length: int = 200) -> str:
    """The text without what a terminal would take as a command, or could not print, cut to `length` letters."""
    cut = text if len(text) <= length else text[:length] + " ..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
