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
from datasets.nuscenes.annotations import yaw_of_quaternion
from datasets.nuscenes.detection_metric.configuration import MAX_BOXES_PER_SAMPLE
from datasets.nuscenes.detection_metric.results_boxes import Columns, read_boxes
from datasets.nuscenes.detection_metric.results_file import Findings, ResultsFile

# Faster than this (m/s) counts as moving where no attribute was predicted.
_MOVING_SPEED = 0.5


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

    Raises InputRefused for a file that is not in the format, with every finding.
    """
    findings = Findings(path)
    boxes = {}
    for token, content in ResultsFile(path, findings):
        columns, problems = read_boxes(token, content)
        findings.add(*problems)
        boxes[token] = _boxes(columns)
    findings.refuse("the results")
    return boxes


def _boxes(columns: Columns) -> Boxes3D:
    return Boxes3D(
        centers=torch.from_numpy(columns["translation"]),
        sizes_wlh=torch.from_numpy(columns["size"]),
        yaws=torch.tensor(list(map(yaw_of_quaternion, columns["rotation"].tolist())), dtype=torch.float64),
        velocities=torch.from_numpy(columns["velocity"]),
        labels=torch.from_numpy(columns["label"]).long(),
        scores=torch.from_numpy(columns["score"]),
        attributes=torch.from_numpy(columns["attribute"]).long(),
    )


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
