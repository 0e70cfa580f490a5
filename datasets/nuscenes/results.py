"""The nuScenes detection results file: written from boxes, read back into boxes.

Format: https://www.nuscenes.org/object-detection (a JSON object with `meta` and, by sample token, `results`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.atomic_file import write_atomically
from datasets.boxes import Boxes3D
from datasets.classes import ATTRIBUTES, ATTRIBUTES_OF_CLASS, DETECTION_CLASSES
from datasets.faults import InputRefused
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.values import NAME, QUATERNION, SCORE, SIZE, VECTOR, VELOCITY, Kind, read_json, refuse_value

MAX_BOXES_PER_SAMPLE = 500

# Faster than this (m/s) counts as moving where no attribute was predicted.
_MOVING_SPEED = 0.5
_BOX_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("sample_token", NAME),
    ("translation", VECTOR),
    ("size", SIZE),
    ("rotation", QUATERNION),
    ("velocity", VELOCITY),
    ("detection_name", Kind(lambda value: value in DETECTION_CLASSES, "one of the ten detection classes")),
    ("detection_score", SCORE),
    ("attribute_name", Kind(lambda value: value == "" or value in ATTRIBUTES, "a nuScenes attribute or ''")),
)


def write_results(path: Path, boxes_global: Mapping[str, Boxes3D], modalities: Sequence[str]) -> None:
    """Write the results of every sample token of a split, with no boxes for those where nothing was detected.

    `modalities`: what the detector used ("camera", "lidar", "radar"; others, as "pose", have no flag in the format).
    Of more than 500 boxes of a sample the best scores are kept. An unknown velocity (NaN) is written as 0. A class
    with attributes whose box has none (-1), or one of another class, gets one by its speed: above 0.5 m/s
    vehicle.moving, cycle.with_rider, pedestrian.moving; otherwise vehicle.parked, cycle.without_rider,
    pedestrian.standing.
    Raises ValueError, naming the sample, for boxes with numbers that are not finite or sizes that are not positive.
    """
    meta = {f"use_{sensor}": sensor in modalities for sensor in ("camera", "lidar", "radar")}
    meta |= {"use_map": False, "use_external": False}
    results = {token: _sample_records(token, boxes) for token, boxes in boxes_global.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"meta": meta, "results": results}).encode())


def read_results(path: Path) -> dict[str, Boxes3D]:
    """The boxes (global, float64) of a results file, by sample token.

    Raises InputRefused for a file that is not in the format, naming sample token and field.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not isinstance(content.get("meta"), dict):
        raise InputRefused(f"{path}: expected an object with the fields meta and results (nuScenes detection results).")
    return {token: _read_sample(path, token, records) for token, records in results.items()}


def _sample_records(token: str, boxes: Boxes3D) -> list[dict[str, Any]]:
    numbers = torch.cat([boxes.centers, boxes.sizes_wlh, boxes.yaws[:, None], boxes.scores[:, None]], dim=1)
    if not bool(numbers.isfinite().all()) or not bool((boxes.sizes_wlh > 0).all()):
        raise ValueError(f"sample {token}: boxes must have finite numbers and positive sizes to be written as results")
    best = torch.argsort(boxes.scores, descending=True, stable=True)[:MAX_BOXES_PER_SAMPLE]
    boxes = boxes[best]
    velocities = boxes.velocities.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).double().tolist()
    columns = zip(
        boxes.centers.double().tolist(),
        boxes.sizes_wlh.double().tolist(),
        boxes.yaws.double().tolist(),
        velocities,
        boxes.labels.tolist(),
        boxes.scores.double().tolist(),
        boxes.attributes.tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": token,
            "translation": center,
            "size": size,
            "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
            "velocity": velocity,
            "detection_name": DETECTION_CLASSES[label],
            "detection_score": score,
            "attribute_name": _attribute_name(label, attribute, math.hypot(*velocity)),
        }
        for center, size, yaw, velocity, label, score, attribute in columns
    ]


def _attribute_name(label: int, attribute: int, speed: float) -> str:
    """The attribute's name; where the box has none that its class can have, one by its speed; '' for some classes."""
    choices = ATTRIBUTES_OF_CLASS[label]
    if not choices:
        return ""
    if attribute in choices:
        return ATTRIBUTES[attribute]
    moving, resting = _BY_SPEED[ATTRIBUTES[choices[0]].partition(".")[0]]
    return moving if speed > _MOVING_SPEED else resting


_BY_SPEED = {
    "vehicle": ("vehicle.moving", "vehicle.parked"),
    "cycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
}


def _read_sample(path: Path, token: str, records: Any) -> Boxes3D:
    if not isinstance(records, list):
        raise InputRefused(f"{path}: sample {token!r}: expected a list of boxes, found {type(records).__name__}.")
    if len(records) > MAX_BOXES_PER_SAMPLE:
        expected = f"at most {MAX_BOXES_PER_SAMPLE} boxes a sample"
        raise InputRefused(f"{path}: sample {token!r}: expected {expected}, found {len(records)}.")
    for record in records:
        if not isinstance(record, dict):
            raise InputRefused(f"{path}: sample {token!r}: expected boxes as objects, found {type(record).__name__}.")
        for name, kind in _BOX_FIELDS:
            if not kind.accepts(record.get(name)):
                refuse_value(path, token, name, kind.expected, record.get(name))
        if record["sample_token"] != token:
            refuse_value(path, token, "sample_token", "the token that the box is filed under", record["sample_token"])

    def floats(name: str, width: int) -> torch.Tensor:
        return torch.tensor([record[name] for record in records], dtype=torch.float64).reshape(-1, width)

    attributes = [ATTRIBUTES.index(name) if (name := record["attribute_name"]) else -1 for record in records]
    return Boxes3D(
        centers=floats("translation", 3),
        sizes_wlh=floats("size", 3),
        yaws=torch.tensor([yaw_of_quaternion(record["rotation"]) for record in records], dtype=torch.float64),
        velocities=floats("velocity", 2),
        labels=torch.tensor(
            [DETECTION_CLASSES.index(record["detection_name"]) for record in records], dtype=torch.int64
        ),
        scores=floats("detection_score", 1)[:, 0],
        attributes=torch.tensor(attributes, dtype=torch.int64),
    )
