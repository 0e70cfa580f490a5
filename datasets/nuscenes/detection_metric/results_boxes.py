"""The boxes of one sample of a results file: as columns, or what is wrong with each of them."""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from datasets.classes import ATTRIBUTES, DETECTION_CLASSES
from datasets.nuscenes.detection_metric.box_findings import (
    POINTS,
    Field,
    PlacedBox,
    box_of,
    flat,
    is_number,
    look_through,
)
from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE

_LABELS = {name: label for label, name in enumerate(DETECTION_CLASSES)}
_ATTRIBUTES = {name: number for number, name in enumerate(ATTRIBUTES)} | {"": -1}
Columns = dict[str, NDArray[Any]]


class _Box(PlacedBox, gc=False, kw_only=True):
    detection_name: str
    detection_score: float
    attribute_name: str


_decoder = msgspec.json.Decoder(list[_Box])


def read_boxes(token: str, content: bytes) -> tuple[Columns, list[str]]:
    """The boxes of a sample as columns: those of DetectedBoxes but for `sample` and `ego_distance`.

    `content`: the JSON list that the file has for the sample `token`. Where something is wrong with it: no boxes, and
    a line for each finding.
    """
    try:
        boxes = _decoder.decode(content)
        columns = _columns(boxes)
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        return _looked_through(token, content)  # slowly; not every file that msgspec does not take is at fault
    if (
        len(boxes) > MAX_BOXES_PER_SAMPLE
        or not {box.sample_token for box in boxes} <= {token}
        or (columns["size"] <= 0).any()
        or not columns["rotation"].any(axis=1).all()
    ):
        return _looked_through(token, content)
    return columns, []


def no_boxes() -> Columns:
    """The columns of a sample where nothing was detected."""
    return _columns([])


def _columns(boxes: Sequence[_Box]) -> Columns:
    def numbered(name: str, numbers: dict[str, int]) -> NDArray[np.int32]:
        return np.fromiter(map(numbers.__getitem__, map(attrgetter(name), boxes)), np.int32, len(boxes))

    return {
        "label": numbered("detection_name", _LABELS),
        "translation": flat(boxes, "translation", 3),
        "size": flat(boxes, "size", 3),
        "rotation": flat(boxes, "rotation", 4),
        "velocity": flat(boxes, "velocity", 2),
        "attribute": numbered("attribute_name", _ATTRIBUTES),
        "score": np.fromiter(map(attrgetter("detection_score"), boxes), np.float64, len(boxes)),
        "num_pts": np.fromiter(map(attrgetter("num_pts"), boxes), np.int64, len(boxes)),
    }


def _are_numbers(value: Any, length: int) -> bool:
    return type(value) is list and len(value) == length and all(map(is_number, value))


def _are_finite(value: Any, length: int) -> bool:
    return _are_numbers(value, length) and all(map(math.isfinite, value))


_FIELDS = (
    Field("translation", lambda value: _are_finite(value, 3), "3 finite numbers"),
    Field("size", lambda value: _are_finite(value, 3) and min(value) > 0, "3 positive numbers (width, length, height)"),
    Field("rotation", lambda value: _are_finite(value, 4) and any(value), "a quaternion [w, x, y, z] that is not 0"),
    Field("velocity", lambda value: _are_numbers(value, 2), "2 numbers, NaN where unknown"),
    Field("detection_name", lambda value: type(value) is str and value in _LABELS, "one of the ten detection classes"),
    Field("detection_score", lambda value: is_number(value) and math.isfinite(value), "a finite number"),
    Field("attribute_name", lambda value: type(value) is str and value in _ATTRIBUTES, "a nuScenes attribute or ''"),
    POINTS,
)


def _looked_through(token: str, content: bytes) -> tuple[Columns, list[str]]:
    records, findings = look_through(token, content, _FIELDS)
    return (no_boxes(), findings) if findings else (_columns([box_of(_Box, record) for record in records]), [])
