"""What is wrong with the boxes of one sample of a results file, of detection or of tracking: all of it, by name."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE


@dataclass(frozen=True)
class Field:
    """What a field of a box may hold, what is said of one that holds something else, and whether it may be missing."""

    name: str
    accepts: Callable[[Any], bool]
    expected: str
    optional: bool = False


def is_number(value: Any) -> bool:
    """A number of JSON that a float can hold; NaN among them, infinity not."""
    try:
        return type(value) in (int, float) and not math.isinf(float(value))
    except OverflowError:
        return False


NO_POINTS_KNOWN = -1
POINTS = Field(
    "num_pts", lambda value: is_number(value) and -(2**62) < value < 2**62, "a number of points", optional=True
)
"""Which no results need to have; the devkit counts no box with 0 in it, and takes -1 where it is missing."""


class PlacedBox(msgspec.Struct, gc=False, kw_only=True):
    """The fields that a box of either format has. (Reads a file fast; what it refuses, `look_through` names.)"""

    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    num_pts: int = NO_POINTS_KNOWN


AnyBox = TypeVar("AnyBox", bound=PlacedBox)


def box_of(kind: type[AnyBox], record: dict[str, Any]) -> AnyBox:
    """The box that an object of a file without findings is."""
    fields = {name: value for name, value in record.items() if name in kind.__struct_fields__}
    return kind(**fields | {"num_pts": int(record.get("num_pts", NO_POINTS_KNOWN))})


def flat(boxes: Sequence[PlacedBox], name: str, width: int) -> NDArray[np.float64]:
    """One of the boxes' fields that are `width` numbers: a row for each box."""
    return np.fromiter(chain.from_iterable(map(attrgetter(name), boxes)), np.float64).reshape(-1, width)


def look_through(token: str, content: bytes, fields: Sequence[Field]) -> tuple[list[Any], list[str]]:
    """The boxes of the sample `token` as they stand in the file, whose JSON of them is `content`, and a line for each
    finding. Without findings they are objects with these fields; others may hold anything.
    """
    try:
        records = json.loads(content)
    except RecursionError:
        return [], [f"sample {token!r:.80}: nested too deeply"]
    except ValueError as error:
        return [], [f"sample {token!r:.80}: not valid JSON: {error}"]
    if type(records) is not list:
        return [], [f"sample {token!r:.80}: expected a list of boxes, found {type(records).__name__}"]
    findings = []
    if len(records) > MAX_BOXES_PER_SAMPLE:
        most = f"at most {MAX_BOXES_PER_SAMPLE} boxes a sample"
        findings.append(f"sample {token!r:.80}: expected {most}, found {len(records)}")
    for number, record in enumerate(records):
        findings += [f"sample {token!r:.80}, box {number}{finding}" for finding in _findings(token, record, fields)]
    return records, findings


def _findings(token: str, record: Any, fields: Sequence[Field]) -> list[str]:
    if type(record) is not dict:
        return [f": expected an object, found {type(record).__name__}"]
    owner = Field("sample_token", lambda value: value == token, "the token that the box is filed under")
    return [
        f", field {field.name}: expected {field.expected}, {_shown(record, field.name)}"
        for field in (owner, *fields)
        if not field.accepts(record.get(field.name)) and not (field.optional and field.name not in record)
    ]


def _shown(record: dict[str, Any], name: str) -> str:
    if name not in record:
        return "which is missing"
    shown = repr(record[name])
    return f"found {shown if len(shown) <= 100 else shown[:100] + ' ...'}"
