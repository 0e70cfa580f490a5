"""The boxes of one sample of a tracking results file: as tracks, or what is wrong with each of them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES, TRACKING_CLASSES
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.detection_metric.box_findings import POINTS, Field, PlacedBox, box_of, flat, look_through
from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE
from datasets.nuscenes.values import (
    LARGEST_SUM,
    NAME,
    QUATERNION,
    QUATERNION_TOLERANCE,
    SCORE,
    SIZE,
    VECTOR,
    Kind,
    is_vector,
)
from datasets.tracks import Tracks

_LABELS = {name: DETECTION_CLASSES.index(name) for name in TRACKING_CLASSES}
_VECTORS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}


class _Box(PlacedBox, gc=False, kw_only=True):
    tracking_id: str | int
    tracking_name: str
    tracking_score: float


_decoder = msgspec.json.Decoder(list[_Box])


def read_tracks(token: str, content: bytes) -> tuple[Tracks, list[str]]:
    """The tracks (global, float64) of a sample, without the boxes whose `num_pts` is 0: they count for no one.

    `content`: the JSON list that the file has for the sample `token`. Where something is wrong with it: no tracks, and
    a line for each finding.
    """
    try:
        boxes = _decoder.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _looked_through(token, content)  # slowly; not every file that msgspec does not take is at fault
    if not _is_sound(token, boxes):
        return _looked_through(token, content)
    return _tracks(boxes), []


def _is_sound(token: str, boxes: Sequence[_Box]) -> bool:
    """Whether nothing is wrong with the boxes; False as well where only `_looked_through` can tell."""
    vectors = {name: flat(boxes, name, width) for name, width in _VECTORS.items()}
    lengths = np.linalg.norm(vectors["rotation"], axis=1)
    return bool(
        len(boxes) <= MAX_BOXES_PER_SAMPLE
        and all(box.sample_token == token and box.tracking_name in _LABELS for box in boxes)
        and all(box.tracking_id != "" and abs(box.tracking_score) < LARGEST_SUM for box in boxes)
        and len({(box.tracking_name, str(box.tracking_id)) for box in boxes}) == len(boxes)
        and all((np.abs(vector).sum(axis=1) < LARGEST_SUM).all() for vector in vectors.values())
        and (vectors["size"] > 0).all()
        and (np.abs(lengths - 1.0) <= 0.999 * QUATERNION_TOLERANCE).all()
    )


def _tracks(boxes: Sequence[_Box]) -> Tracks:
    counted = [box for box in boxes if box.num_pts != 0]
    placed = Boxes3D(
        centers=torch.from_numpy(flat(counted, "translation", 3)),
        sizes_wlh=torch.from_numpy(flat(counted, "size", 3)),
        yaws=torch.tensor([yaw_of_quaternion(list(box.rotation)) for box in counted], dtype=torch.float64),
        velocities=torch.from_numpy(flat(counted, "velocity", 2)),
        labels=torch.tensor([_LABELS[box.tracking_name] for box in counted], dtype=torch.int64),
        scores=torch.tensor([box.tracking_score for box in counted], dtype=torch.float64),
        attributes=torch.full((len(counted),), -1),
    )
    return Tracks(placed, tuple(str(box.tracking_id) for box in counted))


def _is_track_name(value: Any) -> bool:
    return NAME.accepts(value) or type(value) is int


def _field(name: str, kind: Kind) -> Field:
    return Field(name, kind.accepts, kind.expected)


_FIELDS = (
    _field("translation", VECTOR),
    _field("size", SIZE),
    _field("rotation", QUATERNION),
    Field("velocity", lambda value: is_vector(value, 2), "2 finite numbers"),
    Field("tracking_id", _is_track_name, "text that is not empty, or a whole number"),
    Field("tracking_name", lambda value: type(value) is str and value in _LABELS, "one of the seven tracking classes"),
    _field("tracking_score", SCORE),
    POINTS,
)


def _looked_through(token: str, content: bytes) -> tuple[Tracks, list[str]]:
    records, findings = look_through(token, content, _FIELDS)
    findings += _doubled(token, records)
    return _tracks([] if findings else [box_of(_Box, record) for record in records]), findings


def _doubled(token: str, records: Sequence[Any]) -> list[str]:
    """A line for each box whose track another one before it has."""
    findings = []
    seen: set[tuple[str, str]] = set()
    for number, record in enumerate(records):
        if type(record) is not dict or not _is_track_name(record.get("tracking_id")):
            continue
        # Some systems number the tracks of each class from 1; the devkit takes that, too.
        name = (str(record.get("tracking_name")), str(record["tracking_id"]))
        if name in seen:
            found = f"expected each track of a class at most once in a sample, found {name[1]!r:.100}"
            findings.append(f"sample {token!r:.80}, box {number}, field tracking_id: {found}")
        seen.add(name)
    return findings
