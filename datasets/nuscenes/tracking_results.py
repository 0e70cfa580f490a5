"""The nuScenes tracking results file: written from tracks, read back into tracks.

Format: https://www.nuscenes.org/tracking (a JSON object with `meta` and, by sample token, `results`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.classes import DETECTION_CLASSES, TRACKING_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE
from datasets.nuscenes.values import NAME, QUATERNION, SCORE, SIZE, VECTOR, Kind, is_vector, read_json, refuse_value
from datasets.tracks import Tracks


def _is_track_name(value: Any) -> bool:
    # Some systems number their tracks; the devkit takes that, too.
    return NAME.accepts(value) or type(value) is int


_BOX_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("sample_token", NAME),
    ("translation", VECTOR),
    ("size", SIZE),
    ("rotation", QUATERNION),
    ("velocity", Kind(lambda value: is_vector(value, 2), "2 finite numbers")),
    ("tracking_id", Kind(_is_track_name, "text that is not empty, or a whole number")),
    ("tracking_name", Kind(lambda value: value in TRACKING_CLASSES, "one of the seven tracking classes")),
    ("tracking_score", SCORE),
)


def write_tracking_results(path: Path, tracks_global: Mapping[str, Tracks], modalities: Sequence[str]) -> None:
    """Write the tracks of every sample token of a split, with no boxes for those where nothing was tracked.

    `modalities`: what the detector used ("camera", "lidar", "radar"; others have no flag in the format). Of more than
    500 boxes of a sample the best scores are kept. An unknown velocity (NaN) is written as 0.
    Raises ValueError, naming the sample, for numbers that are not finite, sizes that are not positive, a class that
    is not tracked, or a track that is in a sample twice.
    """
    meta = {f"use_{sensor}": sensor in modalities for sensor in ("camera", "lidar", "radar")}
    meta |= {"use_map": False, "use_external": False}
    results = {token: _sample_records(token, tracks) for token, tracks in tracks_global.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"meta": meta, "results": results}).encode())


def read_tracking_results(path: Path) -> dict[str, Tracks]:
    """The tracks (global, float64) of a results file, by sample token.

    Raises InputRefused for a file that is not in the format, naming sample token and field.
    """
    return tracks_of_results(path, read_json(path))


def tracks_of_results(path: Path, content: Any) -> dict[str, Tracks]:
    """As `read_tracking_results`, of what stands in the file `path`."""
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not isinstance(content.get("meta"), dict):
        raise InputRefused(f"{path}: expected an object with the fields meta and results (nuScenes tracking results).")
    return {token: _read_sample(path, token, records) for token, records in results.items()}


def holds_tracks(path: Path) -> bool:
    """Whether a results file is of tracking: its first box has a tracking_id.

    False for one without any box, which is of detection as well. Raises InputRefused for a file that is not JSON.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    samples = results.values() if isinstance(results, dict) else ()
    first = next((records[0] for records in samples if isinstance(records, list) and records), None)
    return isinstance(first, dict) and "tracking_id" in first


def modalities_of_results(path: Path) -> tuple[str, ...]:
    """What the detector used, as `meta` of a results file (of either task) has it: camera, lidar, radar."""
    content = read_json(path)
    meta = content.get("meta") if isinstance(content, dict) else None
    flags = meta if isinstance(meta, dict) else {}
    return tuple(sensor for sensor in ("camera", "lidar", "radar") if flags.get(f"use_{sensor}") is True)


def _sample_records(token: str, tracks: Tracks) -> list[dict[str, Any]]:
    boxes = tracks.boxes
    numbers = torch.cat([boxes.centers, boxes.sizes_wlh, boxes.yaws[:, None], boxes.scores[:, None]], dim=1)
    if not bool(numbers.isfinite().all()) or not bool((boxes.sizes_wlh > 0).all()):
        raise ValueError(f"sample {token}: boxes must have finite numbers and positive sizes to be written as results")
    if len(set(tracks.ids)) < len(tracks):
        raise ValueError(f"sample {token}: a track can have one box only")
    names = [DETECTION_CLASSES[label] for label in boxes.labels.tolist()]
    if not set(names) <= set(TRACKING_CLASSES):
        raise ValueError(f"sample {token}: the classes that are tracked are {', '.join(TRACKING_CLASSES)}")
    best = torch.argsort(boxes.scores, descending=True, stable=True)[:MAX_BOXES_PER_SAMPLE].tolist()
    centers, sizes = boxes.centers.double().tolist(), boxes.sizes_wlh.double().tolist()
    yaws, scores = boxes.yaws.double().tolist(), boxes.scores.double().tolist()
    velocities = boxes.velocities.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).double().tolist()
    return [
        {
            "sample_token": token,
            "translation": centers[row],
            "size": sizes[row],
            "rotation": [math.cos(yaws[row] / 2), 0.0, 0.0, math.sin(yaws[row] / 2)],
            "velocity": velocities[row],
            "tracking_id": tracks.ids[row],
            "tracking_name": names[row],
            "tracking_score": scores[row],
        }
        for row in best
    ]


def _read_sample(path: Path, token: str, records: Any) -> Tracks:
    if not isinstance(records, list):
        raise InputRefused(f"{path}: sample {token!r}: expected a list of boxes, found {type(records).__name__}.")
    if len(records) > MAX_BOXES_PER_SAMPLE:
        expected = f"at most {MAX_BOXES_PER_SAMPLE} boxes a sample"
        raise InputRefused(f"{path}: sample {token!r}: expected {expected}, found {len(records)}.")
    seen: set[tuple[str, str]] = set()
    for record in records:
        _check_box(path, token, record)
        # Some systems number the tracks of each class from 1; the devkit takes that, too.
        track = (record["tracking_name"], str(record["tracking_id"]))
        if track in seen:
            refuse_value(path, token, "tracking_id", "each track of a class at most once in a sample", track[1])
        seen.add(track)

    def floats(name: str, width: int) -> torch.Tensor:
        return torch.tensor([record[name] for record in records], dtype=torch.float64).reshape(-1, width)

    boxes = Boxes3D(
        centers=floats("translation", 3),
        sizes_wlh=floats("size", 3),
        yaws=torch.tensor([yaw_of_quaternion(record["rotation"]) for record in records], dtype=torch.float64),
        velocities=floats("velocity", 2),
        labels=torch.tensor([DETECTION_CLASSES.index(record["tracking_name"]) for record in records]).long(),
        scores=floats("tracking_score", 1)[:, 0],
        attributes=torch.full((len(records),), -1),
    )
    return Tracks(boxes, tuple(str(record["tracking_id"]) for record in records))


def _check_box(path: Path, token: str, record: Any) -> None:
    if not isinstance(record, dict):
        raise InputRefused(f"{path}: sample {token!r}: expected boxes as objects, found {type(record).__name__}.")
    for name, kind in _BOX_FIELDS:
        if not kind.accepts(record.get(name)):
            refuse_value(path, token, name, kind.expected, record.get(name))
    if record["sample_token"] != token:
        refuse_value(path, token, "sample_token", "the token that the box is filed under", record["sample_token"])
